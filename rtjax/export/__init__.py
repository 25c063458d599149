"""Policies for other runtimes: `python -m rtjax.export CHECKPOINT --to FORMAT`. See docs/export.md."""
