"""Replay of recorded episodes: accuracy of single actions and its report."""
