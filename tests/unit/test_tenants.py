"""Resolvers: which tenant a request names, by what the host found, by a key, or by a signed token."""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
import hmac
import json
import logging
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from types import FunctionType, ModuleType
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
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
from mm_metering.errors import InvalidInput, InvalidTenant, MissingExtra, UnknownTenant
from mm_metering.middleware import tenants
from mm_metering.middleware.tenants import (
    Found,
    Resolver,
    anonymous,
    challenge_of,
    first_of,
    found_id,
    from_header,
    from_jwt,
    from_state,
    from_user,
    resolve,
)

PAST = 946_684_800
"""2000, which is over by any clock."""
FUTURE = 4_102_444_800
"""2100."""
NO_KEYS: dict[str, str] = {}


@dataclass(frozen=True)
class Organisation:
    id: str


def scope_of(*headers: tuple[str, str | bytes], **more: object) -> Scope:
    raw = [(name.encode(), value.encode() if isinstance(value, str) else value) for name, value in headers]
    return {"type": "http", "headers": raw, **more}


def with_key(key: str) -> Scope:
    return scope_of(("x-api-key", key))


def with_token(token: str) -> Scope:
    return scope_of(("authorization", f"Bearer {token}"))


async def ask(resolver: Resolver, scope: Scope) -> Found:
    """What the resolver itself says, with its UnknownTenant."""
    found = resolver(scope)
    return await found if isinstance(found, Awaitable) else found


async def later(found: Any) -> Any:
    await asyncio.sleep(0)
    return found


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
    names = ["anonymous", "first_of", "from_header", "from_jwt", "from_state", "from_user"]
    assert [getattr(mm_metering, name) for name in names] == [getattr(tenants, name) for name in names]
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


def kept_keys(resolver: Any) -> int:
    """How many keys are kept or asked for, in all event loops."""
    return sum(len(owners._kept) + len(owners._flights) for owners in resolver._by_loop.values())


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
    digests = {digest for each in (first, second) for owners in each._by_loop.values() for digest in owners._kept}  # type: ignore[attr-defined]
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
    return (repr(each) for each in below(root) if type(each).__module__ == tenants.__name__)


# ---- signed tokens ----

SECRET = "0123456789abcdef" * 2
LONG_SECRET = SECRET * 2


@cache
def rsa_key(name: str = "first", *, bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65_537, key_size=bits)


@cache
def ec_key(name: str = "first", curve: type[ec.EllipticCurve] = ec.SECP256R1) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(curve())


@cache
def ed_key() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | dsa.DSAPrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def private_pem(key: rsa.RSAPrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def jwk_of(key: Any, kid: str | None = None, **more: object) -> dict[str, object]:
    maker = {rsa.RSAPrivateKey: "RS256", ec.EllipticCurvePrivateKey: "ES256", ed25519.Ed25519PrivateKey: "EdDSA"}
    name = next(name for kind, name in maker.items() if isinstance(key, kind))
    made: dict[str, object] = jwt.get_algorithm_by_name(name).to_jwk(key.public_key(), as_dict=True)
    made.pop("key_ops", None)
    return {**made, **({"kid": kid} if kid else {}), **more}


def jwks(*keys: dict[str, object]) -> dict[str, object]:
    return {"keys": list(keys)}


def secret_jwk(secret: str, kid: str) -> dict[str, object]:
    return {"kty": "oct", "kid": kid, "alg": "HS256", "k": encoded(secret.encode())}


def signed(key: Any, algorithm: str = "HS256", *, kid: str | None = None, **claims: object) -> str:
    payload = {"org": "acme", "exp": FUTURE, **claims}
    return jwt.encode(payload, key, algorithm, headers={"kid": kid} if kid else None)


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forged(header: object, claims: object, sign: Callable[[bytes], bytes] = lambda data: b"") -> str:
    """A token made by hand, since PyJWT does not make the bad ones."""
    start = f"{encoded(json.dumps(header).encode())}.{encoded(json.dumps(claims).encode())}"
    return f"{start}.{encoded(sign(start.encode()))}"


def hmac_under(secret: str, name: str = "sha256") -> Callable[[bytes], bytes]:
    return lambda data: hmac.new(secret.encode(), data, name).digest()


@pytest.mark.parametrize(
    ("key", "token"),
    [
        (lambda: SECRET, lambda: signed(SECRET)),
        (SECRET.encode, lambda: signed(SECRET)),
        (lambda: pem(rsa_key()), lambda: signed(rsa_key(), "RS256")),
        (lambda: pem(rsa_key()).encode(), lambda: signed(rsa_key(), "RS256")),
        (lambda: pem(ec_key()), lambda: signed(ec_key(), "ES256")),
        (lambda: pem(ec_key("p384", ec.SECP384R1)), lambda: signed(ec_key("p384", ec.SECP384R1), "ES384")),
        (lambda: pem(ed_key()), lambda: signed(ed_key(), "EdDSA")),
        (lambda: jwk_of(rsa_key(), "a"), lambda: signed(rsa_key(), "RS256", kid="a")),
        (lambda: jwk_of(rsa_key(), "a", alg="PS256"), lambda: signed(rsa_key(), "PS256", kid="a")),
        (lambda: jwt.PyJWK(jwk_of(ec_key())), lambda: signed(ec_key(), "ES256")),
        (
            lambda: jwt.PyJWKSet([jwk_of(ec_key(), "a"), jwk_of(rsa_key(), "b")]),
            lambda: signed(rsa_key(), "RS256", kid="b"),
        ),
        (lambda: jwks(jwk_of(ec_key(), "a"), secret_jwk(SECRET, "b")), lambda: signed(SECRET, kid="b")),
    ],
)
async def test_a_token_is_verified_by_every_kind_of_key_with_its_own_algorithm(
    key: Any, token: Callable[[], str]
) -> None:
    resolver = from_jwt("org", key())
    assert await ask(resolver, with_token(token())) == "acme"
    with pytest.raises(UnknownTenant):
        await ask(resolver, with_token(signed(LONG_SECRET)))


@pytest.mark.parametrize(
    ("key", "algorithms", "token"),
    [
        (lambda: pem(rsa_key()), ["RS256", "PS512"], lambda: signed(rsa_key(), "PS512")),
        (lambda: LONG_SECRET, ["HS512"], lambda: signed(LONG_SECRET, "HS512")),
        (
            lambda: jwks(jwk_of(ec_key(), "a"), jwk_of(rsa_key(), "b")),
            ["RS256"],
            lambda: signed(rsa_key(), "RS256", kid="b"),
        ),
    ],
)
async def test_other_algorithms_of_the_keys_kind_may_be_named(
    key: Any, algorithms: list[str], token: Callable[[], str]
) -> None:
    assert await ask(from_jwt("org", key(), algorithms=algorithms), with_token(token())) == "acme"


async def test_only_the_algorithms_that_were_named_are_taken() -> None:
    with pytest.raises(UnknownTenant, match="InvalidAlgorithmError"):
        await ask(from_jwt("org", pem(rsa_key())), with_token(signed(rsa_key(), "RS512")))
    both = jwks(jwk_of(ec_key(), "a"), jwk_of(rsa_key(), "b"))
    with pytest.raises(UnknownTenant, match="no key fits it"):
        await ask(from_jwt("org", both, algorithms=["RS256"]), with_token(signed(ec_key(), "ES256", kid="a")))


@pytest.mark.parametrize(
    "header", [{"alg": "none"}, {"alg": "None"}, {"alg": ""}, {"alg": None}, {"alg": ["HS256"]}, {}]
)
@pytest.mark.parametrize("key", [lambda: SECRET, lambda: pem(rsa_key()), lambda: jwks(jwk_of(ec_key()))])
async def test_an_unsigned_token_is_a_wrong_credential(key: Any, header: dict[str, object]) -> None:
    for sign in (lambda data: b"", hmac_under(SECRET)):
        with pytest.raises(UnknownTenant):
            await ask(from_jwt("org", key()), with_token(forged(header, {"org": "acme"}, sign)))


@pytest.mark.parametrize("make", [rsa_key, ec_key])
@pytest.mark.parametrize("digest", ["256", "384", "512"])
async def test_a_public_key_is_never_a_secret_that_a_token_can_be_signed_with(
    make: Callable[[], Any], digest: str
) -> None:
    """Algorithm confusion: everybody has the public key, so everybody could sign with it."""
    public, parsed = pem(make()), jwks(jwk_of(make()))
    token = forged({"alg": f"HS{digest}"}, {"org": "victim"}, hmac_under(public, f"sha{digest}"))
    both = ["HS256", "HS384", "HS512", "RS256", "ES256"]
    for resolver in (
        from_jwt("org", public),
        from_jwt("org", parsed),
        from_jwt("org", lambda kid: public, algorithms=both),
        from_jwt("org", lambda kid: parsed, algorithms=both),
    ):
        with pytest.raises(UnknownTenant):
            await ask(resolver, with_token(token))


@pytest.mark.parametrize(
    ("key", "algorithms"),
    [
        (lambda: pem(rsa_key()), ["HS256"]),
        (lambda: pem(rsa_key()), ["RS256", "HS256"]),
        (lambda: pem(rsa_key()), ["ES256"]),
        (lambda: pem(ec_key()), ["ES384"]),
        (lambda: SECRET, ["RS256"]),
        (lambda: SECRET, ["none"]),
        (lambda: SECRET, ["HS256", "none"]),
        (lambda: SECRET, []),
        (lambda: SECRET, "HS"),
        (lambda: jwks(jwk_of(rsa_key())), ["RS256", "HS256"]),
        (lambda: jwks(jwk_of(rsa_key(), alg="RS512")), ["RS256"]),
        (lambda: lambda kid: SECRET, ["none"]),
        (lambda: lambda kid: SECRET, ["HS1"]),
    ],
)
def test_algorithms_that_do_not_fit_the_key_are_refused_when_it_is_made(key: Any, algorithms: list[str]) -> None:
    with pytest.raises(InvalidInput, match=r"algorithms: .*does not fit the kind of key"):
        from_jwt("org", key(), algorithms=algorithms)


@pytest.mark.parametrize(
    ("key", "algorithms"),
    [
        (lambda: "", None),
        (lambda: SECRET[:31], None),
        (lambda: SECRET, ["HS256", "HS384"]),
        (lambda: LONG_SECRET[:63], ["HS512"]),
        (lambda: secret_jwk(SECRET[:16], "a"), None),
        (lambda: pem(rsa_key(bits=1024)), None),
        (lambda: jwks(jwk_of(rsa_key(bits=1024))), None),
        (lambda: private_pem(rsa_key()), None),
        (lambda: pem(rsa_key()).replace("\n", "\\n"), None),
        (lambda: pem(dsa.generate_private_key(1024)), None),
        (lambda: pem(ec_key("odd", ec.SECP224R1)), None),
        (lambda: "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQC7 host", None),
        (lambda: json.dumps(jwks(jwk_of(rsa_key()))), None),
        (jwks, None),
        (lambda: jwks(jwk_of(rsa_key(), use="enc")), None),
        (lambda: {"kty": "oct"}, None),
        (lambda: {"kty": "oct", "k": SECRET, "alg": "none"}, None),
        (lambda: {"kty": "RSA", "alg": "HS256", **jwk_of(rsa_key())}, None),
        (lambda: {**jwk_of(rsa_key()), "d": "AQAB"}, None),
        (lambda: 7, None),
    ],
)
def test_a_key_that_is_weak_or_does_not_verify_is_refused_when_it_is_made(key: Any, algorithms: Any) -> None:
    with pytest.raises(InvalidInput, match="key: ") as refused:
        from_jwt("org", key(), algorithms=algorithms)
    assert refused.value.__suppress_context__ or refused.value.__context__ is None
    assert SECRET[:16] not in str(refused.value)


def spoiled(token: str) -> str:
    start, _, signature = token.rpartition(".")
    return f"{start}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "a.b.c",
        "..",
        "é.é.é",
        spoiled(signed(SECRET)),
        signed(LONG_SECRET),
        signed(SECRET, exp=PAST),
        signed(SECRET, nbf=FUTURE),
        signed(SECRET, iat=FUTURE),
        signed(SECRET, aud="elsewhere"),
        signed(SECRET, org=None),
        signed(SECRET, org=True),
        signed(SECRET, org=["acme"]),
        signed(SECRET, org={"id": "acme"}),
        forged({"alg": "HS256", "kid": 7}, {"org": "acme"}, hmac_under(SECRET)),
        forged({"alg": "HS256", "crit": ["x"], "x": 1}, {"org": "acme"}, hmac_under(SECRET)),
        forged({"alg": "HS256"}, ["acme"], hmac_under(SECRET)),
        forged({"alg": "HS256"}, {"org": "acme", "exp": "soon"}, hmac_under(SECRET)),
        forged(["HS256"], {"org": "acme"}, hmac_under(SECRET)),
    ],
)
async def test_a_token_that_is_not_valid_or_names_nobody_is_a_wrong_credential(token: str) -> None:
    with pytest.raises(UnknownTenant):
        await ask(from_jwt("org", SECRET), with_token(token))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), st.integers(0, 2))
def test_no_text_in_place_of_a_token_is_a_bug(text: str, position: int) -> None:
    parts = signed(SECRET).split(".")
    parts[position] = encoded(text.encode())
    resolver = from_jwt("org", SECRET)
    for token in (text, ".".join(parts)):
        assert asyncio.run(resolve(resolver, with_token(token))) in (None, "acme" if token == signed(SECRET) else None)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", "")],
        [("authorization", "Basic YTpi")],
        [("authorization", signed(SECRET))],
        [("x-token", f"Bearer {signed(SECRET)}")],
    ],
)
async def test_without_a_bearer_token_nobody_is_named(headers: list[tuple[str, str | bytes]]) -> None:
    assert await ask(from_jwt("org", SECRET), scope_of(*headers)) is None


@pytest.mark.parametrize("value", ["Bearer {}", "bearer {}", "BEARER   {}"])
async def test_the_scheme_is_written_in_any_case(value: str) -> None:
    scope = scope_of(("authorization", value.format(signed(SECRET))))
    assert await ask(from_jwt("org", SECRET), scope) == "acme"


async def test_two_tokens_are_a_wrong_credential() -> None:
    header = ("authorization", f"Bearer {signed(SECRET)}")
    with pytest.raises(UnknownTenant, match="sent twice"):
        await ask(from_jwt("org", SECRET), scope_of(header, header))


@pytest.mark.parametrize("value", ["{}", "Bearer {}"])
async def test_another_header_holds_the_token_alone(value: str) -> None:
    resolver = from_jwt("org", SECRET, header="X-Assertion")
    assert await ask(resolver, scope_of(("x-assertion", value.format(signed(SECRET))))) == "acme"
    assert await ask(resolver, with_token(signed(SECRET))) is None


@pytest.mark.parametrize(
    ("claim", "claims", "found"),
    [
        ("org.id", {"org": {"id": "acme"}}, "acme"),
        ("a.b.c", {"a": {"b": {"c": "acme"}}}, "acme"),
        ("https://acme.example/org", {"https://acme.example/org": "acme"}, "acme"),
        ("org.id", {"org.id": "whole", "org": {"id": "nested"}}, "whole"),
        ("org", {"org": 42}, "42"),
    ],
)
async def test_a_claim_is_found_by_its_whole_name_or_by_a_path(claim: str, claims: dict[str, Any], found: str) -> None:
    assert await ask(from_jwt(claim, SECRET), with_token(signed(SECRET, **claims))) == found


@pytest.mark.parametrize("claims", [{"org": "acme"}, {"org": {}}, {"org": [{"id": "acme"}]}, {"org": {"id": None}}])
async def test_a_path_that_leads_nowhere_is_a_wrong_credential(claims: dict[str, Any]) -> None:
    with pytest.raises(UnknownTenant, match=r"no text in 'org\.id'"):
        await ask(from_jwt("org.id", SECRET), with_token(signed(SECRET, **claims)))


@pytest.mark.parametrize(
    ("options", "claims", "tenant"),
    [
        ({"audience": "api"}, {"aud": "api"}, "acme"),
        ({"audience": "api"}, {"aud": ["web", "api"]}, "acme"),
        ({"audience": ["api", "web"]}, {"aud": "web"}, "acme"),
        ({"audience": "api"}, {"aud": "web"}, None),
        ({"audience": "api"}, {}, None),
        ({}, {"aud": "api"}, None),
        ({"issuer": "https://id.example"}, {"iss": "https://id.example"}, "acme"),
        ({"issuer": ["https://id.example", "https://old.example"]}, {"iss": "https://old.example"}, "acme"),
        ({"issuer": "https://id.example"}, {"iss": "https://id.example.evil"}, None),
        ({"issuer": "https://id.example"}, {"iss": "https://id"}, None),
        ({"issuer": "https://id.example"}, {}, None),
        ({}, {"iss": "https://anybody.example"}, "acme"),
    ],
)
async def test_audience_and_issuer_are_as_expected(
    options: dict[str, Any], claims: dict[str, Any], tenant: str | None
) -> None:
    assert await resolve(from_jwt("org", SECRET, **options), with_token(signed(SECRET, **claims))) == tenant


async def test_the_kid_says_which_key_of_a_set_verifies() -> None:
    keys = jwks(jwk_of(rsa_key("old"), "1"), jwk_of(rsa_key(), "2"))
    resolver = from_jwt("org", keys)
    assert await ask(resolver, with_token(signed(rsa_key("old"), "RS256", kid="1"))) == "acme"
    assert await ask(resolver, with_token(signed(rsa_key(), "RS256", kid="2"))) == "acme"
    for key, kid in [(rsa_key("old"), "2"), (rsa_key(), "3")]:
        with pytest.raises(UnknownTenant):
            await ask(resolver, with_token(signed(key, "RS256", kid=kid)))


async def test_a_token_without_kid_is_verified_by_whichever_key_signed_it() -> None:
    resolver = from_jwt("org", jwks(jwk_of(ec_key(), "0"), jwk_of(rsa_key("old"), "1"), jwk_of(rsa_key(), "2")))
    assert await ask(resolver, with_token(signed(rsa_key(), "RS256"))) == "acme"
    with pytest.raises(UnknownTenant, match="InvalidSignatureError"):
        await ask(resolver, with_token(signed(rsa_key("stranger"), "RS256")))


@pytest.mark.parametrize("answer", [lambda found: found, later])
async def test_a_function_finds_the_key_so_that_keys_rotate_while_it_runs(answer: Callable[[Any], Any]) -> None:
    keys: dict[str, Any] = {"1": pem(rsa_key("old"))}
    asked: list[str] = []

    def find(kid: str) -> Any:
        asked.append(kid)
        return answer(keys.get(kid))

    resolver = from_jwt("org", find)
    old, new = (signed(rsa_key("old"), "RS256", kid="1"), signed(ec_key(), "ES256", kid="2"))
    assert await resolve(resolver, with_token(old)) == "acme"
    assert await resolve(resolver, with_token(new)) is None
    keys["2"] = jwt.PyJWK(jwk_of(ec_key(), "2"))
    assert await resolve(resolver, with_token(new)) == "acme"
    del keys["1"]
    assert await resolve(resolver, with_token(old)) is None
    assert await resolve(resolver, with_token(signed(SECRET))) is None
    assert asked == ["1", "2", "2", "1", ""]


async def test_a_function_that_finds_a_weak_secret_is_a_mistake_of_the_host_and_not_a_401() -> None:
    with pytest.raises(InvalidInput, match="the secret has 16 bytes; it needs 32"):
        await resolve(from_jwt("org", lambda kid: SECRET[:16]), with_token(signed(SECRET)))


async def test_pyjwts_client_finds_keys_and_its_network_errors_are_not_a_401(monkeypatch: pytest.MonkeyPatch) -> None:
    client = jwt.PyJWKClient("https://id.example/jwks.json")
    monkeypatch.setattr(client, "fetch_data", lambda: jwks(jwk_of(rsa_key(), "1")))
    resolver = from_jwt("org", client.get_signing_key)
    assert await ask(resolver, with_token(signed(rsa_key(), "RS256", kid="1"))) == "acme"
    with pytest.raises(UnknownTenant, match="PyJWKClientError"):
        await ask(resolver, with_token(signed(rsa_key(), "RS256", kid="2")))

    def unreachable(kid: str) -> jwt.PyJWK:
        raise jwt.PyJWKClientConnectionError("timed out")

    with pytest.raises(jwt.PyJWKClientConnectionError):
        await resolve(from_jwt("org", unreachable), with_token(signed(rsa_key(), "RS256", kid="1")))


def test_the_claim_and_the_header_are_checked() -> None:
    with pytest.raises(InvalidInput, match="claim: is empty"):
        from_jwt("", SECRET)
    with pytest.raises(InvalidInput, match="header: 'x token' is not a header name"):
        from_jwt("org", SECRET, header="x token")


@pytest.mark.parametrize("missing", ["jwt", "cryptography.hazmat.primitives.asymmetric"])
def test_without_the_extra_the_install_line_is_told(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtra, match=r'from_jwt needs an extra: pip install "mm-metering\[jwt\]"'):
        from_jwt("org", SECRET)


def test_tokens_are_the_only_resolver_that_loads_pyjwt() -> None:
    code = """
import sys
from mm_metering import anonymous, first_of, from_header, from_state, from_user
first_of(from_header("x-api-key", {}.get), from_state(), from_user(str), anonymous())
sys.exit(bool({"jwt", "cryptography"} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
