"""Answers of vision-language models about held-out images."""
