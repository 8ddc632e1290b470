"""The resolver of signed tokens: which keys verify which token, what is refused, and whom its claims name."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from mm_metering.errors import InvalidInput, MissingExtra, UnknownTenant
from mm_metering.middleware.tokens import from_jwt
from tests.unit.callers import FUTURE, PAST, SECRET, ask, later, resolve, scope_of, signed, with_token

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
