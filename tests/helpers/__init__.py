"""Tiny networks, fabricated datasets, golden arrays and processes, shared by tests."""
