"""OpenAI's wire formats: chat completions and responses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mm_metering.testing.fake_llm.made import Asked, Made, Thing
from mm_metering.testing.fake_llm.wire import Event

_TYPES: Final = {401: "authentication_error", 404: "not_found_error", 429: "requests", 500: "server_error"}
_CODES: Final = {401: "invalid_api_key", 429: "rate_limit_exceeded"}


def _error(status: int, message: str) -> Thing:
    kind = _TYPES.get(status, "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": _CODES.get(status)}}


class Chat:
    """``POST /v1/chat/completions``. One choice; usage in a stream only where ``include_usage`` was asked for."""

    def missing(self, body: Thing) -> str | None:
        return next((name for name in ("model", "messages") if not body.get(name)), None)

    def reply(self, made: Made) -> Thing:
        message: Thing = {"role": "assistant", "content": made.text, "refusal": None, "annotations": []}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(made)}
        usage = {"usage": _chat_usage(made)} if made.has_usage else {}
        return {**_chat_head(made, "chat.completion"), "choices": [choice], **usage}

    def events(self, asked: Asked, made: Made) -> Iterator[Event]:
        has_usage = bool((asked.body.get("stream_options") or {}).get("include_usage"))
        head = _chat_head(made, "chat.completion.chunk")
        null: Thing = {"usage": None} if has_usage else {}

        def chunk(delta: Thing, finish: str | None = None) -> Thing:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
            return {**head, "choices": [choice], **null}

        yield Event(chunk({"role": "assistant", "content": "", "refusal": None}))
        for piece in made.pieces:
            yield Event(chunk({"content": piece.text}), tokens=piece.tokens)
        yield Event(chunk({}, _finish(made)))
        if has_usage and made.has_usage:
            yield Event({**head, "choices": [], "usage": _chat_usage(made)})
        yield Event("[DONE]")

    def error(self, status: int, message: str) -> Thing:
        return _error(status, message)

    def error_event(self, message: str) -> Event:
        return Event(_error(500, message))


def _finish(made: Made) -> str:
    return "length" if made.is_cut else "stop"


def _chat_head(made: Made, kind: str) -> Thing:
    return {
        "id": f"chatcmpl-{made.id}",
        "object": kind,
        "created": made.created,
        "model": made.model,
        "service_tier": made.tier or "default",
        "system_fingerprint": None,
    }


def _chat_usage(made: Made) -> Thing:
    return {
        "prompt_tokens": made.input,
        "completion_tokens": made.output,
        "total_tokens": made.input + made.output,
        "prompt_tokens_details": {"cached_tokens": made.cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": made.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


class Responses:
    """``POST /v1/responses``. The last event of a stream is ``response.completed``, or ``response.incomplete`` where
    the text was cut off; either has the usage."""

    def missing(self, body: Thing) -> str | None:
        return next((name for name in ("model", "input") if not body.get(name)), None)

    def reply(self, made: Made) -> Thing:
        found = _response(made, "incomplete" if made.is_cut else "completed", [_item(made, made.text)])
        if made.is_cut:
            found["incomplete_details"] = {"reason": "max_output_tokens"}
        if made.has_usage:
            found["usage"] = _usage(made)
        return found

    def events(self, asked: Asked, made: Made) -> Iterator[Event]:
        for number, (name, data, tokens) in enumerate(self._steps(made)):
            yield Event({"type": name, "sequence_number": number, **data}, name, tokens)

    def error(self, status: int, message: str) -> Thing:
        return _error(status, message)

    def error_event(self, message: str) -> Event:
        data = {"type": "error", "code": "server_error", "message": message, "param": None, "sequence_number": 0}
        return Event(data, "error")

    def _steps(self, made: Made) -> Iterator[tuple[str, Thing, int | None]]:
        begun = {"response": _response(made, "in_progress", [])}
        yield "response.created", begun, None
        yield "response.in_progress", begun, None
        item = {**_item(made, ""), "status": "in_progress", "content": []}
        yield "response.output_item.added", {"output_index": 0, "item": item}, None
        place = {"item_id": item["id"], "output_index": 0, "content_index": 0}
        yield "response.content_part.added", {**place, "part": _part("")}, None
        for piece in made.pieces:
            yield "response.output_text.delta", {**place, "delta": piece.text, "logprobs": []}, piece.tokens
        yield "response.output_text.done", {**place, "text": made.text, "logprobs": []}, None
        yield "response.content_part.done", {**place, "part": _part(made.text)}, None
        yield "response.output_item.done", {"output_index": 0, "item": _item(made, made.text)}, None
        yield f"response.{'incomplete' if made.is_cut else 'completed'}", {"response": self.reply(made)}, None


def _response(made: Made, status: str, output: list[Thing]) -> Thing:
    return {
        "id": f"resp_{made.id}",
        "object": "response",
        "created_at": made.created,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": made.model,
        "output": output,
        "parallel_tool_calls": True,
        "service_tier": made.tier or "default",
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": None,
    }


def _item(made: Made, text: str) -> Thing:
    status = "incomplete" if made.is_cut else "completed"
    return {
        "id": f"msg_{made.id}",
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": [_part(text)],
    }


def _part(text: str) -> Thing:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(made: Made) -> Thing:
    return {
        "input_tokens": made.input,
        "input_tokens_details": {"cached_tokens": made.cached},
        "output_tokens": made.output,
        "output_tokens_details": {"reasoning_tokens": made.reasoning},
        "total_tokens": made.input + made.output,
    }
