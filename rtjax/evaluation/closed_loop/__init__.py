"""Closed-loop evaluation: agents act in an environment; success rates and their report."""
