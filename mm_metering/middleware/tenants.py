"""Who calls: from a request's scope to a tenant id.

A resolver is any callable(scope) that returns an id, an object with an ``id``, or None for a caller that shows nothing
to tell it by; plain or async. It raises UnknownTenant for a credential that is wrong. To the caller both are the same
401; ``first_of`` tells them apart. In ``challenge`` it may say how callers should identify themselves (the 401's
WWW-Authenticate).
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from starlette.types import Scope

from mm_metering.core.identity import tenant_id
from mm_metering.errors import InvalidInput, InvalidTenant, MissingExtra, UnknownTenant

if TYPE_CHECKING:
    from jwt import PyJWK, PyJWKSet
    from jwt.algorithms import AllowedPublicKeys

log = logging.getLogger("mm_metering.middleware")

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}", re.ASCII)
_CHALLENGE: Final = 'ApiKey realm="api"'
_BEARER: Final = 'Bearer realm="api"'
_AUTHORIZATION: Final = b"authorization"


class HasId(Protocol):
    """A tenant as an object."""

    @property
    def id(self) -> str: ...


User = TypeVar("User")
Found: TypeAlias = str | HasId | None
Resolver: TypeAlias = Callable[[Scope], Found | Awaitable[Found]]
Lookup: TypeAlias = Callable[[str], Found | Awaitable[Found]]
Key: TypeAlias = "str | bytes | Mapping[str, object] | PyJWK | PyJWKSet"
KeyFinder: TypeAlias = "Callable[[str], Key | Awaitable[Key | None] | None]"


async def resolve(resolver: Resolver, scope: Scope) -> str | None:
    """The caller's tenant id; None for nobody, for a wrong credential, and for text that cannot be an id."""
    try:
        return found_id(await _settled(resolver(scope)))
    except UnknownTenant as error:
        log.debug("a credential names no tenant: %s", error)
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


async def _settled(found: Found | Awaitable[Found]) -> Found:
    """The answer of a function that is plain or async."""
    if not isinstance(found, str) and isinstance(found, Awaitable):
        return await found
    return found


class _Resolver:
    """Its repr says how it was made, and nothing of what it holds."""

    def __init__(self, made_by: str) -> None:
        self._made_by = made_by

    def __repr__(self) -> str:
        return self._made_by


def _name_of(function: object) -> str:
    """A host's function by name: the repr of a partial, say, shows what it was given."""
    if isinstance(function, _Resolver):
        return repr(function)
    return str(getattr(function, "__qualname__", type(function).__name__))


# -- what the host's own middleware found -----------------------------------------------------------------------------


def from_state(name: str = "tenant") -> Resolver:
    """The tenant that a middleware of the host's left in ``request.state``; nobody where it left nothing."""
    return _FromState(name)


class _FromState(_Resolver):
    def __init__(self, name: str) -> None:
        super().__init__(f"from_state({name!r})")
        self._name = name

    def __call__(self, scope: Scope) -> Found:
        try:
            found: Found = scope["state"][self._name]
        except KeyError:
            return None
        return found


def from_user(fn: Callable[[User], Found | Awaitable[Found]]) -> Resolver:
    """The tenant of the user that Starlette's AuthenticationMiddleware found; ``fn(user)`` is plain or async.

    Nobody without that middleware, and for a user that is not authenticated.
    """
    return _FromUser(fn)


class _FromUser(_Resolver):
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


class _FirstOf(_Resolver):
    def __init__(self, resolvers: Sequence[Resolver]) -> None:
        if not resolvers:
            raise InvalidInput("resolvers", 'first_of needs at least one, such as from_header("x-api-key", find)')
        super().__init__(f"first_of({', '.join(map(_name_of, resolvers))})")
        self._parts = tuple(part for each in resolvers for part in _parts_of(each))
        challenges = dict.fromkeys(challenge_of(part) for part in self._parts if hasattr(part, "challenge"))
        self.challenge = ", ".join(challenges) or _CHALLENGE

    def parts(self) -> tuple[Resolver, ...]:
        return self._parts

    async def __call__(self, scope: Scope) -> Found:
        for part in self._parts:
            found = await _settled(part(scope))
            if found is not None:
                return found
        return None


def _parts_of(resolver: Resolver) -> tuple[Resolver, ...]:
    """A nested first_of counts as its parts, so that a challenge of theirs is not listed twice."""
    return resolver.parts() if isinstance(resolver, _FirstOf) else (resolver,)


def anonymous(tenant: str = "anonymous") -> Resolver:
    """Always this one tenant: the last of a ``first_of``, so that callers without a credential share its limits."""
    return _Anonymous(tenant)


class _Anonymous(_Resolver):
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


class _FromHeader(_Resolver):
    def __init__(self, name: str) -> None:
        self._name = _header_name("name", name)
        super().__init__(f"from_header({name!r})")
        self.challenge = _header_challenge(name, other=_CHALLENGE)

    def __call__(self, scope: Scope) -> str | None:
        return _only(scope["headers"], self._name)


class _FromKey(_Resolver):
    def __init__(self, name: str, lookup: Lookup, ttl_s: float, most: int) -> None:
        self._name = _header_name("name", name)
        if not 0 <= ttl_s < math.inf:
            raise InvalidInput("ttl_s", f"{ttl_s} is not a number of seconds; 0 keeps nothing")
        if most < 1:
            raise InvalidInput("most", f"{most} keys cannot be kept; with ttl_s=0 none are")
        super().__init__(f"from_header({name!r}, {_name_of(lookup)})")
        self.challenge = _header_challenge(name, other=_CHALLENGE)
        self._new_owners = partial(_Owners, lookup, ttl_s=ttl_s, most=most)
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, _Owners] = WeakKeyDictionary()
        self._secret = secrets.token_bytes(32)

    def __call__(self, scope: Scope) -> str | Awaitable[str] | None:
        key = _credential(scope["headers"], self._name)
        if key is None:
            return None
        digest = blake2b(key.encode(), key=self._secret, digest_size=32).digest()
        owners = self._owners_here()
        return owners.kept(digest) or owners.ask(digest, key)

    def _owners_here(self) -> _Owners:
        loop = asyncio.get_running_loop()
        owners = self._by_loop.get(loop)
        if owners is None:
            owners = self._by_loop[loop] = self._new_owners()
        return owners


@dataclass(slots=True, eq=False)
class _Flight:
    """A lookup under way, and how many requests wait for it."""

    task: asyncio.Task[str | None]
    waiting: int = 0


class _Owners:
    """Who owns which key, as far as one event loop knows: it alone touches this."""

    def __init__(self, lookup: Lookup, *, ttl_s: float, most: int) -> None:
        self._lookup = lookup
        self._ttl_s = ttl_s
        self._most = most
        self._kept: OrderedDict[bytes, tuple[str, float]] = OrderedDict()
        self._flights: dict[bytes, _Flight] = {}

    def kept(self, digest: bytes) -> str | None:
        """The owner that an earlier lookup named, while it counts."""
        tenant, ends_at_s = self._kept.get(digest, (None, 0.0))
        if tenant is None:
            return None
        if _loop_time_s() >= ends_at_s:
            del self._kept[digest]
            return None
        self._kept.move_to_end(digest)
        return tenant

    async def ask(self, digest: bytes, key: str) -> str:
        """The owner by a lookup, shared with all who wait for the same; UnknownTenant if there is none.

        The lookup has a task of its own, which goes on when one waiter is cancelled and ends with the last.
        """
        flight = self._flights.get(digest) or self._take_off(digest, key)
        flight.waiting += 1
        try:
            tenant = await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting:
                del self._flights[digest]
                flight.task.cancel()
        if tenant is None:
            raise UnknownTenant("nobody owns the key")
        return tenant

    def _take_off(self, digest: bytes, key: str) -> _Flight:
        flight = self._flights[digest] = _Flight(asyncio.create_task(self._look_up(digest, key)))
        return flight

    async def _look_up(self, digest: bytes, key: str) -> str | None:
        asked_at_s = _loop_time_s()
        tenant = found_id(await _settled(self._lookup(key)))
        if tenant is not None:
            self._keep(digest, tenant, asked_at_s + self._ttl_s)
        return tenant

    def _keep(self, digest: bytes, tenant: str, ends_at_s: float) -> None:
        if _loop_time_s() < ends_at_s:
            self._kept[digest] = (tenant, ends_at_s)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)


def _loop_time_s() -> float:
    return asyncio.get_running_loop().time()


def _header_name(argument: str, name: str) -> bytes:
    if not _TOKEN.fullmatch(name):
        raise InvalidInput(argument, f'{name!r} is not a header name such as "x-api-key"')
    return name.lower().encode()


def _header_challenge(name: str, *, other: str) -> str:
    """The challenge of what is sent in Authorization, or ``other`` with the header's name."""
    return _BEARER if name.lower().encode() == _AUTHORIZATION else f'{other}, header="{name}"'


def _only(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str | None:
    """The header's value if it was sent once. Two values are two claims, and proxies differ in which one they read."""
    values = [value for each, value in headers if each == name]
    if len(values) != 1:
        return None
    try:
        return values[0].decode().strip() or None
    except UnicodeDecodeError:
        return None


def _credential(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> str | None:
    """The header's value, or None if nothing was sent in it; UnknownTenant if that was two values or not UTF-8."""
    value = _only(headers, name)
    if value is None and any(sent.strip() for each, sent in headers if each == name):
        raise UnknownTenant(f"{name.decode()} was sent twice, or is not UTF-8")
    return value


# -- a signed token ---------------------------------------------------------------------------------------------------


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
    return _FromJwt(claim, key, algorithms, _Expected(_texts(audience), _texts(issuer)), header)


@dataclass(frozen=True, slots=True)
class _Expected:
    audience: tuple[str, ...] | None
    issuer: tuple[str, ...] | None


def _texts(value: str | Sequence[str] | None) -> tuple[str, ...] | None:
    return (value,) if isinstance(value, str) else value if value is None else tuple(value)


class _FromJwt(_Resolver):
    def __init__(
        self, claim: str, key: Key | KeyFinder, algorithms: Sequence[str] | None, expected: _Expected, header: str
    ) -> None:
        _require_pyjwt()
        if not claim:
            raise InvalidInput("claim", 'is empty; name the claim that holds the tenant id, such as "org_id"')
        self._header = _header_name("header", header)
        super().__init__(f"from_jwt({claim!r})")
        self.challenge = _header_challenge(header, other=_BEARER)
        self._claim = claim
        self._expected = expected
        self._algorithms = _texts(algorithms)
        self._find = key if callable(key) else None
        self._keys = () if callable(key) else _keys_in(key, self._algorithms)
        _check_algorithms(self._algorithms, None if callable(key) else self._keys)

    async def __call__(self, scope: Scope) -> str | None:
        token = _bearer(scope["headers"], self._header)
        if token is None:
            return None
        kid = _kid_of(token)
        keys = self._keys if self._find is None else _keys_in(await _find_key(self._find, kid), self._algorithms)
        fitting = [key for key in keys if not kid or key.kid in (None, kid)]
        return _text_of(_claims_of(token, fitting, self._expected), self._claim)


def _require_pyjwt() -> None:
    try:
        import cryptography.hazmat.primitives.asymmetric  # noqa: F401 - PyJWT does without, but knows secrets alone then
        import jwt  # noqa: F401
    except ImportError as error:
        raise MissingExtra("jwt", "from_jwt") from error


def _bearer(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> str | None:
    value = _credential(headers, name)
    if value is None:
        return None
    scheme, _, token = value.partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    return None if name == _AUTHORIZATION else value


def _kid_of(token: str) -> str:
    """The key that the token asks for, "" if it does not say. Nothing else is believed before it is verified."""
    import jwt

    try:
        return str(jwt.get_unverified_header(token).get("kid", ""))
    except jwt.InvalidTokenError as error:
        raise _refused(error) from error


async def _find_key(find: KeyFinder, kid: str) -> Key:
    import jwt

    try:
        found = find(kid)
        if isinstance(found, Awaitable):
            found = await found
    except jwt.PyJWKClientConnectionError:
        raise
    except jwt.PyJWKClientError as error:
        raise _refused(error) from error
    if found is None:
        raise UnknownTenant("the token is signed with a key that is not known")
    return found


def _claims_of(token: str, keys: Iterable[_Key], expected: _Expected) -> Mapping[str, object]:
    """What the token says, if one of the keys signed it; UnknownTenant otherwise."""
    import jwt

    problem: Exception | None = None
    for key in keys:
        try:
            return jwt.decode(
                token,
                key.material,
                algorithms=list(key.algorithms),
                audience=expected.audience,
                issuer=expected.issuer,
            )
        except (jwt.InvalidSignatureError, jwt.InvalidAlgorithmError) as error:
            problem = error
        except jwt.InvalidTokenError as error:
            raise _refused(error) from error
    raise _refused(problem) from problem


def _refused(error: Exception | None) -> UnknownTenant:
    """Says which check failed, in words that the token has no part in."""
    return UnknownTenant(f"the token is refused: {type(error).__name__ if error else 'no key fits it'}")


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


# -- the keys of tokens -----------------------------------------------------------------------------------------------

_SECRET: Final = ("HS256", "HS384", "HS512")
_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_EDWARDS: Final = ("EdDSA",)
_CURVES: Final = {
    "secp256r1": ("ES256",),
    "secp384r1": ("ES384",),
    "secp521r1": ("ES512",),
    "secp256k1": ("ES256K",),
}
_ALGORITHMS: Final = frozenset((*_SECRET, *_RSA, *_EDWARDS, *(name for names in _CURVES.values() for name in names)))
_SMALLEST_RSA_BITS: Final = 2048


@dataclass(frozen=True, slots=True)
class _Key:
    """A public key or a secret with the algorithms it is used with: all of one family. Without kid it is for any."""

    kid: str | None
    algorithms: tuple[str, ...]
    material: AllowedPublicKeys | bytes = field(repr=False)


def _check_algorithms(wanted: tuple[str, ...] | None, keys: tuple[_Key, ...] | None) -> None:
    """InvalidInput for a name that no key is used with, or without keys yet, that none could be."""
    possible = _ALGORITHMS if keys is None else {name for key in keys for name in key.algorithms}
    if wanted is not None and (not wanted or not possible.issuperset(wanted)):
        raise InvalidInput("algorithms", f"{', '.join(wanted) or 'an empty list'} does not fit the kind of key")
    if not possible:
        raise InvalidInput("key", "holds no key that verifies signatures")


def _keys_in(key: Key, wanted: tuple[str, ...] | None) -> tuple[_Key, ...]:
    """The keys that may verify a token, by some algorithm that is wanted."""
    return tuple(each for each in _every_key_in(key, wanted) if each.algorithms)


def _every_key_in(key: Key, wanted: tuple[str, ...] | None) -> tuple[_Key, ...]:
    from jwt import PyJWK, PyJWKSet

    parsed = _parsed(key) if isinstance(key, Mapping) else key
    match parsed:
        case str() | bytes():
            return (_key(None, _public_key_or_secret(parsed), wanted),)
        case PyJWK():
            return (_jwk(parsed, wanted),)
        case PyJWKSet():
            return tuple(_jwk(each, wanted) for each in parsed.keys if each.public_key_use != "enc")
        case _:
            raise InvalidInput("key", f"{type(key).__name__} is not a PEM, a secret, a JWK or a JWK Set")


def _parsed(key: Mapping[str, object]) -> PyJWK | PyJWKSet:
    import jwt

    try:
        return jwt.PyJWKSet.from_dict(dict(key)) if "keys" in key else jwt.PyJWK.from_dict(dict(key))
    except (jwt.PyJWTError, KeyError, NotImplementedError, TypeError, ValueError):
        raise InvalidInput("key", "is not a JWK or JWK Set that can be used") from None  # PyJWT's error shows the key


def _public_key_or_secret(key: str | bytes) -> AllowedPublicKeys | bytes:
    import jwt
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    data = key.encode() if isinstance(key, str) else key
    try:
        if b"-----BEGIN" in data:
            return load_pem_public_key(data)  # type: ignore[return-value] # _family refuses the others
        secret: bytes = jwt.get_algorithm_by_name("HS256").prepare_key(data)
    except (ValueError, UnsupportedAlgorithm, jwt.InvalidKeyError):
        raise InvalidInput("key", "is neither a secret nor a public key as PEM: -----BEGIN PUBLIC KEY-----") from None
    return secret


def _jwk(key: PyJWK, wanted: tuple[str, ...] | None) -> _Key:
    own = key.algorithm_name
    return _key(key.key_id, key.key, (own,) if wanted is None else tuple(name for name in wanted if name == own))


def _key(kid: str | None, material: AllowedPublicKeys | bytes, wanted: tuple[str, ...] | None) -> _Key:
    family = _family(material)
    algorithms = family[:1] if wanted is None else tuple(name for name in wanted if name in family)
    _refuse_weak(material, algorithms)
    return _Key(kid, algorithms, material)


def _family(material: object) -> tuple[str, ...]:
    """The algorithms that fit the kind of key, the default first."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

    match material:
        case bytes():
            return _SECRET
        case rsa.RSAPublicKey():
            return _RSA
        case ec.EllipticCurvePublicKey() if material.curve.name in _CURVES:
            return _CURVES[material.curve.name]
        case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
            return _EDWARDS
        case _:
            raise InvalidInput("key", f"{type(material).__name__} does not verify; pass the public key, or a secret")


def _refuse_weak(material: AllowedPublicKeys | bytes, algorithms: tuple[str, ...]) -> None:
    """RFC 7518, sections 3.2 and 3.3: a secret is as long as its hash, an RSA key has 2048 bits."""
    from cryptography.hazmat.primitives.asymmetric import rsa

    if isinstance(material, bytes):
        size_bytes = max((int(name.removeprefix("HS")) // 8 for name in algorithms), default=32)
        if len(material) < size_bytes:
            raise InvalidInput("key", f"the secret has {len(material)} bytes; it needs {size_bytes}")
    elif isinstance(material, rsa.RSAPublicKey) and material.key_size < _SMALLEST_RSA_BITS:
        raise InvalidInput("key", f"the RSA key has {material.key_size} bits; it needs {_SMALLEST_RSA_BITS}")
