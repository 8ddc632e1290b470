"""What hosts and third parties test with: ``assert_conserved``, ``run_scenario``, and the contracts of the stores as
pytest classes."""

from mm_metering.testing.conserved import assert_conserved
from mm_metering.testing.scenario import run_scenario

__all__ = ["assert_conserved", "run_scenario"]
