"""Export to other runtimes: `python -m rtjax.export CHECKPOINT --to FORMAT`; see docs/guides/export.md."""
