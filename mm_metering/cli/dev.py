"""``mm-metering dev``: an app with stores in memory, a clock that can be moved, and fakes of who is outside."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from typing import Annotated, Final

import typer
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from mm_metering.cli.example import HEADER, example_app
from mm_metering.cli.host import PROGRAM, load, of_project
from mm_metering.cli.options import App
from mm_metering.cli.show import console, say
from mm_metering.clock import instead_of_system
from mm_metering.errors import InvalidInput, MeteringError, MissingExtra
from mm_metering.metering import Metering
from mm_metering.testing.fake_llm import FakeLlm
from mm_metering.testing.fake_stripe import FakeStripe
from mm_metering.worker.health import listen

PREFIX: Final = "/__dev__"
"""Below it is what this command adds; all else is the app's."""
MOST: Final = timedelta(days=366)
UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
IN_MEMORY: Final = {"MM_METERING_COUNTERS": "memory://", "MM_METERING_LEDGER": "memory://"}
_SPAN: Final = re.compile(r"([0-9]{1,6})([smhdw])")


class DevClock:
    """The machine's clock, as far ahead of it as somebody has moved it."""

    frozen = True

    def __init__(self) -> None:
        self._ahead = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self._ahead

    def advance(self, delta: timedelta) -> None:
        self._ahead += delta


def dev(
    *,
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="On this machine alone; 0: any.")] = 8000,
    app: App = "",
) -> None:
    """Run your app, or an example where there is none, on this machine alone: stores in memory, a test clock that you
    move, a fake Stripe and a fake model server. Nothing is kept and nobody outside is called. Ctrl-C ends it."""
    clock = DevClock()
    with ExitStack() as stack:
        fakes = stack.enter_context(_fakes(clock))
        with instead_of_system(clock):
            metering, served = _found(app or of_project())
        at = stack.enter_context(listen(f"127.0.0.1:{port}", field="port"))
        url = f"http://127.0.0.1:{at.getsockname()[1]}"
        ours = _own_app(metering, clock)
        _introduce(metering, clock, url, fakes, mount_dashboard(ours, metering))
        with suppress(KeyboardInterrupt):
            _serve(Beside(served, ours), at.fileno())


def mount_dashboard(app: Starlette, metering: Metering) -> str:
    """Its path below the app: for this machine alone, and it may do all."""
    path = f"{PREFIX}/dashboard"
    app.mount(path, metering.dashboard())
    return path


# -- what is run -------------------------------------------------------------------------------------------------------


@contextmanager
def _fakes(clock: DevClock) -> Iterator[Mapping[str, str]]:
    """Fakes on loopback, and an environment in which apps find them and no store of somebody's. Answers with what to
    tell people of them."""
    with ExitStack() as stack:
        llm = stack.enter_context(FakeLlm(clock=clock))
        said = {"models": f"{llm.url}  a fake of OpenAI and Anthropic, to which their SDKs are pointed"}
        found = dict(IN_MEMORY)
        found |= {"OPENAI_BASE_URL": f"{llm.url}/v1", "OPENAI_API_KEY": llm.api_key}
        found |= {"ANTHROPIC_BASE_URL": llm.url, "ANTHROPIC_API_KEY": llm.api_key}
        if find_spec("stripe") is None:
            said["stripe"] = 'none: pip install "mm-metering[stripe]"'
        else:
            stripe = stack.enter_context(_stripe(clock))
            ours = {"API_KEY": stripe.api_key, "WEBHOOK_SECRET": stripe.webhook_secret, "BASE_URL": stripe.url}
            found |= {f"MM_METERING_STRIPE_{name}": value for name, value in ours.items()}
            said["stripe"] = f"{stripe.url}  a fake, through which Metering.from_env() bills"
        os.environ.update(found)
        yield said


@contextmanager
def _stripe(clock: DevClock) -> Iterator[FakeStripe]:
    """What an app asked wrongly is a test's business."""
    with suppress(AssertionError), FakeStripe(clock=clock) as fake:
        yield fake


def _found(target: str) -> tuple[Metering, ASGIApp]:
    """The project's own Metering and the app that it is installed on, or the example's."""
    if not target:
        metering = Metering()
        return metering, example_app(metering)
    metering = load(target)
    for place, store in zip(metering.places, ("counters", "ledger"), strict=True):
        if not place.startswith("memory:"):
            raise InvalidInput(
                store,
                f"{target} names {place} itself, and dev runs in memory alone; build it with Metering.from_env(), or "
                "run it with uvicorn",
            )
    if not metering.apps:
        raise InvalidInput("app", f"{target} is installed on no app: metering.install(app, ...) is what dev runs")
    return metering, metering.apps[0]


class Beside:
    """The app, and beside it what this command adds."""

    def __init__(self, app: ASGIApp, ours: ASGIApp) -> None:
        self._app = app
        self._ours = ours

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_ours = scope["type"] == "http" and f"{scope['path']}/".startswith(f"{PREFIX}/")
        await (self._ours if is_ours else self._app)(scope, receive, send)


def _serve(app: ASGIApp, fd: int) -> None:
    try:
        import uvicorn
    except ImportError as error:
        raise MissingExtra("server", "mm-metering dev") from error
    uvicorn.run(app, fd=fd, log_level="info", access_log=True)


# -- what is added -----------------------------------------------------------------------------------------------------


def _own_app(metering: Metering, clock: DevClock) -> Starlette:
    async def show(_: Request) -> Response:
        counters, ledger = metering.places
        return JSONResponse({"now": clock.now().isoformat(), "counters": counters, "ledger": ledger})

    async def move(request: Request) -> Response:
        """JSON alone: no page of another origin sends that without being asked first."""
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            return JSONResponse({"detail": "send application/json"}, status_code=415)
        try:
            clock.advance(span_of(await request.json()))
            await metering.catch_up()
        except (ValueError, MeteringError) as error:
            return JSONResponse({"detail": str(error)}, status_code=400)
        return await show(request)

    return Starlette(
        routes=[Route(PREFIX, show), Route(f"{PREFIX}/clock", move, methods=["POST"])],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])],
    )


def span_of(asked: object) -> timedelta:
    """Of ``{"advance": "1d"}``. InvalidInput for another form, and for more than a year at once."""
    text = asked.get("advance") if isinstance(asked, dict) else None
    match = _SPAN.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise InvalidInput("advance", 'is a number with s, m, h, d or w, such as {"advance": "1d"}')
    span = timedelta(**{UNITS[match[2]]: int(match[1])})
    if span > MOST:
        raise InvalidInput("advance", f"{text} is more than {MOST.days} days at once")
    return span


def _introduce(metering: Metering, clock: DevClock, url: str, fakes: Mapping[str, str], dashboard: str) -> None:
    screen, json = console(), "content-type: application/json"
    say(screen, f"{PROGRAM} dev: {metering.summary}")
    say(screen, f"  app        {url}")
    for route in [each for each in metering.list_routes().routes if each.costs][:1]:
        say(screen, f"             curl -i -X {route.method} -H '{HEADER}: acme' {url}{route.template}")
    if dashboard:
        say(screen, f"  dashboard  {url}{dashboard}")
    say(screen, f"  clock      {clock.now():%Y-%m-%d %H:%M} UTC; a day further, with all that is due then:")
    say(screen, f"""             curl -d '{{"advance": "1d"}}' -H '{json}' {url}{PREFIX}/clock""")
    for name, text in fakes.items():
        say(screen, f"  {name:9}  {text}")
    say(screen, "Ctrl-C ends it, and nothing is kept")
