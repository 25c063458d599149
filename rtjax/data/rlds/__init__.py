"""RLDS episodes: datasets, adapters, statistics, and streams of windows."""
