"""One file a stage; the only layer that imports Ray."""
