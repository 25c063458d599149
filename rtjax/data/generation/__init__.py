"""Generation of datasets: recording, TFDS builders and command line, shared by the scripts under data/."""
