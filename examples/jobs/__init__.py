"""Metering outside of a request: jobs that a request leaves behind. See README.md."""
