"""Closed-loop evaluation: episodes in an environment, success rates, a report."""
