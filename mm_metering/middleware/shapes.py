"""The forms that an answer can take: which headers tell the limits, and whose clients can read a refusal's body."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, TypeAlias, assert_never, get_args

from mm_metering.errors import InvalidInput

HeaderStyle: TypeAlias = Literal["standard", "legacy", "both", "off"]
"""RateLimit and RateLimit-Policy; X-RateLimit-Limit, -Remaining and -Reset; both; or none of them."""
Shape: TypeAlias = Literal["problem", "openai", "anthropic"]
"""An RFC 9457 problem, or one that the clients of that provider understand as well."""

PROBLEM_JSON: Final = "application/problem+json"
JSON: Final = "application/json"


class Kinds(NamedTuple):
    """What the providers call a refusal: the ``type`` of their ``error`` object."""

    openai: str
    anthropic: str


@dataclass(frozen=True, slots=True)
class Style:
    """How a host wants its answers. Raises InvalidInput, whose ``field`` is the option of ``install``.

    error_shapes  path prefix → shape. A prefix ends at a slash: "/v1/chat" is also for /v1/chat/completions, not for
                  /v1/chatter. The longest one decides. It is compared with ``scope["path"]``, which holds a server's
                  ``root_path`` and the prefixes of mounts
    """

    headers: HeaderStyle = "standard"
    error_shapes: Mapping[str, Shape] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.headers not in get_args(HeaderStyle):
            raise InvalidInput("headers", f"{self.headers!r} is none of {_choices(HeaderStyle)}")
        for prefix, shape in self.error_shapes.items():
            if not prefix.startswith("/"):
                raise InvalidInput("error_shapes", f'{prefix!r} is not a path; write "/{prefix}"')
            if shape not in get_args(Shape):
                raise InvalidInput("error_shapes", f"{shape!r} for {prefix} is none of {_choices(Shape)}")
        object.__setattr__(self, "error_shapes", MappingProxyType(dict(self.error_shapes)))

    def shape_of(self, path: str) -> Shape:
        """The shape of a refusal on this path; a problem where no prefix matches."""
        matching = [prefix for prefix in self.error_shapes if f"{path}/".startswith(f"{prefix.rstrip('/')}/")]
        return self.error_shapes[max(matching, key=len)] if matching else "problem"

    def content_types(self) -> tuple[str, ...]:
        """All that a refusal may come as."""
        return (PROBLEM_JSON, JSON) if "anthropic" in self.error_shapes.values() else (PROBLEM_JSON,)


PLAIN: Final = Style()


def shaped(problem: dict[str, Any], shape: Shape, kinds: Kinds) -> tuple[str, dict[str, Any]]:
    """A problem's content type and body in that shape.

    Each shape has all members of the problem, so that code which reads ours works on every route; only Anthropic's
    ``type`` is always "error", which is why that body does not call itself a problem.
    """
    match shape:
        case "problem":
            return PROBLEM_JSON, problem
        case "openai":
            error = {"message": problem["detail"], "type": kinds.openai, "code": problem["code"], "param": None}
            return PROBLEM_JSON, {**problem, "error": error}
        case "anthropic":
            error = {"type": kinds.anthropic, "message": problem["detail"]}
            return JSON, {"type": "error", "error": error, **{key: problem[key] for key in problem if key != "type"}}
        case _:
            assert_never(shape)


def _choices(options: Any) -> str:
    return ", ".join(get_args(options))
