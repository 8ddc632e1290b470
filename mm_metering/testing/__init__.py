"""What hosts and third parties test with: the contracts of the stores, as pytest classes."""
