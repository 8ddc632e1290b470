"""``mm-metering webhooks``, as somebody types it: what it prints, and its exit codes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import pytest

from mm_metering import FrozenClock, Metering
from mm_metering.webhooks.endpoints import Endpoint
from mm_metering.webhooks.guard import Rules
from mm_metering.webhooks.signing import new_secret
from tests.flows.conftest import Shell
from tests.flows.test_webhooks import KEY, TYPE

T = TypeVar("T")
APP = ("--app", "house_of_webhooks:metering")
SECRET = new_secret()


class Town(ModuleType):
    """An app whose Metering is a new one each time, as in a process of its own."""

    def __init__(self, ledger: str, port: int) -> None:
        super().__init__("house_of_webhooks")
        self.clock = FrozenClock(datetime.now(UTC))
        self.ledger, self.port = ledger, port

    @property
    def metering(self) -> Metering:
        rules = Rules(allow_http=True, ports=(self.port,), allow_networks=("127.0.0.0/8",))
        settings = {"ledger": self.ledger, "clock": self.clock, "secret_key": KEY, "webhook_rules": rules}
        return Metering(**settings, worker="off")  # type: ignore[arg-type]

    def do(self, work: Callable[[Metering], Awaitable[T]]) -> T:
        async def done() -> T:
            async with self.metering as metering:
                return await work(metering)

        return asyncio.run(done())


@pytest.fixture
def listener() -> Iterator[subprocess.Popen[str]]:
    """``listen`` in a process of its own, until three have come."""
    command = [sys.executable, "-m", "mm_metering.cli", "webhooks", "listen", "--at", "0", "--count", "3"]
    with subprocess.Popen([*command, "--secret", SECRET], stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_from_a_trigger_to_a_listener_and_again(
    listener: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: Shell
) -> None:
    assert listener.stdout is not None
    url = listener.stdout.readline().split()[-1]
    town = Town(f"sqlite:///{tmp_path}/ledger.db", int(url.rstrip("/").rpartition(":")[2]))
    monkeypatch.setitem(sys.modules, "house_of_webhooks", town)

    async def opens(metering: Metering) -> Endpoint:
        await metering.put_tenant("acme", plan="pro")
        return await metering.webhooks.create_endpoint("acme", url, secret=SECRET)

    endpoint = town.do(opens).id
    code, said, _ = shell("webhooks", "trigger", "acme", TYPE, "--data", '{"n": 1}', *APP)
    assert (code, said.split()[0]) == (0, TYPE)
    event = said.split()[1]
    town.do(lambda metering: metering.webhooks.deliver())
    code, said, _ = shell("webhooks", "list", "acme", "--state", "delivered", *APP)
    assert (code, "deliveries: 1" in said, endpoint in said) == (0, True, True)
    delivery = next(word for word in said.split() if word.startswith("dlv_"))
    assert shell("webhooks", "list", "acme", "--state", "dead", *APP)[1].rstrip().endswith("deliveries: 0")
    assert delivery in shell("webhooks", "resend", delivery, *APP)[1]
    start, end = "2024-01-01T00:00:00Z", "2199-01-01T00:00:00Z"
    assert shell("webhooks", "replay", endpoint, "--start", start, "--end", end, *APP)[1] == "to be sent: 1\n"
    assert shell("webhooks", "recover", endpoint, "--since", start, *APP)[1] == "to be sent: 0\n"
    town.do(lambda metering: metering.webhooks.deliver())
    shown = shell("webhooks", "show", delivery, *APP)[1]
    assert (event in shown, shown.split().count("204")) == (True, 3)
    assert "enabled" in shell("webhooks", "show", endpoint, *APP)[1]
    assert shell("webhooks", "test", endpoint, *APP)[:2] == (0, "204\n")
    told, _ = listener.communicate(timeout=20)
    lines = [line.split(" ", 1) for line in told.splitlines()]
    assert [name for name, _ in lines[:2]] == [event] * 2
    assert [json.loads(body)["data"] for _, body in lines] == [{"n": 1}, {"n": 1}, {"endpoint": endpoint}]
    assert listener.returncode == 0
    code, said, _ = shell("webhooks", "rotate-secret", endpoint, *APP)
    assert (code, said.startswith("whsec_"), SECRET in said) == (0, True, False)
    assert shell("webhooks", "test", endpoint, *APP)[0] == 1


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("trigger", "acme", "invoce.paid"), 'did you mean "invoice.paid"'),
        (("trigger", "acme", TYPE, "--data", "[1]"), "no JSON object"),
        (("list", "acme", "--state", "lost"), "'pending', 'delivered', 'dead'"),
        (("listen", "--secret", "hunter2"), "whsec_ and the base64"),
        (("show", "dlv_nothing"), "there is no delivery"),
    ],
)
def test_what_is_wrong_is_one_line(
    words: tuple[str, ...], error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: Shell
) -> None:
    town = Town(f"sqlite:///{tmp_path}/ledger.db", 443)
    monkeypatch.setitem(sys.modules, "house_of_webhooks", town)
    code, said, complaint = shell("webhooks", *words, *(APP if words[0] != "listen" else ()))
    assert (code in (1, 2), said) == (True, "")
    assert error in complaint
    assert "hunter2" not in complaint
