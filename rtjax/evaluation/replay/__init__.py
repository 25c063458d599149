"""Replay of recorded episodes: accuracy of single actions, a report."""
