"""Instruction encoders, tokenizers and prompts."""
