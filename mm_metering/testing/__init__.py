"""What hosts and third parties test with: a clock that stands still, ``assert_conserved``, ``run_scenario``, fakes of a
payment provider, a model server and a webhook endpoint, and the contracts of counters, ledgers, billing adapters and
usage reporters as pytest classes. ``plugin`` has them as pytest fixtures."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mm_metering.clock import FrozenClock
    from mm_metering.testing.billing_contract import BillingAdapterContract
    from mm_metering.testing.billing_cycle import MeteringClock
    from mm_metering.testing.client import MeteringClient
    from mm_metering.testing.conserved import assert_conserved
    from mm_metering.testing.counters_contract import CountersContract
    from mm_metering.testing.fake_llm import FakeLlm
    from mm_metering.testing.fake_stripe import FakeStripe
    from mm_metering.testing.ledger_contract import LedgerContract
    from mm_metering.testing.recorder import MeteringRecorder
    from mm_metering.testing.scenario import run_scenario
    from mm_metering.testing.usage_reporter_contract import UsageReporterContract
    from mm_metering.testing.webhook_sink import WebhookSink

_HOMES = {
    "BillingAdapterContract": "mm_metering.testing.billing_contract",
    "CountersContract": "mm_metering.testing.counters_contract",
    "FakeLlm": "mm_metering.testing.fake_llm",
    "FakeStripe": "mm_metering.testing.fake_stripe",
    "FrozenClock": "mm_metering.clock",
    "LedgerContract": "mm_metering.testing.ledger_contract",
    "MeteringClient": "mm_metering.testing.client",
    "MeteringClock": "mm_metering.testing.billing_cycle",
    "MeteringRecorder": "mm_metering.testing.recorder",
    "UsageReporterContract": "mm_metering.testing.usage_reporter_contract",
    "WebhookSink": "mm_metering.testing.webhook_sink",
    "assert_conserved": "mm_metering.testing.conserved",
    "run_scenario": "mm_metering.testing.scenario",
}

__all__ = [
    "BillingAdapterContract",
    "CountersContract",
    "FakeLlm",
    "FakeStripe",
    "FrozenClock",
    "LedgerContract",
    "MeteringClient",
    "MeteringClock",
    "MeteringRecorder",
    "UsageReporterContract",
    "WebhookSink",
    "assert_conserved",
    "run_scenario",
]


def __getattr__(name: str) -> Any:
    """Imported at first use: the contracts need pytest, and the pytest plugin is loaded in every test run."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
