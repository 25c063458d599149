"""Evaluation of policies: closed loop, recorded episodes, questions about images."""
