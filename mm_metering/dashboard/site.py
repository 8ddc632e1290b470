"""One ASGI app for the dashboard and for the portal: who visits, which page, and what every answer carries."""

from __future__ import annotations

import base64
import gzip
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, quote

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from mm_metering.dashboard.access import SAFE, Role, Visitor, is_own
from mm_metering.dashboard.page import Do, Document, Link, Page, Show, Visit
from mm_metering.dashboard.render import assets, csv_text, environment, html, json_text
from mm_metering.errors import (
    CatalogueError,
    FeatureNotInPlan,
    InvalidInput,
    MeteringError,
    NotFound,
    QuotaExceeded,
    StoreUnavailable,
    UnknownTenant,
    WrongState,
)

if TYPE_CHECKING:
    from mm_metering.metering import Metering

log: Final = logging.getLogger("mm_metering.dashboard")

MAX_FORM: Final = 65_536
MAX_SAID: Final = 1_000
SAID: Final = "mm_said"
"""The cookie that carries what was done to the page that says it, for ten seconds."""
FOREVER: Final = "public, max-age=31536000, immutable"
PARTIAL: Final = "hx-request"
PAGE_LEVEL: Final = 5
"""Of gzip: a tenth of a page's bytes for two milliseconds."""
STATUS: Final[Mapping[type[MeteringError], int]] = {
    UnknownTenant: 404,
    NotFound: 404,
    InvalidInput: 400,
    CatalogueError: 400,
    WrongState: 409,
    FeatureNotInPlan: 403,
    QuotaExceeded: 429,
    StoreUnavailable: 503,
}


@dataclass(frozen=True, slots=True)
class Guest:
    """Who visits, and of a portal whose it is."""

    visitor: Visitor
    tenant: str = ""


Known = Callable[[Request], Awaitable[Guest | Response | None]]


@dataclass(frozen=True, slots=True)
class Look:
    """How a site differs from another: its name, its menu, who may frame it, and what its nobody is told."""

    name: str
    menu: Sequence[Link]
    known: Known
    stranger: str
    badge: Callable[[], str] = str
    frames: Sequence[str] = ()
    shows: Mapping[str, Show] = field(init=False)
    does: Mapping[str, tuple[Role, Do]] = field(init=False)
    home: Mapping[str, Link] = field(init=False)
    """To which page of the menu a path belongs."""

    def __post_init__(self) -> None:
        shows = {path: show for each in self.menu for path, show in ((each.path, each.show), *each.also.items())}
        object.__setattr__(self, "shows", shows)
        object.__setattr__(self, "does", {path: act for each in self.menu for path, act in each.actions.items()})
        object.__setattr__(self, "home", {path: each for each in self.menu for path in (each.path, *each.also)})


@dataclass(frozen=True, slots=True)
class Shown:
    """What a template is to say."""

    template: str
    title: str
    data: Mapping[str, Any]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


def _sorry(status: int, title: str, detail: str, headers: Mapping[str, str] | None = None) -> Shown:
    return Shown("error.html", title, {"detail": detail}, status, headers or {})


class Site:
    """Serves below whatever it is mounted at; it needs no lifespan."""

    def __init__(self, house: Metering, look: Look) -> None:
        self._house = house
        self._look = look
        environment(), assets()  # MissingExtra and a broken installation show here, not at the first visit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        began = time.perf_counter()
        request = Request(scope, receive)
        response = self._house.endpoint_guard.refusal(scope) or await self._answer(request)
        response.headers.update(self._headers())
        response.headers["server-timing"] = f"page;dur={(time.perf_counter() - began) * 1000:.1f}"
        await response(scope, receive, send)

    def _headers(self) -> dict[str, str]:
        frames = " ".join(self._look.frames) or "'none'"
        return {
            "content-security-policy": (
                "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
                f"form-action 'self'; base-uri 'none'; frame-ancestors {frames}"
            ),
            "x-content-type-options": "nosniff",
            "referrer-policy": "same-origin",
            "cross-origin-opener-policy": "same-origin",
        }

    async def _answer(self, request: Request) -> Response:
        if request.method in SAFE and (place := _moved(request.scope)):
            return RedirectResponse(f"{place}?{request.url.query}" if request.url.query else place, 307)
        path = _path(request.scope)
        if path.startswith("static/"):
            return _static(request, path.removeprefix("static/"))
        request.state.guest = None
        try:
            found = await self._look.known(request)
            if isinstance(found, Response):
                return found
            if found is None:
                return self._page(request, _sorry(403, "No entry", self._look.stranger))
            request.state.guest = found
            await self._house.startup()
            if request.method == "POST":
                return await self._act(request, path, found)
            return await self._shown(request, path, found)
        except HTTPException as error:
            return self._page(request, _sorry(error.status_code, "No entry", str(error.detail), error.headers))
        except MeteringError as error:
            status = next((status for kind, status in STATUS.items() if isinstance(error, kind)), 500)
            return self._page(request, _sorry(status, "That did not work", str(error)))

    # -- looking ------------------------------------------------------------------------------------------------------

    async def _shown(self, request: Request, path: str, guest: Guest) -> Response:
        name = path.removesuffix(".json")
        show = self._look.shows.get(name)
        if show is None or request.method not in SAFE:
            return self._page(request, _sorry(404, "Not found", f"There is no page {path[:60]!r} here."))
        page = await show(Visit(self._house, guest.visitor, request.query_params, self._now(), tenant=guest.tenant))
        match page:
            case Document():
                return _file(page.content, page.media_type, page.name)
            case Page() if path.endswith(".json"):
                return _no_store(Response(json_text(page.value), media_type="application/json"))
            case Page() if "csv" in request.query_params:
                return _csv(page, request.query_params["csv"])
        data = {**page.data, "charts": page.charts, "files": page.files, "path": name}
        return self._page(request, Shown(page.template, page.title, data))

    def _page(self, request: Request, shown: Shown) -> Response:
        """A whole page; where htmx asks for a part, the page's part alone; where JSON was asked for, what went wrong as
        JSON."""
        if request.url.path.endswith(".json"):
            return _problem(shown)
        guest: Guest | None = request.state.guest
        said = _said(request)
        values = {
            "site": self._look.name,
            "menu": self._look.menu if guest else (),
            "current": self._look.home.get(shown.data.get("path", "-")),
            "badge": self._look.badge(),
            "title": shown.title,
            "visitor": guest.visitor if guest else None,
            "tenant_of_portal": guest.tenant if guest else "",
            "query": request.query_params,
            "now": self._now(),
            "frame": "part.html" if PARTIAL in request.headers else "base.html",
            "said": said,
            **shown.data,
        }
        content, encoding = html(shown.template, values), {}
        if request.method in SAFE and _takes_gzip(request):  # an answer to a POST may hold a secret: never compressed
            content, encoding = gzip.compress(content, PAGE_LEVEL), {"content-encoding": "gzip"}
        response = _no_store(Response(content, shown.status, encoding, "text/html"))
        response.headers["vary"] = f"{PARTIAL}, accept-encoding"
        for name, value in shown.headers.items():
            response.headers[name] = value
        if said:
            response.delete_cookie(SAID)
        return response

    def _now(self) -> datetime:
        return self._house.clock.now()

    # -- acting -------------------------------------------------------------------------------------------------------

    async def _act(self, request: Request, path: str, guest: Guest) -> Response:
        if path not in self._look.does:
            return self._page(request, _sorry(404, "Not found", f"Nothing can be done at {path[:60]!r}."))
        role, act = self._look.does[path]
        if not is_own(request):
            detail = "This was sent by a page of elsewhere; open the page here and try again."
            return self._page(request, _sorry(403, "Not from here", detail))
        if not guest.visitor.may(role):
            detail = f"This takes the role {role}; ask whoever set up the auth of this page."
            return self._page(request, _sorry(403, "Not allowed", detail))
        form = await _form(request)
        reason = form.get("reason", "")
        visit = Visit(self._house, guest.visitor, request.query_params, self._now(), form, guest.tenant)
        with self._house.acting(guest.visitor.actor, reason=reason if isinstance(reason, str) else ""):
            done = await act(visit)
        if isinstance(done, Page):
            return self._page(request, Shown(done.template, done.title, {**done.data, "path": path}))
        response = RedirectResponse(done.see, 303)
        said = base64.urlsafe_b64encode(done.said[:MAX_SAID].encode()).decode()
        response.set_cookie(SAID, said, max_age=10, httponly=True, samesite="strict")
        return _no_store(response)


# -- inside -----------------------------------------------------------------------------------------------------------


async def _form(request: Request) -> FormData:
    """InvalidInput for one that is larger than any here, or is none."""
    if int(request.headers.get("content-length") or 0) > MAX_FORM:
        raise InvalidInput("form", f"has more than {MAX_FORM:,} bytes")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM:
            raise InvalidInput("form", f"has more than {MAX_FORM:,} bytes")
    try:
        return FormData(dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=100)))
    except ValueError:
        raise InvalidInput("form", "cannot be read; send it as application/x-www-form-urlencoded") from None


def _path(scope: Scope) -> str:
    """Below what it is mounted at, without slashes around it."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    below = path[len(root) :] if root and path.startswith(f"{root}/") else path
    return "" if path == root else below.strip("/")


def _moved(scope: Scope) -> str:
    """Where a page is whose links would lead astray from here: relative ones go by the slashes of the address. ""
    for one that is where it should be."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    if root and path == root:
        return f"./{quote(root.rpartition('/')[2])}/"
    own = _path(scope)
    return f"../{quote(own)}" if own and "/" not in own and path.endswith(f"{own}/") else ""


def _said(request: Request) -> str:
    """What was done just now, from the cookie that no other site can set."""
    try:
        return base64.urlsafe_b64decode(request.cookies.get(SAID, "").encode()).decode()[:MAX_SAID]
    except ValueError:
        return ""


def _problem(shown: Shown) -> Response:
    body = {"type": "about:blank", "title": shown.title, "status": shown.status, "detail": shown.data["detail"]}
    return _no_store(Response(json_text(body), shown.status, shown.headers, "application/problem+json"))


def _static(request: Request, name: str) -> Response:
    asset = assets().get(name)
    if asset is None:
        return Response(status_code=404)
    headers = {"cache-control": FOREVER, "vary": "accept-encoding", "etag": f'"{asset.version}"'}
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=304, headers=headers)
    if _takes_gzip(request):
        headers["content-encoding"] = "gzip"
        return Response(asset.compressed, headers=headers, media_type=asset.media_type)
    return Response(asset.content, headers=headers, media_type=asset.media_type)


def _takes_gzip(request: Request) -> bool:
    return "gzip" in request.headers.get("accept-encoding", "")


def _csv(page: Page, name: str) -> Response:
    """NotFound for a file that the page does not have."""
    if (chart := page.charts.get(name)) is not None:
        text = csv_text(chart.header, chart.rows)
    elif (rows := page.files.get(name)) is not None:
        text = csv_text(rows.header, rows.rows)
    else:
        raise NotFound(
            f"there is no file {name[:40]!r} here; there is {', '.join([*page.charts, *page.files]) or 'none'}"
        )
    return _file(text.encode("utf-8"), "text/csv; charset=utf-8", f"{name}.csv")


def _file(content: bytes, media_type: str, name: str) -> Response:
    kept = f"attachment; filename*=UTF-8''{quote(name, safe='')}"
    return _no_store(Response(content, headers={"content-disposition": kept}, media_type=media_type))


def _no_store(response: Response) -> Response:
    response.headers["cache-control"] = "no-store"
    return response
