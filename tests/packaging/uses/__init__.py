"""What each extra is for: a program each, run with that extra and nothing else installed."""
