"""LeRobot datasets: their description, episodes, and a writer."""
