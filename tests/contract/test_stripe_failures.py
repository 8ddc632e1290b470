"""The Stripe adapter where Stripe, or what stands before it, does not answer as wished."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import pytest

from mm_metering.billing.adapter import BillingAdapter
from mm_metering.billing.stripe import Retries, StripeBillingAdapter
from mm_metering.errors import (
    ActionRequired,
    BillingError,
    CardDeclined,
    InvalidInput,
    InvalidRequest,
    MissingExtra,
    ProviderRateLimited,
    ProviderUnavailable,
)

KEY = "sk_test_51NotARealKeyAtAll"
CUSTOMER = {"id": "cus_1", "object": "customer", "email": "a@example.com", "name": "Acme", "metadata": {}}


class Answer(NamedTuple):
    """``status`` 0: the connection is closed without a word."""

    status: int = 0
    body: object = ""
    headers: tuple[tuple[str, str], ...] = ()


LOST = Answer()
GOOD = Answer(200, CUSTOMER)
HTML = "<html><body>502 Bad Gateway</body></html>"


def error(status: int, headers: tuple[tuple[str, str], ...] = (), **details: object) -> Answer:
    return Answer(status, {"error": {"message": "no", **details}}, headers)


class Asked(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    params: dict[str, list[str]]


class Scripted:
    """A server on loopback that gives its answers one after the other, the last one for ever."""

    def __init__(self) -> None:
        self.answers: list[Answer] = [GOOD]
        self.asked: list[Asked] = []
        script = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
                headers = {name.lower(): value for name, value in self.headers.items()}
                script.asked.append(Asked(self.command, self.path, headers, parse_qs(body)))
                said = script.answers.pop(0) if len(script.answers) > 1 else script.answers[0]
                self.close_connection = True
                if not said.status:
                    return
                text = said.body if isinstance(said.body, str) else json.dumps(said.body)
                self.send_response(said.status)
                for name, value in (*said.headers, ("Content-Length", str(len(text.encode())))):
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            do_GET = do_POST = do_DELETE = answer  # noqa: N815

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @property
    def keys(self) -> list[str | None]:
        return [each.headers.get("idempotency-key") for each in self.asked]


@contextmanager
def serving() -> Iterator[Scripted]:
    script = Scripted()
    thread = threading.Thread(target=script.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield script
    script.server.shutdown()
    script.server.server_close()
    thread.join()


@pytest.fixture
def script() -> Iterator[Scripted]:
    with serving() as script:
        yield script


@pytest.fixture
def waits() -> list[float]:
    return []


def patient(waits: list[float]) -> Retries:
    """Waits for nothing, and writes it down."""

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    return Retries(chance=lambda: 1.0, sleep=sleep)


@pytest.fixture
async def adapter(script: Scripted, waits: list[float]) -> Any:
    adapter = StripeBillingAdapter(api_key=KEY, base_url=script.url, retries=patient(waits))
    yield adapter
    await adapter.aclose()


async def rename(adapter: BillingAdapter) -> str:
    return (await adapter.update_customer("cus_1", name="Acme")).name


# -- again, with the same key -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        LOST,
        error(500, type="api_error"),
        error(409, type="idempotency_error", code="idempotency_key_in_use"),
        error(429, code="rate_limit"),
        error(429, code="lock_timeout"),
        Answer(502, HTML),
        Answer(503, {"error": "upstream is away"}),
        Answer(200, HTML),
    ],
    ids=["lost", "500", "409", "429", "lock", "html", "gateway", "html-200"],
)
async def test_a_call_that_may_yet_succeed_is_repeated_with_the_same_key(
    adapter: BillingAdapter, script: Scripted, waits: list[float], bad: Answer
) -> None:
    script.answers = [bad, bad, bad, GOOD]
    assert await rename(adapter) == "Acme"
    assert len(script.keys) == 4
    assert len({*script.keys}) == 1
    assert script.keys[0]
    assert waits == [0.5, 1.0, 2.0]


async def test_two_calls_have_two_keys(adapter: BillingAdapter, script: Scripted) -> None:
    await rename(adapter)
    await rename(adapter)
    assert len({*script.keys}) == 2


@pytest.mark.parametrize("bad", [LOST, error(500), error(409), Answer(502, HTML), Answer(500, {"error": "away"})])
async def test_without_a_usable_answer_the_outcome_is_unknown(
    adapter: BillingAdapter, script: Scripted, bad: Answer
) -> None:
    script.answers = [bad]
    with pytest.raises(ProviderUnavailable, match="same idempotency key") as found:
        await rename(adapter)
    assert (found.value.outcome_unknown, len(script.asked)) == (True, 4)


async def test_what_stripe_has_kept_as_a_failure_is_not_asked_for_again(
    adapter: BillingAdapter, script: Scripted
) -> None:
    script.answers = [error(500, (("Stripe-Should-Retry", "false"),))]
    with pytest.raises(ProviderUnavailable) as found:
        await rename(adapter)
    assert (found.value.outcome_unknown, len(script.asked)) == (True, 1)


async def test_too_many_calls_are_no_unknown_outcome(
    adapter: BillingAdapter, script: Scripted, waits: list[float]
) -> None:
    script.answers = [error(429, (("Stripe-Rate-Limited-Reason", "global-rate"),), code="rate_limit")]
    with pytest.raises(ProviderRateLimited) as found:
        await rename(adapter)
    assert (found.value.retry_after_s, len(script.asked), len(waits)) == (8.0, 4, 3)


async def test_what_may_have_happened_stays_so_whatever_later_attempts_say(
    adapter: BillingAdapter, script: Scripted
) -> None:
    script.answers = [LOST, error(429)]
    with pytest.raises(ProviderUnavailable) as found:
        await rename(adapter)
    assert found.value.outcome_unknown


async def test_a_server_that_is_not_there_has_done_nothing(waits: list[float]) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        adapter = StripeBillingAdapter(api_key=KEY, base_url=url, retries=patient(waits))
        with pytest.raises(ProviderUnavailable, match="cannot be reached; nothing happened") as found:
            await rename(adapter)
        await adapter.aclose()
    assert (found.value.outcome_unknown, len(waits)) == (False, 3)


async def test_a_question_that_is_not_answered_has_changed_nothing(adapter: BillingAdapter, script: Scripted) -> None:
    script.answers = [LOST]
    with pytest.raises(ProviderUnavailable, match="did not answer; nothing was changed") as found:
        await adapter.get_customer("cus_1")
    assert not found.value.outcome_unknown


def test_waits_double_up_to_a_bound_and_are_shaken() -> None:
    assert [Retries(chance=lambda: 1.0).wait_s(attempt) for attempt in range(1, 8)] == [0.5, 1, 2, 4, 8, 8, 8]
    assert Retries(chance=lambda: 0.0).wait_s(2) == 0.5
    with pytest.raises(InvalidInput, match="attempts"):
        Retries(attempts=0)


# -- what the refusals are --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (error(400, code="parameter_missing", type="invalid_request_error"), InvalidRequest, "no"),
        (error(404, code="resource_missing", type="invalid_request_error"), InvalidRequest, "no"),
        (error(400, type="idempotency_error"), InvalidRequest, "was used before for another request"),
        (error(401, type="invalid_request_error"), InvalidRequest, "wrong, revoked or expired"),
        (error(403, type="invalid_request_error"), InvalidRequest, "give it the permission"),
        (
            error(
                404,
                code="resource_missing",
                message="No such customer: 'cus_1'; a similar object exists in live mode, but a test mode key was used",
            ),
            InvalidRequest,
            "live data and the api_key of test data",
        ),
        (error(402, type="invalid_request_error", message="raw card 4242424242424242"), InvalidRequest, "card number"),
        (Answer(404, HTML), ProviderUnavailable, "is base_url right"),
    ],
)
async def test_a_refusal_says_what_is_wrong_and_is_not_repeated(
    adapter: BillingAdapter, script: Scripted, answer: Answer, kind: type[BillingError], says: str
) -> None:
    script.answers = [answer]
    with pytest.raises(kind, match=says) as found:
        await rename(adapter)
    assert len(script.asked) == 1
    assert not getattr(found.value, "outcome_unknown", False)
    assert "4242424242424242" not in str(found.value)


@pytest.mark.parametrize(
    ("details", "code", "final"),
    [
        ({"code": "card_declined", "decline_code": "insufficient_funds"}, "insufficient_funds", False),
        ({"code": "card_declined", "decline_code": "lost_card"}, "lost_card", True),
        ({"code": "card_declined"}, "generic_decline", False),
        ({"code": "expired_card"}, "expired_card", True),
        (
            {"code": "card_declined", "decline_code": "generic_decline", "advice_code": "do_not_try_again"},
            "do_not_try_again",
            True,
        ),
    ],
)
async def test_a_declined_card(
    adapter: BillingAdapter,
    script: Scripted,
    details: dict[str, Any],
    code: str,
    final: object,
) -> None:
    script.answers = [error(402, type="card_error", **details)]
    with pytest.raises(CardDeclined) as found:
        await rename(adapter)
    assert (found.value.decline_code, found.value.is_final, len(script.asked)) == (code, final, 1)


async def test_a_confirmation_hands_out_the_secret_and_does_not_show_it(
    adapter: BillingAdapter, script: Scripted
) -> None:
    intent = {"id": "pi_1", "object": "payment_intent", "client_secret": "pi_1_secret_9"}
    script.answers = [error(402, type="card_error", code="authentication_required", payment_intent=intent)]
    with pytest.raises(ActionRequired) as found:
        await rename(adapter)
    assert found.value.client_secret == "pi_1_secret_9"
    assert "pi_1_secret_9" not in "".join(traceback.format_exception(found.value))


async def test_the_api_key_is_never_shown(adapter: BillingAdapter, script: Scripted) -> None:
    script.answers = [error(401, message=f"Invalid API Key provided: {KEY}")]
    with pytest.raises(InvalidRequest) as found:
        await rename(adapter)
    assert KEY not in "".join(traceback.format_exception(found.value))
    assert KEY not in repr(adapter)
    assert script.asked[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("wrong", ["", "pk_test_51Nothing", "sk_live_\n", "4242", None])
def test_what_is_no_secret_key_is_refused_and_not_repeated(wrong: Any) -> None:
    with pytest.raises(InvalidInput, match="api_key: is no secret key") as found:
        StripeBillingAdapter(api_key=wrong)
    assert not wrong or wrong not in str(found.value)


def test_other_wrong_settings_are_refused() -> None:
    for wrong in ({"base_url": "localhost:12111"}, {"currency": "usd"}, {"prices": {"pro": ""}}):
        with pytest.raises(InvalidInput):
            StripeBillingAdapter(api_key=KEY, **wrong)


async def test_the_draft_of_an_item_that_stripe_refuses_is_deleted(adapter: BillingAdapter, script: Scripted) -> None:
    draft = Answer(200, {"id": "in_1", "object": "invoice", "customer": "cus_1", "status": "draft"})
    gone = Answer(200, {"id": "in_1", "object": "invoice", "deleted": True})
    script.answers = [draft, error(400, code="amount_too_large", message="too large"), gone]
    with pytest.raises(InvalidRequest, match="too large"):
        await adapter.create_invoice("cus_1", items=[{"description": "x", "unit_price": "9000000"}])
    assert [(each.method, each.path) for each in script.asked] == [
        ("POST", "/v1/invoices"),
        ("POST", "/v1/invoiceitems"),
        ("DELETE", "/v1/invoices/in_1"),
    ]


@pytest.mark.parametrize(("status", "outcome"), [("canceled", "canceled"), ("active", None)])
async def test_a_cancellation_whose_answer_is_lost_has_happened_if_it_shows(
    adapter: BillingAdapter, script: Scripted, status: str, outcome: str | None
) -> None:
    """A DELETE has no idempotency key at Stripe: its second attempt finds nothing to cancel."""
    found = {"id": "sub_1", "object": "subscription", "customer": "cus_1", "status": "active", "created": 1}
    found |= {"cancel_at_period_end": False, "metadata": {}, "items": {"object": "list", "data": []}}
    missing = error(404, code="resource_missing", type="invalid_request_error")
    script.answers = [Answer(200, found), LOST, missing, Answer(200, found | {"status": status})]
    if outcome is None:
        with pytest.raises(InvalidRequest):
            await adapter.cancel_subscription("sub_1", at_once=True)
    else:
        assert (await adapter.cancel_subscription("sub_1", at_once=True)).status == outcome


# -- nothing wrong leaves the process ---------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["", "../customers", "org_123", "cus_", "sub_1/..", "price_1", None])
async def test_ids_of_another_kind_ask_nothing(adapter: BillingAdapter, script: Scripted, wrong: Any) -> None:
    for call in (
        adapter.get_customer(wrong),
        adapter.update_customer(wrong, name="A"),
        adapter.delete_customer(wrong),
        adapter.get_payment_methods(wrong),
        adapter.create_payment_method(wrong, payment_method="pm_card_visa"),
        adapter.set_default_payment_method(wrong, "pm_1"),
        adapter.set_default_payment_method("cus_1", wrong),
        adapter.delete_payment_method(wrong),
        adapter.create_subscription(customer_id=wrong, plan_id="pro"),
        adapter.get_subscription(wrong),
        adapter.update_subscription(wrong, plan_id="pro"),
        adapter.cancel_subscription(wrong),
        adapter.resume_subscription(wrong),
        adapter.create_invoice(wrong, items=[{"description": "x", "unit_price": "1"}]),
        adapter.get_invoice(wrong),
        adapter.pay_invoice(wrong, "pm_1"),
        adapter.pay_invoice("in_1", wrong or ""),
        adapter.void_invoice(wrong),
    ):
        with pytest.raises(InvalidInput, match="is no id of Stripe"):
            await call
    assert script.asked == []


async def test_wrong_values_ask_nothing(adapter: BillingAdapter, script: Scripted) -> None:
    good = {"description": "x", "unit_price": "1"}
    for call in (
        adapter.create_payment_method("cus_1", payment_method="4242424242424242"),
        adapter.create_customer(organization_id="org_1", email="a@b.example", name="4242 4242 4242 4242"),
        adapter.create_customer(organization_id="", email="a@b.example", name="A"),
        adapter.create_customer(organization_id="o", email="a@b.example", name="A", metadata={"mm_key": "x"}),
        adapter.update_customer("cus_1", metadata={"card": "4242424242424242"}),
        adapter.create_invoice("cus_1", items=[good | {"unit_price": "0.000000000000001"}]),
        adapter.create_invoice("cus_1", items=[good], due_date="soon"),
        adapter.create_invoice("cus_1", items=[good], idempotency_key="k" * 201),
        adapter.create_invoice("cus_1", items=[good], idempotency_key="a\nb"),
        adapter.create_subscription(customer_id="cus_1", plan_id="pro", idempotency_key=""),
    ):
        with pytest.raises(InvalidInput):
            await call
    assert script.asked == []


async def test_nothing_is_told_to_stripe_about_the_process(adapter: BillingAdapter, script: Scripted) -> None:
    script.answers = [Answer(200, CUSTOMER, (("Request-Id", "req_1"),))]
    await rename(adapter)
    await rename(adapter)
    assert all("x-stripe-client-telemetry" not in each.headers for each in script.asked)


def test_one_adapter_serves_two_event_loops(script: Scripted) -> None:
    adapter = StripeBillingAdapter(api_key=KEY, base_url=script.url)

    async def twice() -> None:
        await rename(adapter)
        await adapter.aclose()
        await rename(adapter)  # opens anew
        await adapter.aclose()
        await adapter.aclose()

    asyncio.run(twice())
    asyncio.run(twice())
    assert len(script.asked) == 4


def test_the_sdk_is_loaded_by_an_adapter_alone() -> None:
    code = "import sys, mm_metering.billing.stripe; sys.exit(bool({'stripe', 'httpx'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_the_sdk_the_install_line_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stripe", None)
    with pytest.raises(MissingExtra, match=r'pip install "mm-metering\[stripe\]"'):
        StripeBillingAdapter(api_key=KEY)
