"""Several servers and workers on one pair of stores, some of which are killed. See README.md."""
