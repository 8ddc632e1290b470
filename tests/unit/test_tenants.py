"""Resolvers: which tenant a request names, by what the host found, by a key, or by several ways at once."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType, ModuleType
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.authentication import (
    AuthCredentials,
    AuthenticationBackend,
    SimpleUser,
    UnauthenticatedUser,
)
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import Scope

import mm_metering
from mm_metering.errors import InvalidInput, InvalidTenant, UnknownTenant
from mm_metering.middleware.tenants import (
    Found,
    Resolver,
    anonymous,
    challenge_of,
    first_of,
    found_id,
    from_header,
    from_state,
    from_user,
)
from mm_metering.middleware.tokens import from_jwt
from tests.unit.callers import PAST, SECRET, ask, later, resolve, scope_of, signed, with_key, with_token

NO_KEYS: dict[str, str] = {}


@dataclass(frozen=True)
class Organisation:
    id: str


# ---- what a resolver may find ----


@pytest.mark.parametrize(
    ("found", "tenant"),
    [
        ("acme", "acme"),
        (Organisation("acme"), "acme"),
        ("a:b{}🙂", "a:b{}🙂"),
        (None, None),
        ("", None),
        ("nul\x00", None),
        ("\ud800", None),
        ("x" * 257, None),
        (Organisation(""), None),
    ],
)
def test_an_id_is_found_in_text_and_in_objects_that_have_one(found: Found, tenant: str | None) -> None:
    assert found_id(found) == tenant


@pytest.mark.parametrize("found", [7, object(), b"acme", SimpleUser("ann"), ["acme"]])
def test_what_has_no_id_is_a_bug_of_the_resolver(found: Any) -> None:
    with pytest.raises(TypeError, match=f"returned {type(found).__name__}; return an id"):
        found_id(found)


async def test_a_wrong_credential_and_none_at_all_read_the_same_to_the_caller() -> None:
    resolver = from_header("x-api-key", {"good": "acme"}.get)
    assert await resolve(resolver, with_key("good")) == "acme"
    assert await resolve(resolver, with_key("bad")) is None
    assert await resolve(resolver, scope_of()) is None


async def test_the_log_says_why_a_credential_was_wrong_but_not_which(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "mm_metering.middleware")
    await resolve(from_header("x-api-key", NO_KEYS.get), with_key("sk_live_1"))
    await resolve(from_jwt("org", SECRET), with_token(signed(SECRET, exp=PAST)))
    assert [record.getMessage() for record in caplog.records] == [
        "a credential names no tenant: nobody owns the key",
        "a credential names no tenant: the token is refused: ExpiredSignatureError",
    ]


def test_resolvers_are_public_names() -> None:
    public = [anonymous, first_of, from_header, from_jwt, from_state, from_user]
    names = [resolver.__name__ for resolver in public]
    assert [getattr(mm_metering, name) for name in names] == public
    assert set(names) <= set(mm_metering.__all__)


# ---- what the host's middleware found ----


async def test_the_state_names_a_tenant_by_id_or_as_an_object() -> None:
    assert await resolve(from_state(), scope_of(state={"tenant": "acme"})) == "acme"
    assert await resolve(from_state("org"), scope_of(state={"org": Organisation("acme"), "tenant": "x"})) == "acme"


@pytest.mark.parametrize("more", [{}, {"state": {}}, {"state": {"other": "acme"}}, {"state": {"tenant": None}}])
async def test_an_empty_state_names_nobody(more: dict[str, object]) -> None:
    assert await ask(from_state(), scope_of(**more)) is None


@dataclass
class Member:
    org: str
    is_authenticated: bool = True


@pytest.mark.parametrize("found", [lambda user: user.org, lambda user: later(Organisation(user.org))])
async def test_the_user_names_a_tenant_by_a_plain_or_async_function(found: Callable[[Any], Any]) -> None:
    assert await resolve(from_user(found), scope_of(user=Member("acme"))) == "acme"


@pytest.mark.parametrize(
    "more", [{}, {"user": UnauthenticatedUser()}, {"user": Member("acme", is_authenticated=False)}]
)
async def test_the_function_is_not_called_without_an_authenticated_user(more: dict[str, object]) -> None:
    seen: list[object] = []
    assert await ask(from_user(seen.append), scope_of(**more)) is None
    assert seen == []


class ByName(AuthenticationBackend):
    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser] | None:
        name = conn.headers.get("x-user")
        return (AuthCredentials(), SimpleUser(name)) if name else None


async def test_starlettes_own_state_and_user_are_read() -> None:
    by_state = from_state()
    by_user = from_user(SimpleUser.display_name.fget)  # type: ignore[attr-defined]

    async def page(request: Request) -> PlainTextResponse:
        request.state.tenant = "acme"
        return PlainTextResponse(f"{await resolve(by_state, request.scope)} {await resolve(by_user, request.scope)}")

    app = Starlette(routes=[Route("/", page)])
    app.add_middleware(AuthenticationMiddleware, backend=ByName())
    with TestClient(app) as client:
        assert client.get("/", headers={"x-user": "ann"}).text == "acme ann"
        assert client.get("/").text == "acme None"


# ---- several ways to call ----


def wrong(scope: Scope) -> str:
    raise UnknownTenant


def nobody(scope: Scope) -> None:
    return None


def named(tenant: str) -> Resolver:
    return lambda scope: tenant


@pytest.mark.parametrize(
    ("resolvers", "tenant"),
    [
        ([named("a"), named("b")], "a"),
        ([nobody, named("b")], "b"),
        ([lambda scope: later(None), lambda scope: later(Organisation("b"))], "b"),
        ([nobody, nobody], None),
        ([wrong, named("b")], None),
        ([nobody, wrong, anonymous()], None),
        ([nobody, first_of(nobody, named("c")), anonymous()], "c"),
        ([nobody, anonymous()], "anonymous"),
        ([named("nul\x00"), anonymous()], None),
    ],
)
async def test_the_first_that_names_somebody_counts_and_a_wrong_credential_ends_it(
    resolvers: list[Resolver], tenant: str | None
) -> None:
    assert await resolve(first_of(*resolvers), scope_of()) == tenant


@pytest.mark.parametrize(
    ("headers", "tenant"),
    [
        ([("x-api-key", "good")], "acme"),
        ([("x-api-key", "bad")], None),
        ([("x-api-key", "good"), ("x-api-key", "good")], None),
        ([("x-api-key", b"\xff")], None),
        ([("x-api-key", "")], "shared"),
        ([("authorization", "Bearer broken")], None),
        ([("authorization", "Bearer")], None),
        ([("authorization", "Basic YTpi")], "shared"),
        ([], "shared"),
    ],
)
async def test_only_callers_without_any_credential_are_anonymous(
    headers: list[tuple[str, str | bytes]], tenant: str | None
) -> None:
    keyed = from_header("x-api-key", {"good": "acme"}.get)
    assert await resolve(first_of(keyed, from_jwt("org", SECRET), anonymous("shared")), scope_of(*headers)) == tenant


def test_the_challenge_lists_every_way_to_call_once() -> None:
    key, token = from_header("x-api-key", NO_KEYS.get), from_jwt("org", SECRET)
    both = 'ApiKey realm="api", header="x-api-key", Bearer realm="api"'
    assert challenge_of(first_of(key, token, anonymous())) == both
    assert challenge_of(first_of(key, first_of(token, key), token)) == both
    assert challenge_of(first_of(token, from_header("authorization", NO_KEYS.get), nobody)) == 'Bearer realm="api"'
    assert challenge_of(first_of(from_state(), anonymous())) == challenge_of(None) == 'ApiKey realm="api"'
    assert challenge_of(from_jwt("org", SECRET, header="x-assertion")) == 'Bearer realm="api", header="x-assertion"'
    assert not hasattr(anonymous(), "challenge")


def test_first_of_needs_a_resolver_and_anonymous_a_tenant_id() -> None:
    with pytest.raises(InvalidInput, match="resolvers: first_of needs at least one"):
        first_of()
    with pytest.raises(InvalidTenant):
        anonymous("nul\x00")


def test_reprs_say_how_a_resolver_was_made_and_show_no_key() -> None:
    def owner(key: str) -> str | None:
        return None

    resolver = first_of(
        from_header("x-org-id"),
        from_header("x-api-key", partial(max, "sk_live_1")),
        from_jwt("org.id", SECRET),
        from_state("org"),
        from_user(owner),
        partial(max, "sk_live_2"),
        anonymous(),
    )
    assert repr(resolver) == (
        "first_of(from_header('x-org-id'), from_header('x-api-key', partial), from_jwt('org.id'), from_state('org'), "
        "from_user(test_reprs_say_how_a_resolver_was_made_and_show_no_key.<locals>.owner), partial, "
        "anonymous('anonymous'))"
    )
    assert not [text for text in reprs_below(resolver) if SECRET in text]


# ---- keys and their owners ----


@dataclass
class Directory:
    """A lookup over a table of keys, which counts its calls. While ``may_end`` is not set, nobody gets an answer."""

    owners: dict[str, str] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    may_end: asyncio.Event | None = None
    error: Exception | None = None
    cancelled: int = 0

    async def find(self, key: str) -> Organisation | None:
        self.calls[key] += 1
        try:
            await (self.may_end.wait() if self.may_end else asyncio.sleep(0))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error:
            raise self.error
        return Organisation(self.owners[key]) if key in self.owners else None


@pytest.fixture
def loop_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the running loop's clock."""
    return lambda now_s: monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now_s)


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def in_loops(resolver: Any) -> list[Any]:
    """What each event loop knows of owners."""
    return [owners for _, owners in resolver._owners._per_loop.all()]


def kept_keys(resolver: Resolver) -> int:
    """How many keys are kept or asked for, in all event loops."""
    return sum(len(owners._kept) + len(owners._flights) for owners in in_loops(resolver))


@pytest.mark.parametrize(
    "lookup", [lambda key: "acme", lambda key: Organisation("acme"), lambda key: later(Organisation("acme"))]
)
async def test_a_lookup_is_plain_or_async_and_returns_an_id_or_an_object(lookup: Callable[[str], Any]) -> None:
    resolver = from_header("x-api-key", lookup)
    assert [await ask(resolver, with_key("k")), await ask(resolver, with_key("k"))] == ["acme", "acme"]


async def test_a_key_is_looked_up_once_per_ttl(loop_time: Callable[[float], None]) -> None:
    directory = Directory({"k": "acme"})
    resolver = from_header("x-api-key", directory.find, ttl_s=60)
    for now_s, calls in [(100.0, 1), (159.9, 1), (160.0, 2), (219.9, 2), (220.0, 3)]:
        loop_time(now_s)
        assert await ask(resolver, with_key("k")) == "acme"
        assert directory.calls["k"] == calls


async def test_the_ttl_runs_from_when_the_lookup_was_asked(loop_time: Callable[[float], None]) -> None:
    directory = Directory({"k": "acme"}, may_end=asyncio.Event())
    resolver = from_header("x-api-key", directory.find, ttl_s=60)
    loop_time(100.0)
    first = asyncio.create_task(resolve(resolver, with_key("k")))
    await turns()
    loop_time(150.0)
    assert directory.may_end is not None
    directory.may_end.set()
    assert await first == "acme"
    loop_time(160.0)
    assert await ask(resolver, with_key("k")) == "acme"
    assert directory.calls["k"] == 2


async def test_a_revoked_key_ends_with_its_ttl_and_leaves_nothing(loop_time: Callable[[float], None]) -> None:
    directory = Directory({"k": "acme"})
    resolver = from_header("x-api-key", directory.find, ttl_s=60)
    loop_time(0.0)
    await ask(resolver, with_key("k"))
    directory.owners.clear()
    loop_time(60.0)
    with pytest.raises(UnknownTenant):
        await ask(resolver, with_key("k"))
    assert kept_keys(resolver) == 0


async def test_without_a_ttl_every_request_asks() -> None:
    directory = Directory({"k": "acme"})
    resolver = from_header("x-api-key", directory.find, ttl_s=0)
    assert [await ask(resolver, with_key("k")) for _ in range(3)] == ["acme"] * 3
    assert directory.calls["k"] == 3
    assert kept_keys(resolver) == 0


async def test_a_hundred_requests_with_a_new_key_wait_for_one_lookup() -> None:
    directory = Directory({"k": "acme", "other": "beta"})
    resolver = from_header("x-api-key", directory.find)
    requests = [resolve(resolver, with_key(key)) for key in ["k"] * 100 + ["other"]]
    assert await asyncio.gather(*requests) == ["acme"] * 100 + ["beta"]
    assert directory.calls == {"k": 1, "other": 1}


async def test_an_error_of_the_lookup_reaches_all_who_wait_and_is_not_kept() -> None:
    directory = Directory({"k": "acme"}, error=ConnectionError("the key store is down"))
    resolver = from_header("x-api-key", directory.find)
    answers = await asyncio.gather(*(resolve(resolver, with_key("k")) for _ in range(10)), return_exceptions=True)
    assert answers == [directory.error] * 10
    assert (directory.calls["k"], kept_keys(resolver)) == (1, 0)
    directory.error = None
    assert await resolve(resolver, with_key("k")) == "acme"


async def test_one_waiter_that_is_cancelled_does_not_end_the_lookup_of_the_others() -> None:
    directory = Directory({"k": "acme"}, may_end=asyncio.Event())
    resolver = from_header("x-api-key", directory.find)
    first, second, third = (asyncio.create_task(resolve(resolver, with_key("k"))) for _ in range(3))
    await turns()
    first.cancel()
    await turns()
    assert directory.may_end is not None
    directory.may_end.set()
    assert [await second, await third] == ["acme", "acme"]
    assert first.cancelled()
    assert (directory.calls["k"], directory.cancelled) == (1, 0)


async def test_a_lookup_that_nobody_waits_for_any_more_ends_and_the_next_request_asks_anew() -> None:
    directory = Directory({"k": "acme"}, may_end=asyncio.Event())
    resolver = from_header("x-api-key", directory.find)
    waiters = [asyncio.create_task(resolve(resolver, with_key("k"))) for _ in range(2)]
    await turns()
    for waiter in waiters:
        waiter.cancel()
    await turns()
    assert (directory.cancelled, kept_keys(resolver)) == (1, 0)
    directory.may_end = None
    assert await resolve(resolver, with_key("k")) == "acme"
    assert directory.calls["k"] == 2


async def test_the_keys_used_last_are_kept_up_to_the_bound() -> None:
    directory = Directory({key: key.upper() for key in "abcd"})
    resolver = from_header("x-api-key", directory.find, most=3)
    for key in "abcabad":  # b and a were used after c
        assert await ask(resolver, with_key(key)) == key.upper()
    assert kept_keys(resolver) == 3
    for key in "abdc":
        await ask(resolver, with_key(key))
    assert directory.calls == {"a": 1, "b": 1, "c": 2, "d": 1}


async def test_a_flood_of_unknown_keys_grows_nothing() -> None:
    directory = Directory({"good": "acme"})
    resolver = from_header("x-api-key", directory.find)
    assert await resolve(resolver, with_key("good")) == "acme"
    for start in range(0, 10_000, 500):
        flood = [resolve(resolver, with_key(f"bogus {n}")) for n in range(start, start + 500)]
        assert set(await asyncio.gather(*flood)) == {None}
    assert directory.calls.total() == 10_001
    assert kept_keys(resolver) == 1
    await resolve(resolver, with_key("good"))
    assert directory.calls["good"] == 1


async def test_an_unknown_key_that_is_repeated_at_once_is_asked_for_once_and_refused_for_all() -> None:
    directory = Directory()
    resolver = from_header("x-api-key", directory.find)
    answers = await asyncio.gather(*(ask(resolver, with_key("k")) for _ in range(10)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [UnknownTenant] * 10
    assert (directory.calls["k"], kept_keys(resolver)) == (1, 0)


async def test_an_owner_whose_id_cannot_be_one_is_nobody_and_not_kept() -> None:
    resolver = from_header("x-api-key", lambda key: "nul\x00")
    with pytest.raises(UnknownTenant):
        await ask(resolver, with_key("k"))
    assert kept_keys(resolver) == 0


async def test_a_lookup_that_returns_something_else_is_a_bug() -> None:
    with pytest.raises(TypeError, match="returned int; return an id"):
        await resolve(from_header("x-api-key", lambda key: 7), with_key("k"))  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("headers", [[], [("x-api-key", "")], [("x-api-key", " ")], [("x-other", "k")]])
async def test_a_missing_key_is_not_looked_up(headers: list[tuple[str, str | bytes]]) -> None:
    directory = Directory()
    assert await ask(from_header("x-api-key", directory.find), scope_of(*headers)) is None
    assert directory.calls == {}


@pytest.mark.parametrize(
    "headers", [[("x-api-key", "k"), ("x-api-key", "k")], [("x-api-key", b"\xff")], [("x-api-key", "k" * 9_000)]]
)
async def test_a_key_that_cannot_be_right_is_a_wrong_one(headers: list[tuple[str, str | bytes]]) -> None:
    with pytest.raises(UnknownTenant):
        await ask(from_header("x-api-key", Directory({"k": "acme"}).find), scope_of(*headers))


async def test_no_key_stays_in_the_memory_of_the_resolver() -> None:
    key = "-".join(["sk", "live", "4242"])
    resolver = from_header("x-api-key", Directory({key: "acme"}).find)
    resolver_before = list(texts_below(resolver))
    assert await ask(resolver, with_key(key)) == "acme"
    texts = list(texts_below(resolver))
    assert "acme" in texts
    assert "acme" not in resolver_before
    assert not [text for text in texts if key in text]
    assert kept_keys(resolver) == 1


async def test_a_kept_key_is_a_hash_that_needs_the_resolvers_own_secret() -> None:
    first, second = (from_header("x-api-key", {"k": "acme"}.get) for _ in range(2))
    await ask(first, with_key("k"))
    await ask(second, with_key("k"))
    digests = {digest for each in (first, second) for owners in in_loops(each) for digest in owners._kept}
    assert len(digests) == 2
    assert hashlib.blake2b(b"k", digest_size=32).digest() not in digests


def test_each_event_loop_asks_for_itself_and_a_closed_one_is_forgotten() -> None:
    directory = Directory({"k": "acme"})
    resolver = from_header("x-api-key", directory.find)

    async def requests() -> list[str | None]:
        return await asyncio.gather(*(resolve(resolver, with_key("k")) for _ in range(10)))

    for calls in (1, 2):
        assert asyncio.run(requests()) == ["acme"] * 10
        assert directory.calls["k"] == calls
    gc.collect()
    assert kept_keys(resolver) == 0


@pytest.mark.parametrize("options", [{"ttl_s": -1}, {"ttl_s": float("nan")}, {"ttl_s": float("inf")}, {"most": 0}])
def test_bounds_of_what_is_kept_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(options))):
        from_header("x-api-key", NO_KEYS.get, **options)


def below(root: object) -> Iterator[object]:
    """Everything that an object holds on to, but for code, classes and the lookup, which is the host's."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(each, type | ModuleType | FunctionType | Directory):
            continue
        seen.add(id(each))
        yield each
        waiting.extend(gc.get_referents(each))


def texts_below(root: object) -> Iterator[str]:
    for each in below(root):
        if isinstance(each, str | bytes):
            yield each if isinstance(each, str) else each.decode("latin-1")


def reprs_below(root: object) -> Iterator[str]:
    return (repr(each) for each in below(root) if type(each).__module__.startswith("mm_metering.middleware."))
