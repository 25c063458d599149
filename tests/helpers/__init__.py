"""What several tests share: tiny networks, fabricated datasets, golden arrays, processes to start."""
