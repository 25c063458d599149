"""Images with texts: sources, batches, checks."""
