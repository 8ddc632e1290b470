"""Anthropic's wire format: messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mm_metering.testing.fake_llm.made import Asked, Made, Thing
from mm_metering.testing.fake_llm.wire import Event

_TYPES: Final = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error", 500: "api_error"}


class Messages:
    """``POST /v1/messages``. A stream says what was read in its first event, and in ``message_delta`` what was written
    in all. Cached tokens are beside ``input_tokens``."""

    def missing(self, body: Thing) -> str | None:
        return next((name for name in ("model", "messages", "max_tokens") if not body.get(name)), None)

    def reply(self, made: Made) -> Thing:
        content = [{"type": "text", "text": made.text, "citations": None}] if made.pieces else []
        usage = {"usage": _usage(made, made.output)} if made.has_usage else {}
        return {**_head(made), "content": content, "stop_reason": _stop(made), **usage}

    def events(self, asked: Asked, made: Made) -> Iterator[Event]:
        for name, data, tokens in _steps(made):
            yield Event({"type": name, **data}, name, tokens)

    def error(self, status: int, message: str) -> Thing:
        kind = _TYPES.get(status, "invalid_request_error")
        return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_fake"}

    def error_event(self, message: str) -> Event:
        return Event(self.error(500, message), "error")


def _steps(made: Made) -> Iterator[tuple[str, Thing, int | None]]:
    start = {"usage": _usage(made, min(made.output, 1))} if made.has_usage else {}
    yield "message_start", {"message": {**_head(made), "content": [], "stop_reason": None, **start}}, None
    yield "content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}, None
    yield "ping", {}, None
    for piece in made.pieces:
        yield "content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": piece.text}}, piece.tokens
    yield "content_block_stop", {"index": 0}, None
    end: Thing = {"usage": {"output_tokens": made.output, **_thinking(made)}} if made.has_usage else {}
    yield "message_delta", {"delta": {"stop_reason": _stop(made), "stop_sequence": None}, **end}, None
    yield "message_stop", {}, None


def _head(made: Made) -> Thing:
    return {"id": f"msg_{made.id}", "type": "message", "role": "assistant", "model": made.model, "stop_sequence": None}


def _stop(made: Made) -> str:
    return "max_tokens" if made.is_cut else "end_turn"


def _usage(made: Made, output: int) -> Thing:
    return {
        "input_tokens": made.input - made.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": made.cached,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": output,
        "server_tool_use": None,
        "service_tier": made.tier or "standard",
        **(_thinking(made) if output == made.output else {}),
    }


def _thinking(made: Made) -> Thing:
    return {"output_tokens_details": {"thinking_tokens": made.reasoning}} if made.reasoning else {}
