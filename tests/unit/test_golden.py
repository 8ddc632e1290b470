"""The bodies as files: what a client sees changes only on purpose. ``MM_TEST_WRITE=1`` writes them anew."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import http_sf
import jsonschema
import pytest

from mm_metering.core.decision import Decision
from mm_metering.errors import UrlRefused
from mm_metering.middleware.responses import (
    REASONS,
    Problem,
    problem_schema,
    refused,
    tenant_unknown,
    unavailable,
    url_refused,
)
from mm_metering.middleware.shapes import PLAIN, Style

GOLDEN = Path(__file__).parent / "golden"
NOW = datetime(2026, 11, 22, 9, 31, 28, tzinfo=UTC)
MIDNIGHT = datetime(2026, 11, 23, tzinfo=UTC)
SCOPE = {"type": "http", "method": "GET", "path": "/v1/chat", "headers": [(b"x-request-id", b"req_1")]}
VALIDATOR = jsonschema.Draft202012Validator(problem_schema(), format_checker=jsonschema.FormatChecker())
CODES = [code for code in REASONS if code not in ("tenant-unknown", "metering-unavailable", "url-refused")]
SHAPES: dict[str, Style] = {
    "problem": PLAIN,
    "openai": Style(error_shapes={"/v1": "openai"}),
    "anthropic": Style(error_shapes={"/v1": "anthropic"}),
}


def decision(code: str) -> Decision:
    is_money = REASONS[code].status == 402 or code == "budget-busy"
    amounts = ("0.60", "50.00", "49.71", "0.29") if is_money else (1, 100, 100, 0)
    requested, limit, used, remaining = map(Decimal, amounts) if is_money else amounts
    return Decision(
        allowed=False,
        meter="ai_cost" if is_money else "api_calls",
        requested=requested,
        limit=limit,
        used=used,
        remaining=remaining,
        resets_at=MIDNIGHT,
        reason=code,
        retry_after_s={"rate-limited": 3, "quota-exceeded": 52_112}.get(code),
        plan="pro",
        window="second" if code == "rate-limited" else "day",
        window_s=1 if code == "rate-limited" else 86_400,
    )


def answers() -> Iterator[tuple[str, Problem]]:
    for shape, style in SHAPES.items():
        suffix = "" if shape == "problem" else f".{shape}"
        for code in CODES:
            yield f"{code}{suffix}", refused([decision(code)], SCOPE, now=NOW, style=style)
        yield f"tenant-unknown{suffix}", tenant_unknown(SCOPE, 'Bearer realm="api"', style=style)
        yield f"url-refused{suffix}", url_refused(UrlRefused("uses port 22; use 443"), SCOPE, style=style)
        yield f"metering-unavailable{suffix}", unavailable(SCOPE, style=style)


ANSWERS = dict(answers())


def shown(problem: Problem) -> str:
    """Status, headers but for the length, and the body."""
    headers = {name.decode(): value.decode() for name, value in problem.headers if name != b"content-length"}
    answer = {"status": problem.status, "headers": headers, "body": json.loads(problem.body)}
    return json.dumps(answer, indent=2, ensure_ascii=False) + "\n"


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_as_its_file_says(name: str) -> None:
    file = GOLDEN / f"{name}.json"
    if os.environ.get("MM_TEST_WRITE"):
        file.write_text(shown(ANSWERS[name]))
    assert shown(ANSWERS[name]) == file.read_text()


@pytest.mark.parametrize("name", ANSWERS)
def test_a_body_keeps_the_published_schema(name: str) -> None:
    VALIDATOR.validate(json.loads(ANSWERS[name].body))


FORMS = {"cache-control": "dictionary", "ratelimit": "list", "ratelimit-policy": "list"}
"""RFC 9651 types by field; the others are items."""
UNSTRUCTURED = "www-authenticate"
"""RFC 9110 gives challenges a grammar of their own."""


@pytest.mark.parametrize("name", ANSWERS)
def test_every_header_can_be_parsed(name: str) -> None:
    for field, value in ANSWERS[name].headers:
        if field.decode() != UNSTRUCTURED:
            assert http_sf.parse(value, tltype=FORMS.get(field.decode(), "item"))


def test_the_schema_knows_every_code_and_refuses_others() -> None:
    schema = problem_schema()
    assert schema["properties"]["code"]["enum"] == sorted(REASONS)
    assert set(schema["properties"]["status"]["enum"]) == {reason.status for reason in REASONS.values()}
    body = json.loads(ANSWERS["quota-exceeded"].body)
    for wrong in ({"code": "teapot"}, {"status": 418}, {"retry_after": 0}, {"limits": [{"policy": "x"}]}):
        assert not VALIDATOR.is_valid(body | wrong), wrong
    assert not VALIDATOR.is_valid({key: value for key, value in body.items() if key != "code"})


def test_every_file_is_an_answer() -> None:
    assert {file.stem for file in GOLDEN.iterdir()} == set(ANSWERS)
