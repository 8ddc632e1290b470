"""The package as others get it: what is in it, and what it does with each extra alone."""
