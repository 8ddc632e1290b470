"""What hosts and third parties test with: a clock that stands still, ``assert_conserved``, ``run_scenario``, and the
contracts of counters, ledgers, billing adapters and usage reporters as pytest classes."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mm_metering.clock import FrozenClock
from mm_metering.testing.conserved import assert_conserved
from mm_metering.testing.scenario import run_scenario

if TYPE_CHECKING:
    from mm_metering.testing.billing_contract import BillingAdapterContract
    from mm_metering.testing.counters_contract import CountersContract
    from mm_metering.testing.ledger_contract import LedgerContract
    from mm_metering.testing.usage_reporter_contract import UsageReporterContract

_NEED_PYTEST = {
    "BillingAdapterContract": "billing_contract",
    "CountersContract": "counters_contract",
    "LedgerContract": "ledger_contract",
    "UsageReporterContract": "usage_reporter_contract",
}

__all__ = [
    "BillingAdapterContract",
    "CountersContract",
    "FrozenClock",
    "LedgerContract",
    "UsageReporterContract",
    "assert_conserved",
    "run_scenario",
]


def __getattr__(name: str) -> Any:
    """The contracts import pytest, so they are imported at first use."""
    if name in _NEED_PYTEST:
        return getattr(import_module(f"mm_metering.testing.{_NEED_PYTEST[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
