"""Simulated arm at a table: physics, renderers, tasks, splits and experts."""
