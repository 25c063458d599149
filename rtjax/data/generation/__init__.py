"""Generation of datasets in simulators, for the scripts under data/."""
