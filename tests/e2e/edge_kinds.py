"""The table: requests of every kind, what each is answered, what it counts, and where servers differ.

docs/http.md shows it; ``./dev run python -m tests.e2e.edge_kinds`` writes it there anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

from examples.mortgagematch.stage import ROOT
from mm_metering import EXPOSED_HEADERS
from tests.e2e.edge_app import ETAG, ORIGIN, PAGE_ROWS, WORDS_A_DAY
from tests.e2e.edge_asks import (
    Ask,
    break_off,
    chat,
    events,
    expect,
    file,
    from_browser,
    get,
    hang_up,
    http2,
    leave,
    leave_upload,
    nobody,
    send,
    speak_past_the_limit,
    stay_connected,
    talk,
    upload,
)
from tests.e2e.edge_server import HOST, UNHEARD, Server

H11, HTTPTOOLS, HYPERCORN, GRANIAN = "uvicorn h11", "uvicorn httptools", "hypercorn", "granian"
_UVICORN: Final = ("uvicorn", "--host", HOST, "--port", "{port}")
_HYPERCORN: Final = ("hypercorn", "--bind", f"{HOST}:{{port}}")
_GRANIAN: Final = ("granian", "--interface", "asgi", "--workers", "1", "--host", HOST, "--port", "{port}")
SERVERS: Final = (
    Server(H11, (*_UVICORN, "--http", "h11", "--ws", "websockets"), cors="before"),
    Server(HTTPTOOLS, (*_UVICORN, "--http", "httptools", "--ws", "wsproto"), cors="after"),
    Server(HYPERCORN, _HYPERCORN, cors="before"),
    Server(GRANIAN, _GRANIAN, cors="after"),
)
PREFIXED: Final = (
    Server("uvicorn --root-path", (*_UVICORN, "--root-path", "/api", "--ws", "websockets-sansio")),
    Server("hypercorn --root-path", (*_HYPERCORN, "--root-path", "/api")),
    Server("granian --url-path-prefix", (*_GRANIAN, "--url-path-prefix", "/api")),
)
"""Behind a proxy that serves them under /api."""
PATHS: Final[Mapping[str, Mapping[str, int]]] = {
    "/async": {each.name: 200 for each in PREFIXED},
    "/api/async": {each.name: 404 if each.name.startswith("uvicorn") else 200 for each in PREFIXED},
}
"""What a proxy asks that takes the prefix off, and one that does not: uvicorn puts the prefix before every path."""

Says: TypeAlias = frozenset[str]
OURS: Final = frozenset(name.lower() for name in EXPOSED_HEADERS)
NOTHING: Final[Says] = frozenset()
LIMITS: Final[Says] = frozenset({"ratelimit", "ratelimit-policy"})
REFUSAL: Final[Says] = LIMITS | {"retry-after", "x-should-retry"}
CHALLENGE: Final[Says] = frozenset({"www-authenticate"})
NO: Final[Mapping[str, int]] = {}
CALL: Final[Mapping[str, int]] = {"api_calls": 1}


class Kind(NamedTuple):
    """A kind of request. ``on``: what is otherwise on a server; None where the server does not speak it."""

    name: str
    ask: Ask
    status: int
    counts: Mapping[str, int]
    says: Says
    is_spent: bool = False
    on: Mapping[str, Mapping[str, Any] | None] = {}

    def at(self, server: str) -> Kind | None:
        changes = self.on.get(server, {})
        return None if changes is None else self._replace(**changes)


_spent: Final = partial(Kind, status=429, counts=NO, says=REFUSAL, is_spent=True)
_failed: Final = partial(Kind, status=500, counts=NO, says=NOTHING)

_preflight: Final = from_browser(send("OPTIONS", "/sync", origin=ORIGIN, access_control_request_method="GET"))
_accepted: Final = partial(Kind, status=101, says=LIMITS, on={GRANIAN: {"says": NOTHING}})
_unheard: Final = partial(Kind, status=UNHEARD, says=NOTHING)
_http2: Final = partial(Kind, status=200, counts=CALL, says=LIMITS)
_NO_HTTP2: Final = {H11: None, HTTPTOOLS: None}

KINDS: Final[Mapping[str, Sequence[Kind]]] = {
    "Answers": (
        Kind("`def` handler", expect(get("/sync"), b'"sync"'), 200, CALL, LIMITS),
        Kind("`async def` handler", expect(get("/async"), b'"async"'), 200, CALL, LIMITS),
        Kind("`HEAD`: as the `GET`", send("HEAD", "/page"), 200, {**CALL, "rows": PAGE_ROWS}, LIMITS),
        Kind("a stream", expect(get("/stream"), b"line\n" * 3), 200, CALL, LIMITS),
        Kind("server-sent events, each as it comes", events, 200, CALL, LIMITS),
        Kind("a file, its bytes metered", file, 200, {**CALL, "egress": 70_000}, LIMITS),
        Kind("a part of it (`Range`)", get("/file", range="bytes=0-999"), 206, {**CALL, "egress": 1_000}, LIMITS),
        Kind("`HEAD` where bytes are metered", send("HEAD", "/bytes"), 200, CALL, LIMITS),
        Kind("`304` to a conditional request", get("/conditional", if_none_match=ETAG), 304, CALL, NOTHING),
        Kind("the handler redirects", get("/redirect"), 307, CALL, NOTHING),
        Kind("`OPTIONS` on a route of the app", send("OPTIONS", "/options"), 200, CALL, LIMITS),
        Kind("a stream that breaks off", break_off, 200, CALL, LIMITS),
        Kind("trailers, where HTTP/1.1 has none", expect(get("/trailers"), b"summed"), 200, CALL, LIMITS),
        _http2("HTTP/2", http2("/async", {}), on=_NO_HTTP2),
        _http2("HTTP/2 with trailers", http2("/trailers", {"x-sum": "6"}), on={**_NO_HTTP2, GRANIAN: None}),
        Kind("a background task adds 7 rows", get("/background"), 200, {**CALL, "rows": 7}, LIMITS),
    ),
    "Errors": (
        Kind("no such route", get("/nowhere"), 404, NO, NOTHING),
        Kind("no such method", send("PUT", "/sync"), 405, NO, NOTHING),
        Kind("Starlette redirects `/sync/` to `/sync`", get("/sync/"), 307, NO, NOTHING),
        Kind("the handler says 404", get("/raises/404"), 404, CALL, LIMITS),
        Kind("the app says 401", get("/raises/401"), 401, NO, NOTHING),
        Kind("the app says 403", get("/returns/403"), 403, NO, NOTHING),
        _failed("the handler answers 500", get("/returns/500")),
        _failed("the handler raises", get("/fails")),
        _failed("a `yield` dependency raises before its `yield`", get("/fails/before")),
        _failed('… after it, with `scope="function"`', get("/fails/after-function")),
        Kind("… after it, when the answer is out", get("/fails/after"), 200, CALL, LIMITS),
    ),
    "Refusals": (
        _spent("over the quota", get("/sync")),
        _spent("`HEAD` over the quota: no body; the connection stays open", stay_connected("HEAD")),
        _spent("three requests on one connection, over the quota", stay_connected("GET")),
        _spent("1 MB over the quota, sent at once", send("POST", "/upload", b"x" * 1_000_000)),
        _spent("50 MB over the quota, `Expect: 100-continue`", partial(upload, is_asking=True)),
        _spent("50 MB over the quota, sent after the answer", partial(upload, is_asking=False)),
        Kind("no tenant", nobody("/sync"), 401, NO, CHALLENGE),
        Kind("an unknown tenant", nobody("/sync", "stranger"), 401, NO, CHALLENGE),
        Kind("an exempt route, nobody asks who", nobody("/open"), 200, NO, NOTHING),
    ),
    "Browsers": (
        Kind("preflight", _preflight, 200, NO, NOTHING),
        Kind("preflight of a tenant over its quota", _preflight, 200, NO, NOTHING, is_spent=True),
        _spent("over the quota, with CORS headers", from_browser(get("/sync", origin=ORIGIN))),
    ),
    "Bodies, and clients that leave": (
        Kind("a chunked body", expect(send("POST", "/upload", (b"x" * 900, b"y" * 100)), b"1000"), 200, CALL, LIMITS),
        _unheard("the client leaves before the first byte, the handler finishes", leave("/gone/finishes"), counts=CALL),
        _unheard("… and the handler raises", leave("/gone/stops"), counts=NO),
        _unheard("the client leaves while it uploads a stream", leave_upload("/upload"), counts=NO),
        _unheard("… or JSON, for FastAPI a 400", leave_upload("/parsed"), counts=CALL),
        Kind("the client leaves after the first byte of a stream", leave("/endless", after_bytes=1), 200, CALL, LIMITS),
    ),
    "Websockets": (
        _accepted("a handshake, then messages", talk("/echo", chat), counts=CALL),
        _accepted(
            "each message metered, to the limit: then close 1008",
            talk("/words", speak_past_the_limit),
            counts={**CALL, "words": WORDS_A_DAY},
        ),
        _spent("over the quota, before `accept`", talk("/echo")),
        Kind("a handshake of nobody", talk("/echo", tenant=None), 401, NO, CHALLENGE),
        _accepted("the client goes without a word", hang_up, counts=CALL),
        _accepted("the handler raises after `accept`", talk("/fails/accepted"), counts=CALL),
        _failed("the handler raises before `accept`", talk("/fails"), on={GRANIAN: {"status": 403}}),
        Kind("the app denies it with a 401", talk("/denied"), 401, NO, NOTHING),
        Kind("the app closes before `accept`", talk("/turned-away"), 403, NO, NOTHING),
        Kind("no such websocket", talk("/nowhere"), 403, NO, NOTHING),
    ),
}


# ---- the table in words ---------------------------------------------------------------------------------------------

DOCUMENT: Final = ROOT / "docs" / "http.md"
_PLACE: Final = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)
_SAYS: Final = {
    NOTHING: "–",
    LIMITS: "`RateLimit`",
    REFUSAL: "`RateLimit`, `Retry-After`",
    CHALLENGE: "`WWW-Authenticate`",
}
_UNITS: Final = {"api_calls": "call", "egress": "bytes"}


def document(text: str) -> str:
    """The document with its tables made anew."""
    tables = {"kinds": "\n".join(_kinds()), "prefixes": "\n".join(_prefixes())}
    return _PLACE.sub(lambda found: f"{found[1]}{tables[found[2]]}\n{found[3]}", text)


def _kinds() -> Iterator[str]:
    names = [server.name for server in SERVERS]
    for title, kinds in KINDS.items():
        yield f"\n### {title}\n"
        yield f"| request | answer | counts | headers | {' | '.join(names)} |"
        yield "|---|--:|---|---|" + ":-:|" * len(names)
        for kind in kinds:
            cells = [_difference(kind, kind.at(name)) for name in names]
            status = "–" if kind.status == UNHEARD else str(kind.status)
            yield f"| {' | '.join((kind.name, status, _counts(kind.counts), _SAYS[kind.says], *cells))} |"
    yield ""


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {_UNITS.get(meter, meter)}" for meter, n in counts.items()) or "–"


def _difference(kind: Kind, there: Kind | None) -> str:
    if there is None:
        return "not spoken"
    changed = {
        f"answers {there.status}": there.status != kind.status,
        f"counts {_counts(there.counts)}": there.counts != kind.counts,
        "no headers" if not there.says else _SAYS[there.says]: there.says != kind.says,
    }
    return "; ".join(text for text, is_so in changed.items() if is_so) or "✓"


def _prefixes() -> Iterator[str]:
    yield f"| the proxy sends | {' | '.join(f'`{server.name} /api`' for server in PREFIXED)} |"
    yield "|---|" + "---|" * len(PREFIXED)
    for path, statuses in PATHS.items():
        cells = [f"{status}, {'counted' if status == 200 else 'not counted'}" for status in statuses.values()]
        yield f"| `{path}` | {' | '.join(cells)} |"


if __name__ == "__main__":
    DOCUMENT.write_text(document(DOCUMENT.read_text()))
