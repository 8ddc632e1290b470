"""What is sealed at rest opens in its place, under its key, alone."""

from __future__ import annotations

import base64
from typing import Final

import pytest

from mm_metering.errors import InvalidInput
from mm_metering.vault import Place, Vault, cipher, key_id_of

SECRET: Final = "whsec_the-secret"
KEYS: Final = [base64.b64encode(bytes([number] * 32)).decode() for number in range(2)]
HERE: Final = Place("mm_webhook_endpoint", "secret", "ep_1")


def test_a_sealed_text_opens_in_its_place_under_its_key_alone() -> None:
    vault = Vault.of(KEYS[0], ephemeral=False)
    sealed = vault.seal(SECRET, HERE)
    assert vault.open(sealed, HERE) == SECRET
    assert SECRET not in sealed
    assert vault.seal(SECRET, HERE) != sealed
    rotated = Vault.of(f"{KEYS[1]}, {KEYS[0]}", ephemeral=False)
    assert rotated.open(sealed, HERE) == SECRET
    assert key_id_of(rotated.seal(SECRET, HERE)) == rotated.key_ids[0] != key_id_of(sealed) == rotated.key_ids[1]
    changed = sealed[:-6] + ("AAAA" if sealed[-6:-2] != "AAAA" else "BBBB") + sealed[-2:]
    elsewhere = [HERE._replace(**{name: "other"}) for name in Place._fields]
    moved = [(sealed, each) for each in elsewhere]
    other_key = sealed.replace(vault.key_ids[0], rotated.key_ids[0])
    for text, place in (*moved, *((each, HERE) for each in (changed, other_key, "v2:::", sealed[:30], "", "v1:a"))):
        with pytest.raises(InvalidInput):
            rotated.open(text, place)
    with pytest.raises(InvalidInput, match="is not among MM_METERING_SECRET_KEY"):
        Vault.of(KEYS[1], ephemeral=False).open(sealed, HERE)


def test_what_the_first_form_has_sealed_still_opens_and_is_not_the_newest() -> None:
    vault, nonce = Vault.of(KEYS[0], ephemeral=False), bytes(12)
    packed = nonce + cipher(bytes(32)).encrypt(nonce, SECRET.encode(), b"ep_1")
    old = f"v1:{vault.key_ids[0]}:{base64.b64encode(packed).decode()}"
    assert vault.open(old, HERE) == SECRET
    assert not vault.is_newest(old)
    assert vault.is_newest(vault.seal(SECRET, HERE))


def test_a_key_is_made_up_only_where_nothing_outlives_the_process() -> None:
    made_up = Vault.of(None, ephemeral=True)
    assert made_up.open(made_up.seal(SECRET, HERE), HERE) == SECRET
    with pytest.raises(InvalidInput, match="openssl rand -base64 32"):
        Vault.of("", ephemeral=False).seal(SECRET, HERE)
    for wrong in ("hunter2", base64.b64encode(bytes(31)).decode(), f"{KEYS[0]},"):
        with pytest.raises(InvalidInput, match="base64 of 32 bytes") as refused:
            Vault.of(wrong, ephemeral=False)
        assert "hunter2" not in str(refused.value)
