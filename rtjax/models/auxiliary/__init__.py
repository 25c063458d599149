"""Additions to the papers for small networks trained from scratch; off in the papers' presets."""
