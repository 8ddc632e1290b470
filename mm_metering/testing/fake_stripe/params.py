"""Form bodies and queries as Stripe nests them: ``items[0][price]=p`` is ``{"items": {"0": {"price": "p"}}}``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

Params: TypeAlias = dict[str, Any]
_PART = re.compile(r"\[([^\]]*)\]")


def unflattened(text: str) -> Params:
    """Values are text; what stands under [] or under numbers is made a list."""
    found: Params = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        head, _, _ = name.partition("[")
        place, parts = found, [head, *_PART.findall(name)]
        for part in parts[:-1]:
            place = place.setdefault(part, {})
        last = parts[-1] or str(len(place))
        place[last] = value
    return {name: _listed(each) for name, each in found.items()}


def _listed(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    inner = {name: _listed(each) for name, each in value.items()}
    if inner and all(name.isdigit() for name in inner):
        return [inner[name] for name in sorted(inner, key=int)]
    return inner


def merged(before: Mapping[str, str], given: Mapping[str, str] | str | None) -> dict[str, str]:
    """Metadata: "" takes a key out, and "" for the whole takes all."""
    if given is None:
        return dict(before)
    if isinstance(given, str):
        return {}
    return {name: value for name, value in {**before, **given}.items() if value != ""}


def truth(value: object) -> bool:
    return value in (True, "true")


def texts(value: Iterable[str] | str | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())
