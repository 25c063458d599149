"""Evaluation of vision-language models on questions about images."""
