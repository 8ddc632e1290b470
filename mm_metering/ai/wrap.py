"""``metering.ai.wrap(client)``: a provider's client whose calls are reserved and settled, with all else as it was.

A proxy, no patch: other clients of the process stay as they are. It knows the calls of OpenAI's and Anthropic's clients
by their path; no SDK is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mm_metering.ai.calls import MIN_OUTPUT, USUAL_OUTPUT
from mm_metering.errors import InvalidInput
from mm_metering.gate.context import current

if TYPE_CHECKING:
    from mm_metering.ai.calls import AiCall
    from mm_metering.ai.reservation import Reservation


class Kind(NamedTuple):
    """How a call is asked: which parameters will be read, and those that cap its output, the usual one last.
    ``asks_for_usage``: its streams say what they used only if that is asked for."""

    reads: tuple[str, ...]
    caps: tuple[str, ...]
    asks_for_usage: bool = False


CALLS: Final = {
    "chat.completions.create": Kind(
        ("messages", "tools", "functions"), ("max_tokens", "max_completion_tokens"), asks_for_usage=True
    ),
    "responses.create": Kind(("instructions", "input", "tools"), ("max_output_tokens",)),
    "messages.create": Kind(("system", "messages", "tools"), ("max_tokens",)),
}
NOT_METERED: Final = frozenset(
    {
        *("chat.completions.stream", "chat.completions.parse", "responses.stream", "responses.parse"),
        *("messages.stream", "messages.batches.create", "batches.create"),
    }
)
"""Calls of a model that would pass by the budget."""
ROOMS: Final = frozenset(path.rpartition(".")[0] for path in (*CALLS, *NOT_METERED)) | {"chat", "beta"}
COPIES: Final = frozenset({"with_options", "copy"})


class Wrapped:
    """Behaves as the client does; ``unwrapped`` is the client itself."""

    def __init__(
        self, client: Any, reserve: Callable[..., Reservation], *, is_async: bool, feature: str | None, path: str = ""
    ) -> None:
        self.unwrapped = client
        self._reserve = reserve
        self._is_async = is_async
        self._feature = feature
        self._path = path

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.unwrapped, name)
        path = f"{self._path}.{name}" if self._path else name
        plain = path.removeprefix("beta.")
        if plain in NOT_METERED or name in ("with_raw_response", "with_streaming_response"):
            raise InvalidInput(
                "client", f"{path} is not metered; call {self._metered()}, or the client itself as .unwrapped"
            )
        if plain in CALLS:
            return self._call(found, CALLS[plain])
        if not self._path and name in COPIES:
            return lambda *args, **given: self._again(found(*args, **given), "")
        return self._again(found, path) if plain in ROOMS else found

    def _metered(self) -> str:
        theirs = [path for path in CALLS if path.startswith(self._path.removeprefix("beta."))] or list(CALLS)
        return " or ".join(f"{path}(stream=True)" for path in theirs)

    def _again(self, inner: Any, path: str) -> Wrapped:
        return Wrapped(inner, self._reserve, is_async=self._is_async, feature=self._feature, path=path)

    def __enter__(self) -> Wrapped:
        self.unwrapped.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.unwrapped.__exit__(*error)

    async def __aenter__(self) -> Wrapped:
        await self.unwrapped.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.unwrapped.__aexit__(*error)

    # -- a call -------------------------------------------------------------------------------------------------------

    def _call(self, method: Callable[..., Any], kind: Kind) -> Callable[..., Any]:
        async def create(**given: Any) -> Any:
            async with self._reserved(kind, given) as call:
                return call.track(await method(**_sent(kind, given, call)), hides_usage=_hides(kind, given))

        def create_sync(**given: Any) -> Any:
            with self._reserved(kind, given) as call:
                return call.track(method(**_sent(kind, given, call)), hides_usage=_hides(kind, given))

        return create if self._is_async else create_sync

    def _reserved(self, kind: Kind, given: dict[str, Any]) -> Reservation:
        _check_extra(kind, given)
        read = [given[name] for name in kind.reads if given.get(name) is not None]
        named = max((given[name] for name in kind.caps if type(given.get(name)) is int), default=None)
        many = _choices(given)  # each has a token at least
        return self._reserve(
            current().tenant,
            str(given.get("model")),
            input=read,
            max_output_tokens=max(USUAL_OUTPUT if named is None else named * many, many),
            min_output_tokens=max(MIN_OUTPUT, many),
            feature=self._feature,
        )


def _sent(kind: Kind, given: dict[str, Any], call: AiCall) -> dict[str, Any]:
    """With the model and the output that the call may use."""
    sent = given | {"model": call.model}
    caps = [each for each in kind.caps if each in given] or kind.caps[-1:] * call.is_limited
    sent |= dict.fromkeys(caps, max(1, call.max_output_tokens // _choices(given)))
    if given.get("stream") and kind.asks_for_usage:
        asked = given.get("stream_options")
        sent["stream_options"] = {**(asked if isinstance(asked, dict) else {}), "include_usage": True}
    return sent


def _check_extra(kind: Kind, given: dict[str, Any]) -> None:
    """The SDKs lay ``extra_body`` over what they send, so it would undo what the budget granted."""
    extra = given.get("extra_body")
    ours = {"model", "n", "stream", "stream_options", *kind.reads, *kind.caps}
    if isinstance(extra, Mapping) and (both := sorted(ours & extra.keys())):
        raise InvalidInput("extra_body", f"holds {', '.join(both)}, which the budget reads; give it as an argument")


def _choices(given: dict[str, Any]) -> int:
    """How many replies are asked for at once."""
    many = given.get("n")
    return max(1, many) if type(many) is int else 1


def _hides(kind: Kind, given: dict[str, Any]) -> bool:
    """Whether the chunk that says the usage is ours alone: the caller did not ask for it, and may not expect it."""
    asked = given.get("stream_options")
    return kind.asks_for_usage and not (isinstance(asked, dict) and asked.get("include_usage"))


def is_async(client: object) -> bool:
    return any(each.__name__.startswith("Async") for each in type(client).__mro__)
