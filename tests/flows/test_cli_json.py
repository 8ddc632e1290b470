"""Each command that has --json prints one JSON value and nothing else: found by walking the tree."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from mm_metering import FrozenClock, Metering, MockBillingAdapter, catalogues, from_header
from mm_metering.testing import WebhookSink
from tests.flows.conftest import PATIENT, Shell
from tests.redis_server import RedisServer
from tests.unit.command_tree import leaves

APP: Final = ("--app", "house_of_json:metering")
KEY: Final = base64.b64encode(bytes(32)).decode()
WITH_JSON: Final = [leaf.words for leaf in leaves() if any("--json" in option.opts for option in leaf.options)]
WORDS: Final[dict[str, str]] = {
    "init": "{folder}/new",
    "explain": "acme",
    "simulate": "--catalogue {plans} --from 2024-01 --to 2024-01",
    "reconcile": "--provider mock --period 2024-01",
    "forecast": "acme",
    "rebuild": "--tenant acme",
    "usage show": "acme",
    "usage adjust": "acme api_calls 1 --reason sorry",
    "usage backfill": "{events}",
    "tenants show": "acme",
    "tenants set-plan": "beta pro --new",
    "tenants override": 'acme {{"price":"98.00"}}',
    "tenants suspend": "other",
    "tenants resume": "other",
    "tenants cancel": "gamma",
    "tenants forget": "gamma --yes --reason r1",
    "plans validate": "{plans}",
    "plans diff": "{plans}",
    "plans apply": "{plans} --dry-run",
    "plans shadow": "{plans}",
    "plans attack": "{plans}",
    "invoice preview": "acme",
    "invoice run": "2024-01",
    "invoice show": "{invoice}",
    "invoice explain": "{line} --facts",
    "invoice finalize": "{draft}",
    "invoice void": "{other}",
    "invoice credit": "{invoice} --amount 1.00 --reason sorry",
    "payments retry": "{paid}",
    "alerts test": "--tenant acme",
    "alerts mute": "spike",
    "webhooks list": "acme",
    "webhooks show": "{delivery}",
    "webhooks resend": "{delivery}",
    "webhooks recover": "{endpoint} --since 2024-01-01T00:00:00Z",
    "webhooks replay": "{endpoint} --start 2024-01-01T00:00:00Z --end 2024-03-01T00:00:00Z",
    "webhooks rotate-secret": "{endpoint}",
    "webhooks trigger": "acme report.done",
    "webhooks test": "{endpoint}",
    "ai costs": "2024-01",
}
"""What a command needs besides."""
WITHOUT_APP: Final = ("init", "demo", "plans validate", "plans attack")
FINDINGS: Final = ("doctor", "status", "plans attack", "webhooks test")
"""May end with 1 here: they find something."""


class House(ModuleType):
    """An app whose Metering is a new one each time, as in a process of its own."""

    def __init__(self, stores: dict[str, Any], sink: WebhookSink) -> None:
        super().__init__("house_of_json")
        self.stores = stores
        self.clock = FrozenClock("2024-01-01T00:00:00Z")
        self.adapter = MockBillingAdapter(clock=self.clock)
        self.names: dict[str, str] = {}
        self.rules = sink.rules

    @property
    def metering(self) -> Metering:
        options: dict[str, Any] = {"clock": self.clock, "worker": "off", "timing": PATIENT, "webhook_rules": self.rules}
        metering = Metering(**self.stores, **options, billing=self.adapter, secret_key=KEY)
        metering.webhooks.add_event_type("report.done", "A report is done.")
        app = Starlette(routes=[Route("/v1/x", lambda _: None)])
        metering.install(app, tenant=from_header("x-org-id"))
        return metering

    async def live(self, url: str) -> None:
        """Two months of three tenants."""
        async with self.metering as metering:
            for tenant in ("acme", "other", "gamma"):
                await metering.put_tenant(tenant, plan="pro", subscribed_at="2024-01-01T00:00:00Z")
            made = await metering.billing.create_customer(organization_id="acme", email="a@b.example", name="A")
            await metering.billing.create_payment_method(made.id, payment_method="pm_card_chargeDeclined")
            await metering.record_api_call("acme", "/v1/x", cost=Decimal("0.10"))
            endpoint = await metering.webhooks.create_endpoint("acme", url)
            await metering.webhooks.send_event("acme", "report.done", {})
            self.clock.set("2024-02-03T00:00:00Z")
            done = {each.tenant: each for each in await metering.close_period("2024-01")}
            await metering.collect()
            self.clock.set("2024-03-01T01:00:00Z")
            (draft,) = await metering.close_period("2024-02", tenant="gamma")
            await metering.webhooks.deliver()
            (delivery, *_) = await metering.webhooks.list_deliveries("acme")
            line = next(each for each in done["acme"].lines)
            self.names = {
                "invoice": done["gamma"].id,
                "other": done["other"].id,
                "paid": done["acme"].id,
                "draft": draft.id,
                "line": line.id,
                "endpoint": endpoint.id,
                "delivery": delivery.id,
            }


@pytest.fixture(scope="module")
def house(session_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Made once: each command leaves what the next ones need."""
    folder = tmp_path_factory.mktemp("json")
    session_redis.flush()
    with WebhookSink() as sink:
        made = House({"counters": session_redis.url, "ledger": f"sqlite:///{folder}/ledger.db"}, sink)
        asyncio.run(made.live(sink.url))
        plans = folder / "plans.toml"
        plans.write_text((Path(catalogues.__file__).with_name("seed.toml")).read_text())
        events = folder / "events.ndjson"
        events.write_text(
            '{"tenant": "acme", "event_type": "api_call", "resource": "/v1/x", "id": "b1", '
            '"occurred_at": "2024-02-15T12:00:00Z"}\n'
        )
        made.names |= {"folder": str(folder), "plans": str(plans), "events": str(events)}
        yield made


@pytest.mark.parametrize("words", WITH_JSON, ids=" ".join)
def test_it_is_one_value(house: House, shell: Shell, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "house_of_json", house)
    name = " ".join(words)
    given = [each.format(**house.names) for each in WORDS.get(name, "").split()]
    code, said, error = shell(*words, *given, "--json", *(() if name in WITHOUT_APP else APP))
    assert said, error
    assert json.loads(said) is not None
    assert code == 0 or name in FINDINGS, error


def test_each_command_that_needs_words_is_asked() -> None:
    assert {*WORDS} <= {" ".join(words) for words in WITH_JSON}
