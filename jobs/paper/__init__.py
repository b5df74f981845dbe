"""Studies: what the method and its rivals give on the same frozen features, and why. No Ray; labels only judge."""
