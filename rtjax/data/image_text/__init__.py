"""Image-text pairs: sources, streams of batches, and a check of a source."""
