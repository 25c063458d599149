"""RLDS episodes: datasets, adapters, statistics, batches of windows."""
