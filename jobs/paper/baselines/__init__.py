"""The rivals on frozen features, each a function that makes a `Fit`; every file states its source."""
