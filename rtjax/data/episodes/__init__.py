"""Datasets of episodes of any kind: opened by name, statistics, streams."""
