"""What hosts and third parties test with: ``assert_conserved``, and the contracts of the stores as pytest classes."""

from mm_metering.testing.conserved import assert_conserved

__all__ = ["assert_conserved"]
