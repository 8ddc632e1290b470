"""Signed webhooks and stored secrets: what others verify, and what is refused."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
from standardwebhooks.webhooks import Webhook
from svix.webhooks import Webhook as SvixWebhook
from svix.webhooks import WebhookVerificationError

from mm_metering.errors import InvalidInput, WebhookRefused
from mm_metering.webhooks.signing import TOLERANCE_S, checked_secret, new_secret, sign, verify

NOW: Final = datetime(2024, 1, 15, 12, tzinfo=UTC).replace(microsecond=999_999)
BODY: Final = json.dumps({"type": "invoice.paid", "data": {"é": "\N{SNOWMAN}", "n": 1.5}}, ensure_ascii=False).encode()
OLD, NEW = new_secret(), new_secret()


@pytest.mark.parametrize("secrets", [(NEW,), (NEW, OLD)])
def test_others_verify_what_we_sign_with_each_live_secret(secrets: tuple[str, ...]) -> None:
    now = datetime.now(UTC).replace(microsecond=999_999)  # others verify by their own clock
    headers = sign("msg_1", now, BODY, secrets)
    assert headers["webhook-timestamp"] == str(int(now.timestamp()))
    for secret in secrets:
        assert Webhook(secret).verify(BODY, headers) == json.loads(BODY)
        SvixWebhook(secret).verify(BODY, headers)
        with pytest.raises(WebhookVerificationError):
            SvixWebhook(secret).verify(BODY + b" ", headers)
        assert verify(BODY, headers, [secret], now) == "msg_1"
    assert {**headers} == sign("msg_1", now.replace(microsecond=0), BODY, secrets)


def test_we_verify_what_others_sign() -> None:
    signature = Webhook(NEW).sign("msg_1", NOW.replace(microsecond=0), BODY.decode())
    headers = sign("msg_1", NOW, BODY, (OLD,)) | {"webhook-signature": f"v1a,x {signature}"}
    assert verify(BODY, headers, [OLD, NEW], NOW) == "msg_1"


@pytest.mark.parametrize(
    ("change", "body", "by"),
    [
        ({}, BODY + b" ", 0),
        ({"webhook-id": "msg_2"}, BODY, 0),
        ({"webhook-timestamp": "1"}, BODY, 0),
        ({"webhook-timestamp": "١٢٣"}, BODY, 0),
        ({"webhook-timestamp": "-1"}, BODY, 0),
        ({"webhook-signature": ""}, BODY, 0),
        ({"webhook-signature": "v1,é v1, v2,x"}, BODY, 0),
        ({"webhook-signature": "v1," + "A" * 5000}, BODY, 0),
        ({}, BODY, TOLERANCE_S + 2),
        ({}, BODY, -TOLERANCE_S - 2),
    ],
)
def test_what_was_changed_or_is_old_is_refused(change: dict[str, str], body: bytes, by: int) -> None:
    headers = sign("msg_1", NOW, BODY, (NEW,)) | change
    with pytest.raises(WebhookRefused):
        verify(body, headers, [NEW], NOW + timedelta(seconds=by))


def test_secrets_have_a_form_and_are_never_repeated() -> None:
    assert len({new_secret() for _ in range(100)}) == 100
    for length in (24, 32, 64):
        given = "whsec_" + base64.b64encode(bytes(length)).decode()
        assert checked_secret(given) == given
    for wrong in ("", "whsec_", "whsec_" + "A" * 31, "whsec_" + base64.b64encode(bytes(65)).decode(), NEW[6:], None, 7):
        with pytest.raises(InvalidInput, match="24 to 64 bytes") as refused:
            checked_secret(wrong)
        assert str(wrong) not in str(refused.value) or wrong in ("", "whsec_", 7)
