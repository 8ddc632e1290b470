"""The reference of what `from mm_metering import …` gives: signatures, first lines, fields."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import mm_metering
from mm_metering import FrozenClock, MeteredSocket, Metering
from mm_metering.ai.budgets import Ai
from mm_metering.billing.payments import Payments
from mm_metering.webhooks.endpoints import Webhooks

PARTS: Final = {"metering.ai": Ai, "metering.webhooks": Webhooks, "metering.billing": Payments}
"""What a Metering carries that has methods of its own."""
WITH_METHODS: Final = {Metering: "metering", FrozenClock: "clock", MeteredSocket: "socket"}
GROUPS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "Metering, and what finds the tenant": lambda each: not inspect.isclass(each) or each.__name__.startswith("Meter"),
    "Values": lambda each: not issubclass(each, BaseException),
    "Errors": lambda each: issubclass(each, BaseException),
}
FIRST: Final = next(iter(GROUPS))
WIDTH: Final = 100


def api() -> str:
    left = {name: getattr(mm_metering, name) for name in mm_metering.__all__}
    lines: list[str] = []
    for title, belongs in GROUPS.items():
        lines += [f"## {title}", ""]
        for name in [each for each, value in left.items() if belongs(value)]:
            lines += _entry(name, left.pop(name))
        if title == FIRST:
            for name, part in PARTS.items():
                lines += [f"### {name}", "", *_methods(part, name), ""]
    assert not left, f"in no group: {sorted(left)}"
    return "\n".join(lines).rstrip()


def _entry(name: str, value: Any) -> Iterator[str]:
    yield from (f"### {name}", "")
    if isinstance(value, tuple):
        yield from (f"`{value!r}`", "")
        return
    if not issubclass(value, BaseException) if inspect.isclass(value) else True:
        yield from ("```text", signature(name, value), "```", "")
    if told := _first(value):
        yield from (told, "")
    if value in WITH_METHODS:
        yield from (*_methods(value, WITH_METHODS[value]), "")


def _methods(owner: type, named: str) -> Iterator[str]:
    """A table; what is private is not in it."""
    yield "| | |"
    yield "|---|---|"
    for name, member in inspect.getmembers_static(owner):
        plain = getattr(member, "__func__", member)
        if name.startswith("_") or not (inspect.isfunction(plain) or isinstance(member, property)):
            continue
        told = " ".join(_first(plain if not isinstance(member, property) else member).split())
        shown = f"{named}.{name}" if isinstance(member, property) else signature(f"{named}.{name}", plain)
        yield f"| `{_cell(' '.join(shown.split()))}` | {_cell(told)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def signature(name: str, value: Any) -> str:
    """As one would call it: without self, annotations as the source writes them."""
    try:
        parameters = list(inspect.signature(value).parameters.values())
    except ValueError:
        return name
    written = _written(value)
    shown, star = [], False
    for each in (each.replace(annotation=written.get(each.name, each.annotation)) for each in parameters):
        if each.name in ("self", "cls"):
            continue
        if each.kind is each.KEYWORD_ONLY and not star:
            star = True
            shown.append("*")
        star |= each.kind is each.VAR_POSITIONAL
        shown.append(_parameter(each))
    flat = f"{name}({', '.join(shown)})"
    awaited = "await " if inspect.iscoroutinefunction(value) else ""
    if len(flat) <= WIDTH or "." in name:
        return awaited + flat
    return f"{awaited}{name}(\n" + "".join(f"    {each},\n" for each in shown) + ")"


def _written(value: Any) -> dict[str, str]:
    """Annotations of a pydantic model's fields as the source has them: its signature has what became of them."""
    if not hasattr(value, "model_fields"):
        return {}
    return {
        name: text for owner in reversed(value.__mro__) for name, text in vars(owner).get("__annotations__", {}).items()
    }


def _parameter(each: inspect.Parameter) -> str:
    stars = "*" if each.kind is each.VAR_POSITIONAL else "**" if each.kind is each.VAR_KEYWORD else ""
    kind = "" if each.annotation is each.empty else f": {_type(each.annotation)}"
    default = "" if each.default is each.empty else f" = {_default(each.default)}"
    return f"{stars}{each.name}{kind}{default if kind else default.replace(' ', '')}"


def _type(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"\b(?:mm_metering|typing|collections\.abc|starlette)\.(?:\w+\.)*", "", text)


def _default(value: Any) -> str:
    text = repr(value)
    return text.replace("datetime.", "") if len(text) < 40 and " at 0x" not in text else "…"


def _first(value: Any) -> str:
    """The first paragraph of what is said of it."""
    said = inspect.getdoc(value) or ""
    return "" if said.startswith(("!!!", "Usage docs")) else said.partition("\n\n")[0].replace("``", "`")
