"""``mm-metering webhooks``: tenants' endpoints, what was sent to them, sending it again, and a receiver to try with."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from mm_metering.cli.host import run
from mm_metering.cli.options import App, Json, TenantArgument, group
from mm_metering.cli.show import console, emit, say, table
from mm_metering.core import strict_json
from mm_metering.core.deliveries import Attempt, Delivery, DeliveryState
from mm_metering.errors import InvalidInput, WebhookRefused
from mm_metering.metering import Metering
from mm_metering.middleware.endpoint_guard import EndpointGuard, EndpointRules, Guarded
from mm_metering.webhooks.endpoints import Endpoint
from mm_metering.webhooks.signing import checked_secret, verify
from mm_metering.worker.health import listen, serving

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

MAX_BODY: Final = 256 * 1024
ENDPOINT: Final = "ep_"

EndpointId = Annotated[str, typer.Argument(metavar="ENDPOINT", help="Its id, ep_…")]

webhooks: Final = group("Tenants' endpoints, and what they are sent.")


@webhooks.command("list")
def list_(
    tenant: TenantArgument,
    *,
    state: Annotated[DeliveryState | None, typer.Option("--state", help="Deliveries in this state.")] = None,
    endpoint: Annotated[str, typer.Option("--endpoint", help="Of this endpoint.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="The newest so many.")] = 50,
    json: Json = False,
    app: App = "",
) -> None:
    """A tenant's endpoints, and its newest deliveries: tries, the next one, the last answer."""

    async def both(metering: Metering) -> tuple[list[Endpoint], list[Delivery]]:
        hooks = metering.webhooks
        found = await hooks.list_deliveries(tenant, endpoint=endpoint or None, state=state, limit=limit)
        return await hooks.list_endpoints(tenant), found

    endpoints, deliveries = run(app, both)
    if json:
        emit({"endpoints": endpoints, "deliveries": deliveries})
    else:
        show_endpoints(endpoints)
        show_deliveries(deliveries)


@webhooks.command()
def show(
    name: Annotated[str, typer.Argument(metavar="ID", help="Of an endpoint (ep_…) or a delivery (dlv_…).")],
    *,
    json: Json = False,
    app: App = "",
) -> None:
    """An endpoint (ep_…), or a delivery (dlv_…) with its attempts."""
    if name.startswith(ENDPOINT):
        endpoint = run(app, lambda metering: metering.webhooks.get_endpoint(name))
        emit(endpoint) if json else show_endpoints([endpoint])
    else:
        delivery = run(app, lambda metering: metering.webhooks.get_delivery(name))
        emit(delivery) if json else show_delivery(delivery)


@webhooks.command()
def resend(
    delivery: Annotated[str, typer.Argument(metavar="DELIVERY", help="Its id, dlv_…")],
    *,
    json: Json = False,
    app: App = "",
) -> None:
    """Send a delivery again, whatever became of it. The worker does it."""
    found = run(app, lambda metering: metering.webhooks.resend(delivery))
    emit(found) if json else show_deliveries([found])


@webhooks.command()
def recover(
    endpoint: EndpointId,
    *,
    since: Annotated[str, typer.Option("--since", help="Such as 2026-10-01T00:00:00Z.")],
    json: Json = False,
    app: App = "",
) -> None:
    """Send what happened since then and did not reach the endpoint. The worker does it."""
    _tell(run(app, lambda metering: metering.webhooks.recover(endpoint, since)), json=json)


@webhooks.command()
def replay(
    endpoint: EndpointId,
    *,
    start: Annotated[str, typer.Option("--start", help="Such as 2026-10-01T00:00:00Z.")],
    end: Annotated[str, typer.Option("--end", help="The first instant that is left out.")],
    json: Json = False,
    app: App = "",
) -> None:
    """Send all that happened in a range again, also what was delivered. The worker does it."""
    _tell(run(app, lambda metering: metering.webhooks.replay(endpoint, start, end)), json=json)


@webhooks.command("rotate-secret")
def rotate_secret(
    endpoint: EndpointId,
    *,
    keep_hours: Annotated[
        float, typer.Option("--keep-hours", min=0, max=24 * 30, help="How long the old one signs too.")
    ] = 24,
    json: Json = False,
    app: App = "",
) -> None:
    """Give an endpoint a new secret. It is shown this once."""
    keep = timedelta(hours=keep_hours)
    made = run(app, lambda metering: metering.webhooks.rotate_secret(endpoint, keep=keep))
    if json:
        emit({"endpoint": endpoint, "secret": made.secret, "keep_hours": keep_hours})
        return
    screen = console()
    say(screen, f"{made.secret}")
    say(screen, f"the one before signs beside it for {keep_hours:g} hours")


@webhooks.command()
def trigger(
    tenant: TenantArgument,
    type: Annotated[str, typer.Argument(metavar="TYPE", help="Such as report.ready.")],
    *,
    data: Annotated[str, typer.Option("--data", help="JSON.")] = "{}",
    json: Json = False,
    app: App = "",
) -> None:
    """Send an event to a tenant's endpoints. The worker does it."""
    given = _json(data)
    sent = run(app, lambda metering: metering.webhooks.send_event(tenant, type, given))
    emit(sent) if json else say(console(), f"{sent.type} {sent.id}")


@webhooks.command("test")
def try_endpoint(endpoint: EndpointId, *, json: Json = False, app: App = "") -> None:
    """Send a test to an endpoint now and show its answer. Exit code 1 if it is no success."""
    attempt = run(app, lambda metering: metering.webhooks.test_endpoint(endpoint))
    emit(attempt) if json else say(console(), _answer(attempt))
    if not attempt.succeeded:
        raise typer.Exit(1)


@webhooks.command("listen")
def listen_(
    *,
    secret: Annotated[
        str,
        typer.Option(
            "--secret",
            envvar=["MM_METERING_WEBHOOKS_LISTEN_SECRET", "MM_WEBHOOK_SECRET"],
            help="The endpoint's, whsec_…",
        ),
    ],
    at: Annotated[
        str, typer.Option("--at", metavar="[HOST:]PORT", help="On this machine alone without a host.")
    ] = "8787",
    count: Annotated[int, typer.Option("--count", min=0, help="End after so many; 0: at Ctrl-C.")] = 0,
) -> None:
    """Receive webhooks, verify and print each. An endpoint at http://localhost needs rules that allow it."""
    asyncio.run(receive(at, checked_secret(secret), count))


def _tell(count: int, *, json: bool) -> None:
    emit({"to_be_sent": count}) if json else say(console(), f"to be sent: {count:,}")


# -- the receiver -----------------------------------------------------------------------------------------------------


async def receive(at: str, secret: str, count: int) -> None:
    """Until it is told to stop, or ``count`` have come that verify."""
    from starlette.applications import Starlette
    from starlette.routing import Route

    screen, done, verified = console(), asyncio.Event(), 0

    async def take(request: Request) -> Response:
        nonlocal verified
        line, status = await _taken(request, secret)
        say(screen, line)
        verified += status < 300
        if count and verified >= count:
            asyncio.get_running_loop().call_later(0.1, done.set)  # the answer is to be sent first
        return _plain(status)

    app = Starlette(routes=[Route("/{path:path}", take, methods=["POST"])])
    listening = listen(at)
    host, port = listening.getsockname()[:2]
    with contextlib.suppress(NotImplementedError):
        for each in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(each, done.set)
    guard = EndpointGuard(EndpointRules(), now_s=time.monotonic)
    async with serving(Guarded(app, guard), listening):
        print(f"listening at http://{host}:{port}/", flush=True)  # noqa: T201
        await done.wait()


async def _taken(request: Request, secret: str) -> tuple[str, int]:
    """What is to be printed of it, and the status to answer."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            return f"refused: it has more than {MAX_BODY:,} bytes", 413
    try:
        name = verify(body, dict(request.headers), [secret], datetime.now(UTC))
    except WebhookRefused as error:
        return f"refused: {error}", 400
    text = body.decode("utf-8", "backslashreplace")
    return f"{name} {''.join(each if each.isprintable() else ' ' for each in text)}", 204


def _plain(status: int) -> Response:
    from starlette.responses import Response

    return Response(status_code=status)


# -- what is shown ----------------------------------------------------------------------------------------------------


def show_endpoints(endpoints: list[Endpoint]) -> None:
    """A row for each."""
    rows = table("endpoint", "url", "events", "state", "failing since")
    for each in endpoints:
        state = "enabled" if each.enabled else f"disabled: {each.why_disabled}"
        rows.add_row(each.id, each.url, ", ".join(each.events), state, _at(each.failing_since))
    screen = console()
    screen.print(rows)
    say(screen, f"endpoints: {len(endpoints):,}")


def show_deliveries(deliveries: list[Delivery]) -> None:
    """A row for each."""
    rows = table("delivery", "type", "happened", "state", ">tries", "next", "last answer")
    for each in deliveries:
        last = _answer(each.attempts[-1]).partition(":")[0] if each.attempts else ""
        when = (_at(each.occurred_at), each.state, f"{each.tries}", _at(each.next_at))
        rows.add_row(each.id, each.type, *when, last)
    screen = console()
    screen.print(rows)
    say(screen, f"deliveries: {len(deliveries):,}")


def show_delivery(each: Delivery) -> None:
    """With its attempts."""
    show_deliveries([each])
    rows = table("at", "answer", ">ms", "excerpt")
    for attempt in each.attempts:
        rows.add_row(_at(attempt.at), _answer(attempt), f"{attempt.took_ms:,}", attempt.excerpt[:200])
    screen = console()
    say(screen, f"webhook-id {each.event}, endpoint {each.endpoint}")
    screen.print(rows)


def _answer(attempt: Attempt) -> str:
    return attempt.error or f"{attempt.status}"


def _at(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}"


def _json(text: str) -> dict[str, Any]:
    try:
        found = strict_json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InvalidInput("data", 'is no JSON object, such as {"invoice": "inv_1"}')
    return found
