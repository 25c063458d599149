"""Command-line helpers, the C allocator, and compiler options."""
