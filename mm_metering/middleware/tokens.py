"""Who calls by a signed token: the resolver ``from_jwt``.

Here lives what a request shows and what a verified token says; ``token_keys`` verifies it. That one loads PyJWT, so it
is imported when a resolver is made: without the extra, the name ``from_jwt`` can still be had and says what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from starlette.types import Scope

from mm_metering.errors import InvalidInput, MissingExtra, UnknownTenant
from mm_metering.middleware.tenants import (
    AUTHORIZATION,
    BEARER,
    NamedResolver,
    Resolver,
    credential,
    header_challenge,
    header_name,
)

if TYPE_CHECKING:
    from mm_metering.middleware.token_keys import Key, KeyFinder, TokenKeys


def from_jwt(
    claim: str,
    key: Key | KeyFinder,
    *,
    algorithms: Sequence[str] | None = None,
    audience: str | Sequence[str] | None = None,
    issuer: str | Sequence[str] | None = None,
    header: str = "authorization",
) -> Resolver:
    """The tenant that a claim of a verified JSON Web Token names. Needs the extra ``jwt``.

    claim       its name, or a path such as "org.id"; a claim of that whole name comes first. A whole number is taken
                as its decimal text
    key         a public key as PEM; a secret, which has at least as many bytes as its algorithm's hash (32 for HS256);
                a JWK or JWK Set, parsed or as a dict; or a function of the token's ``kid`` ("" without one) that
                returns one of these or None, plain or async, such as PyJWKClient(url).get_signing_key. That one reads
                the network while the event loop waits, so call it by asyncio.to_thread
    algorithms  what a token may be signed with; as the key says if not given: HS256 for a secret, RS256 for RSA, the
                curve's own for EC, EdDSA, and each JWK's. Only those that fit the kind of key are possible: a public
                key is never used as a secret, and "none" is nothing that a token can be signed with
    audience    one of these must be in ``aud``; if not given, a token that has an ``aud`` is refused
    issuer      ``iss`` must be one of these; anything, if not given
    header      Authorization with the scheme Bearer (another scheme is another resolver's business), or a header with
                the token alone

    ``exp``, ``nbf`` and ``iat`` are compared with real time, not with the Metering's clock; a token without ``exp``
    does not expire. A token that does not verify or lacks the claim is a wrong credential; no token is nobody.
    """
    _require_pyjwt()
    from mm_metering.middleware.token_keys import TokenKeys

    if not claim:
        raise InvalidInput("claim", 'is empty; name the claim that holds the tenant id, such as "org_id"')
    name = header_name("header", header)
    keys = TokenKeys(key, algorithms, audience=audience, issuer=issuer)
    return _FromJwt(claim, name, keys, challenge=header_challenge(header, other=BEARER))


def _require_pyjwt() -> None:
    try:
        import cryptography.hazmat.primitives.asymmetric  # noqa: F401 - PyJWT does without, but knows secrets alone then
        import jwt  # noqa: F401
    except ImportError as error:
        raise MissingExtra("jwt", "from_jwt") from error


class _FromJwt(NamedResolver):
    def __init__(self, claim: str, header: bytes, keys: TokenKeys, *, challenge: str) -> None:
        super().__init__(f"from_jwt({claim!r})")
        self._claim = claim
        self._header = header
        self._keys = keys
        self.challenge = challenge

    async def __call__(self, scope: Scope) -> str | None:
        token = _bearer(scope["headers"], self._header)
        return None if token is None else _text_of(await self._keys.claims_of(token), self._claim)


def _bearer(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> str | None:
    value = credential(headers, name)
    if value is None:
        return None
    scheme, _, token = value.partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    return None if name == AUTHORIZATION else value


def _text_of(claims: Mapping[str, object], path: str) -> str:
    value = claims[path] if path in claims else _nested(claims, path.split("."))
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise UnknownTenant(f"the token has no text in {path!r}")
    return value


def _nested(claims: Mapping[str, object], path: Iterable[str]) -> object:
    value: object = claims
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
