"""Who calls: from a request's scope to a tenant id.

A resolver is any callable(scope) that returns an id, an object with an ``id``, or None for a caller it cannot tell;
plain or async. It may say in ``challenge`` how callers should identify themselves (the 401's WWW-Authenticate).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Protocol, TypeAlias

from starlette.types import Scope

from mm_metering.core.identity import tenant_id
from mm_metering.errors import InvalidInput, InvalidTenant, UnknownTenant

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}", re.ASCII)
_CHALLENGE: Final = 'ApiKey realm="api"'


class HasId(Protocol):
    """A tenant as an object."""

    @property
    def id(self) -> str: ...


Found: TypeAlias = str | HasId | None
Resolver: TypeAlias = Callable[[Scope], Found | Awaitable[Found]]
Lookup: TypeAlias = Callable[[str], Found | Awaitable[Found]]


def from_header(name: str, lookup: Lookup | None = None) -> Resolver:
    """The tenant that a request header names; with ``lookup``, the tenant that owns the key in it.

    ``lookup(key)`` returns the tenant or None; plain or async. A header that is missing, empty, sent twice or not
    UTF-8 names nobody.
    """
    return _FromHeader(name, lookup)


class _FromHeader:
    def __init__(self, name: str, lookup: Lookup | None) -> None:
        if not _TOKEN.fullmatch(name):
            raise InvalidInput("name", f'{name!r} is not a header name such as "x-api-key"')
        self._name = name.lower().encode()
        self._lookup = lookup
        is_authorization = self._name == b"authorization"
        self.challenge = 'Bearer realm="api"' if is_authorization else f'{_CHALLENGE}, header="{name}"'

    def __call__(self, scope: Scope) -> Found | Awaitable[Found]:
        key = _only(scope["headers"], self._name)
        return self._lookup(key) if key and self._lookup else key


def _only(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str | None:
    """The header's value if it was sent once. Two values are two claims, and proxies differ in which one they read."""
    values = [value for each, value in headers if each == name]
    if len(values) != 1:
        return None
    try:
        return values[0].decode().strip() or None
    except UnicodeDecodeError:
        return None


async def resolve(resolver: Resolver, scope: Scope) -> str | None:
    """The caller's tenant id; None for nobody, for a key that nobody owns, and for text that cannot be an id."""
    try:
        found = resolver(scope)
        if not isinstance(found, str) and isinstance(found, Awaitable):
            found = await found
    except UnknownTenant:
        return None
    if found is None:
        return None
    value = found if isinstance(found, str) else getattr(found, "id", found)
    if not isinstance(value, str):
        raise TypeError(f"the tenant resolver returned {type(found).__name__}; return an id (str), a Tenant or None")
    try:
        return tenant_id(value)
    except InvalidTenant:
        return None


def challenge_of(resolver: Resolver) -> str:
    """How a caller should identify itself, for the WWW-Authenticate header."""
    return str(getattr(resolver, "challenge", _CHALLENGE))
