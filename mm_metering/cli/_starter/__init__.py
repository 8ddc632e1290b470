"""What ``mm-metering init`` writes, as it is."""
