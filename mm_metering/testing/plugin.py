"""The pytest plugin: fixtures for hosts' tests, and ``@pytest.mark.metering``.

Fixtures are sync, so that sync and async tests may use them under any plugin. All else is imported when a fixture is
used: to be installed beside other tests costs them nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from mm_metering.metering import Metering
    from mm_metering.testing.billing_cycle import MeteringClock
    from mm_metering.testing.client import MeteringClient
    from mm_metering.testing.fake_llm import FakeLlm
    from mm_metering.testing.fake_stripe import FakeStripe
    from mm_metering.testing.recorder import MeteringRecorder
    from mm_metering.testing.webhook_sink import WebhookSink

MARK: Final = "metering"
MARKED: Final = "_metering_marked"
START: Final = "2024-01-01T00:00:00Z"
"""Where metering_clock stands unless the mark says ``at=``."""
OPTIONS: Final = ("at", "tenant", "plan", "limits", "allow", "deny", "disabled")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"{MARK}({', '.join(f'{each}=...' for each in OPTIONS)}): what mm_metering has otherwise in this test: "
        "the instant of metering_clock, and what metering.override takes",
    )


def pytest_itemcollected(item: pytest.Item) -> None:
    """A marked test uses one more fixture; all others are left alone."""
    if isinstance(item, pytest.Function) and item.get_closest_marker(MARK) is not None:
        item.fixturenames.insert(0, MARKED)


def _options(node: pytest.Item) -> dict[str, Any]:
    """What the marks of a test say, the closest first."""
    found: dict[str, Any] = {}
    for mark in node.iter_markers(MARK):
        wrong = [*map(repr, mark.args), *(f"{each}=" for each in mark.kwargs if each not in OPTIONS)]
        if wrong:
            takes = ", ".join(f"{each}=" for each in OPTIONS)
            raise pytest.UsageError(f"@pytest.mark.{MARK} takes {takes}, not {', '.join(wrong)}")
        found = {**mark.kwargs, **found}
    return found


@pytest.fixture
def _metering_marked(request: pytest.FixtureRequest) -> Iterator[None]:
    options = _options(request.node)
    options.pop("at", None)
    if not options:
        yield
        return
    metering: Metering = request.getfixturevalue("metering")
    with metering.override(**options):
        yield


@pytest.fixture
def metering(request: pytest.FixtureRequest, metering_clock: MeteringClock) -> Iterator[Metering]:
    """Yours: define a fixture of this name that returns the Metering of your app. Without one: a Metering in memory
    with the seed's plans, billed by a mock, or by ``fake_stripe`` where the test uses it."""
    from mm_metering.billing.mock import MockBillingAdapter
    from mm_metering.metering import Metering
    from mm_metering.testing.sync import on_a_thread

    options: dict[str, Any] = {"clock": metering_clock, "worker": "off", "journal": "off"}
    if "webhook_sink" in request.fixturenames:
        options["webhook_rules"] = request.getfixturevalue("webhook_sink").rules
    if "fake_stripe" in request.fixturenames:
        options["billing"] = request.getfixturevalue("fake_stripe").adapter()
    else:
        options["billing"] = MockBillingAdapter(clock=metering_clock)
    made = Metering(**options)
    yield made
    on_a_thread(made.shutdown)


@pytest.fixture
def metering_clock(request: pytest.FixtureRequest) -> MeteringClock:
    """A frozen clock. A Metering of yours must go by it: ``Metering(..., clock=metering_clock)``."""
    from mm_metering.testing.billing_cycle import MeteringClock

    return MeteringClock(
        _options(request.node).get("at", START),
        metering=lambda: request.getfixturevalue("metering"),
        stripe=lambda: request.getfixturevalue("fake_stripe") if "fake_stripe" in request.fixturenames else None,
    )


@pytest.fixture
def metering_app() -> Any:
    """Yours: the ASGI app that ``metering`` is installed on."""
    pytest.fail(
        "metering_client needs your app. In conftest.py:\n\n"
        "    @pytest.fixture\n"
        "    def metering_app(metering):\n"
        "        return create_app(metering)",
        pytrace=False,
    )


@pytest.fixture
def metering_client(request: pytest.FixtureRequest, metering: Metering, metering_app: Any) -> Iterator[MeteringClient]:
    """A client of ``metering_app`` with its lifespan run; ``.as_tenant("acme")`` calls as a tenant."""
    from mm_metering.testing.client import MeteringClient

    if "metering_clock" in request.fixturenames and metering.clock is not request.getfixturevalue("metering_clock"):
        pytest.fail(
            "metering_clock does not move this Metering, which goes by a clock of its own. In conftest.py:\n\n"
            "    @pytest.fixture\n"
            "    def metering(metering_clock):\n"
            "        return Metering(..., clock=metering_clock)",
            pytrace=False,
        )
    with MeteringClient(metering_app, metering) as client:
        yield client


@pytest.fixture
def metering_recorder(metering: Metering) -> Iterator[MeteringRecorder]:
    """What is metered from here to the end of the test."""
    from mm_metering.testing.recorder import MeteringRecorder

    with MeteringRecorder.of(metering) as recorder:
        yield recorder


@pytest.fixture
def fake_stripe(metering_clock: MeteringClock) -> Iterator[FakeStripe]:
    """A Stripe on loopback; ``fake_stripe.adapter()`` is what ``Metering(billing=...)`` takes."""
    from mm_metering.testing.fake_stripe import FakeStripe

    with FakeStripe(clock=metering_clock, keep_alive=False) as fake:
        yield fake


@pytest.fixture
def fake_llm() -> Iterator[FakeLlm]:
    """A model server on loopback, as OpenAI and as Anthropic."""
    from mm_metering.testing.fake_llm import FakeLlm

    with FakeLlm(keep_alive=False) as fake:
        yield fake


@pytest.fixture
def webhook_sink() -> Iterator[WebhookSink]:
    """An endpoint on loopback: ``Metering(..., webhook_rules=webhook_sink.rules)``, then
    ``webhook_sink.subscribe(metering, "acme")``."""
    from mm_metering.testing.webhook_sink import WebhookSink

    with WebhookSink() as sink:
        yield sink
