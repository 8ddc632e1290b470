"""What verifies a token: its issuer's keys, each with the algorithms of its own kind.

Here lives all that ``from_jwt`` has of PyJWT and cryptography; whoever imports this has the extra ``jwt``. A key of the
host's that cannot be right is InvalidInput, a token that it did not sign is UnknownTenant.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt import PyJWK, PyJWKSet
from jwt.algorithms import AllowedPublicKeys, HMACAlgorithm

from mm_metering.errors import InvalidInput, UnknownTenant
from mm_metering.middleware.tenants import settled

Key: TypeAlias = str | bytes | Mapping[str, object] | PyJWK | PyJWKSet
KeyFinder: TypeAlias = Callable[[str], Key | Awaitable[Key | None] | None]

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


class TokenKeys:
    """The keys that tokens may be signed with, or the function that finds them, and who tokens are from and for."""

    def __init__(
        self,
        key: Key | KeyFinder,
        algorithms: Sequence[str] | None,
        *,
        audience: str | Sequence[str] | None,
        issuer: str | Sequence[str] | None,
    ) -> None:
        self._wanted = _texts(algorithms)
        self._audience = _texts(audience)
        self._issuer = _texts(issuer)
        self._find = key if callable(key) else None
        self._keys = () if callable(key) else _keys_in(key, self._wanted)
        used = {name for each in self._keys for name in each.algorithms}
        _check_algorithms(self._wanted, _ALGORITHMS if callable(key) else used)

    async def claims_of(self, token: str) -> Mapping[str, object]:
        """What the token says, if one of the keys signed it; UnknownTenant otherwise."""
        kid = _kid_of(token)
        keys = self._keys if self._find is None else _keys_in(await _find_key(self._find, kid), self._wanted)
        problem: Exception | None = None
        for key in keys:
            if kid and key.kid not in (None, kid):
                continue
            try:
                return jwt.decode(
                    token,
                    key.material,
                    algorithms=key.algorithms,
                    audience=self._audience,
                    issuer=self._issuer,
                )
            except (jwt.InvalidSignatureError, jwt.InvalidAlgorithmError) as error:
                problem = error
            except jwt.InvalidTokenError as error:
                raise _refused(error) from error
        raise _refused(problem) from problem


@dataclass(frozen=True, slots=True)
class _VerifyingKey:
    """A public key or a secret with the algorithms it is used with: all of one family. Without kid it is for any."""

    kid: str | None
    algorithms: tuple[str, ...]
    material: AllowedPublicKeys | bytes = field(repr=False)


def _kid_of(token: str) -> str:
    """The key that the token asks for, "" if it does not say. Nothing else is believed before it is verified."""
    try:
        return str(jwt.get_unverified_header(token).get("kid", ""))
    except jwt.InvalidTokenError as error:
        raise _refused(error) from error


async def _find_key(find: KeyFinder, kid: str) -> Key:
    try:
        found = await settled(find(kid))
    except jwt.PyJWKClientConnectionError:
        raise
    except jwt.PyJWKClientError as error:
        raise _refused(error) from error
    if found is None:
        raise UnknownTenant("the token is signed with a key that is not known")
    return found


def _refused(error: Exception | None) -> UnknownTenant:
    """Says which check failed, in words that the token has no part in."""
    return UnknownTenant(f"the token is refused: {type(error).__name__ if error else 'no key fits it'}")


def _texts(value: str | Sequence[str] | None) -> tuple[str, ...] | None:
    return (value,) if isinstance(value, str) else value if value is None else tuple(value)


def _check_algorithms(wanted: tuple[str, ...] | None, possible: Set[str]) -> None:
    """InvalidInput for a name that no key is used with, and for keys that nothing is."""
    if wanted is not None and (not wanted or not possible >= set(wanted)):
        raise InvalidInput("algorithms", f"{', '.join(wanted) or 'an empty list'} does not fit the kind of key")
    if not possible:
        raise InvalidInput("key", "holds no key that verifies signatures")


def _keys_in(key: Key, wanted: tuple[str, ...] | None) -> tuple[_VerifyingKey, ...]:
    """The keys that may verify a token, by some algorithm that is wanted."""
    parsed = _parsed(key) if isinstance(key, Mapping) else key
    match parsed:
        case str() | bytes():
            keys = [_key(None, _public_key_or_secret(parsed), wanted)]
        case PyJWK():
            keys = [_jwk(parsed, wanted)]
        case PyJWKSet():
            keys = [_jwk(each, wanted) for each in parsed.keys if each.public_key_use != "enc"]
        case _:
            raise InvalidInput("key", f"{type(key).__name__} is not a PEM, a secret, a JWK or a JWK Set")
    return tuple(each for each in keys if each.algorithms)


def _parsed(key: Mapping[str, object]) -> PyJWK | PyJWKSet:
    try:
        return PyJWKSet.from_dict(dict(key)) if "keys" in key else PyJWK.from_dict(dict(key))
    except (jwt.PyJWTError, KeyError, NotImplementedError, TypeError, ValueError):
        raise InvalidInput("key", "is not a JWK or JWK Set that can be used") from None  # PyJWT's error shows the key


def _public_key_or_secret(key: str | bytes) -> object:
    data = key.encode() if isinstance(key, str) else key
    try:
        if b"-----BEGIN" in data:
            return load_pem_public_key(data)
        return HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(data)  # refuses what looks like another kind of key
    except (ValueError, UnsupportedAlgorithm, jwt.InvalidKeyError):
        raise InvalidInput("key", "is neither a secret nor a public key as PEM: -----BEGIN PUBLIC KEY-----") from None


def _jwk(key: PyJWK, wanted: tuple[str, ...] | None) -> _VerifyingKey:
    own = key.algorithm_name
    return _key(key.key_id, key.key, (own,) if wanted is None or own in wanted else ())


def _key(kid: str | None, material: object, wanted: tuple[str, ...] | None) -> _VerifyingKey:
    """The first algorithm of the key's family, or those that are wanted."""
    match material:
        case bytes():
            family: tuple[str, ...] = _SECRET
        case rsa.RSAPublicKey():
            family = _RSA
        case ec.EllipticCurvePublicKey() if material.curve.name in _CURVES:
            family = _CURVES[material.curve.name]
        case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
            family = _EDWARDS
        case _:
            raise InvalidInput("key", f"{type(material).__name__} does not verify; pass the public key, or a secret")
    algorithms = family[:1] if wanted is None else tuple(name for name in wanted if name in family)
    _refuse_weak(material, algorithms)
    return _VerifyingKey(kid, algorithms, material)


def _refuse_weak(material: AllowedPublicKeys | bytes, algorithms: Iterable[str]) -> None:
    """RFC 7518, sections 3.2 and 3.3: a secret is as long as its hash, an RSA key has 2048 bits."""
    if isinstance(material, bytes):
        size_bytes = max((int(name.removeprefix("HS")) // 8 for name in algorithms), default=32)
        if len(material) < size_bytes:
            raise InvalidInput("key", f"the secret has {len(material)} bytes; it needs {size_bytes}")
    elif isinstance(material, rsa.RSAPublicKey) and material.key_size < _SMALLEST_RSA_BITS:
        raise InvalidInput("key", f"the RSA key has {material.key_size} bits; it needs {_SMALLEST_RSA_BITS}")
