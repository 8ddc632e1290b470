"""Who calls: from a request's scope to a tenant id.

A resolver is any callable(scope) that returns an id, an object with an ``id``, or None for a caller that shows nothing
to tell it by; plain or async. It raises UnknownTenant for a credential that is wrong. To the caller both are the same
401; ``first_of`` tells them apart. In ``challenge`` it may say how callers should identify themselves (the 401's
WWW-Authenticate).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from itertools import chain
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from starlette.types import Scope

from mm_metering.core.identity import tenant_id
from mm_metering.errors import InvalidInput, InvalidTenant, UnknownTenant
from mm_metering.middleware.owners import Owners

log: Final = logging.getLogger("mm_metering.middleware")

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}", re.ASCII)
_CHALLENGE: Final = 'ApiKey realm="api"'
BEARER: Final = 'Bearer realm="api"'
AUTHORIZATION: Final = b"authorization"
WRONG: Final = "a credential names no tenant: %s"


class HasId(Protocol):
    """A tenant as an object."""

    @property
    def id(self) -> str: ...


T = TypeVar("T")
Found: TypeAlias = str | HasId | None
Resolver: TypeAlias = Callable[[Scope], Found | Awaitable[Found]]
Lookup: TypeAlias = Callable[[str], Found | Awaitable[Found]]


def begin(resolver: Resolver, scope: Scope) -> str | Awaitable[str | None] | None:
    """The caller's tenant id; None for nobody, for a wrong credential, and for text that cannot be an id. Awaitable
    where the resolver is; most are not, and need no coroutine."""
    try:
        found = resolver(scope)
        return found_id(found) if type(found) is str or not isinstance(found, Awaitable) else _end(found)
    except UnknownTenant as error:
        log.debug(WRONG, error)
        return None


async def _end(found: Awaitable[Found]) -> str | None:
    try:
        return found_id(await found)
    except UnknownTenant as error:
        log.debug(WRONG, error)
        return None


def found_id(found: Found) -> str | None:
    """The tenant id in what a resolver found; None for nobody and for text that cannot be an id.

    Anything else is a bug of the resolver: TypeError.
    """
    if found is None:
        return None
    value = found if isinstance(found, str) else getattr(found, "id", found)
    if not isinstance(value, str):
        raise TypeError(f"the tenant resolver returned {type(found).__name__}; return an id (str), a Tenant or None")
    try:
        return tenant_id(value)
    except InvalidTenant:
        return None


def challenge_of(resolver: Resolver | None) -> str:
    """How a caller should identify itself, for the WWW-Authenticate header."""
    return str(getattr(resolver, "challenge", _CHALLENGE))


async def settled(answer: T | Awaitable[T]) -> T:
    """The answer of a function that is plain or async. Most are text, and the check for that is the quick one."""
    return answer if isinstance(answer, str) or not isinstance(answer, Awaitable) else await answer


class NamedResolver:
    """Its repr says how it was made, and nothing of what it holds."""

    def __init__(self, made_by: str) -> None:
        self._made_by = made_by

    def __repr__(self) -> str:
        return self._made_by


def _name_of(function: object) -> str:
    """A host's function by name: the repr of a partial, say, shows what it was given."""
    if isinstance(function, NamedResolver):
        return repr(function)
    return str(getattr(function, "__qualname__", type(function).__name__))


# -- what the host's own middleware found -----------------------------------------------------------------------------


def from_state(name: str = "tenant") -> Resolver:
    """The tenant that a middleware of the host's left in ``request.state``; nobody where it left nothing."""
    return _FromState(name)


class _FromState(NamedResolver):
    def __init__(self, name: str) -> None:
        super().__init__(f"from_state({name!r})")
        self._name = name

    def __call__(self, scope: Scope) -> Found:
        found: Found = scope.get("state", {}).get(self._name)
        return found


def from_user(fn: Callable[[T], Found | Awaitable[Found]]) -> Resolver:
    """The tenant of the user that Starlette's AuthenticationMiddleware found; ``fn(user)`` is plain or async.

    Nobody without that middleware, and for a user that is not authenticated.
    """
    return _FromUser(fn)


class _FromUser(NamedResolver):
    def __init__(self, fn: Callable[[Any], Found | Awaitable[Found]]) -> None:
        super().__init__(f"from_user({_name_of(fn)})")
        self._fn = fn

    def __call__(self, scope: Scope) -> Found | Awaitable[Found]:
        user = scope.get("user")
        if user is None or getattr(user, "is_authenticated", None) is False:
            return None
        return self._fn(user)


# -- several ways to call ---------------------------------------------------------------------------------------------


def first_of(*resolvers: Resolver) -> Resolver:
    """The first that names somebody.

    One that returns None was shown no credential and passes on. One that raises UnknownTenant was shown a wrong one,
    which ends it: nobody becomes anonymous, or somebody else, by a mistake in a key. The 401 lists every challenge.
    """
    return _FirstOf(resolvers)


class _FirstOf(NamedResolver):
    def __init__(self, resolvers: Sequence[Resolver]) -> None:
        if not resolvers:
            raise InvalidInput("resolvers", 'first_of needs at least one, such as from_header("x-api-key", find)')
        super().__init__(f"first_of({', '.join(map(_name_of, resolvers))})")
        # a nested first_of counts as its parts, so that a challenge of theirs is not listed twice
        parts = (each.parts if isinstance(each, _FirstOf) else (each,) for each in resolvers)
        self.parts: tuple[Resolver, ...] = tuple(chain.from_iterable(parts))
        challenges = dict.fromkeys(challenge_of(part) for part in self.parts if hasattr(part, "challenge"))
        self.challenge = ", ".join(challenges) or _CHALLENGE

    async def __call__(self, scope: Scope) -> Found:
        for part in self.parts:
            if (found := await settled(part(scope))) is not None:
                return found
        return None


def anonymous(tenant: str = "anonymous") -> Resolver:
    """Always this one tenant: the last of a ``first_of``, so that callers without a credential share its limits."""
    return _Anonymous(tenant)


class _Anonymous(NamedResolver):
    def __init__(self, tenant: str) -> None:
        self._tenant = tenant_id(tenant)
        super().__init__(f"anonymous({tenant!r})")

    def __call__(self, scope: Scope) -> str:
        return self._tenant


# -- a header ---------------------------------------------------------------------------------------------------------


def from_header(name: str, lookup: Lookup | None = None, *, ttl_s: float = 60.0, most: int = 10_000) -> Resolver:
    """The tenant that a request header names; with ``lookup``, the tenant that owns the key in it.

    A header that is missing, empty, sent twice or not UTF-8 names nobody. To a lookup the last two are a wrong
    credential, as is a key that nobody owns.

    ``lookup(key)`` gets the header's whole value (in Authorization with its scheme) and returns the tenant or None;
    plain or async, and a plain one must not block, since it runs on the event loop. Its answer is kept for ``ttl_s``
    from when it was asked, so that is how long a revoked key goes on to work; 0 keeps nothing. Per event loop the
    ``most`` recently used keys are kept, as hashes under a secret of this resolver's own, and requests that bring the
    same key at once wait for one call. Keys that nobody owns and errors are not kept.
    """
    return _FromHeader(name) if lookup is None else _FromKey(name, lookup, ttl_s, most)


class _FromHeader(NamedResolver):
    def __init__(self, name: str) -> None:
        self._name = header_name("name", name)
        super().__init__(f"from_header({name!r})")
        self.challenge = header_challenge(name, other=_CHALLENGE)

    def __call__(self, scope: Scope) -> str | None:
        return _only(scope["headers"], self._name)

    def headers_of(self, tenant: str) -> dict[str, str]:
        """What a test client sends to be that tenant."""
        return {self._name.decode(): tenant}


class _FromKey(NamedResolver):
    def __init__(self, name: str, lookup: Lookup, ttl_s: float, most: int) -> None:
        self._name = header_name("name", name)
        self._owners = Owners(partial(_owner_by, lookup), ttl_s=ttl_s, most=most)
        super().__init__(f"from_header({name!r}, {_name_of(lookup)})")
        self.challenge = header_challenge(name, other=_CHALLENGE)

    def __call__(self, scope: Scope) -> str | Awaitable[str] | None:
        key = credential(scope["headers"], self._name)
        return None if key is None else self._owners.owner_of(key)


async def _owner_by(lookup: Lookup, key: str) -> str | None:
    return found_id(await settled(lookup(key)))


def header_name(argument: str, name: str) -> bytes:
    if not _TOKEN.fullmatch(name):
        raise InvalidInput(argument, f'{name!r} is not a header name such as "x-api-key"')
    return name.lower().encode()


def header_challenge(name: str, *, other: str) -> str:
    """The challenge of what is sent in Authorization, or ``other`` with the header's name."""
    return BEARER if name.lower().encode() == AUTHORIZATION else f'{other}, header="{name}"'


def _only(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str | None:
    """The header's value if it was sent once. Two values are two claims, and proxies differ in which one they read."""
    found = None
    for each, value in headers:
        if each == name:
            if found is not None:
                return None
            found = value
    try:
        return found.decode().strip() or None if found is not None else None
    except UnicodeDecodeError:
        return None


def credential(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> str | None:
    """The header's value, or None if nothing was sent in it; UnknownTenant if that was two values or not UTF-8."""
    value = _only(headers, name)
    if value is None and any(sent.strip() for each, sent in headers if each == name):
        raise UnknownTenant(f"{name.decode()} was sent twice, or is not UTF-8")
    return value
