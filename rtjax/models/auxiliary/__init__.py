"""Additions to the papers, for small networks trained from scratch."""
