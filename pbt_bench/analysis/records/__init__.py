"""Records of runs as one data frame, and published numbers as another."""
