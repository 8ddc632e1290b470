"""What the pages have from the code: the text between `<!-- begin NAME -->` and `<!-- end NAME -->`, and llms.txt.

``MM_TEST_WRITE=1 ./dev test tests/docs/test_generated.py`` writes it anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from mm_metering.core.catalogue import Catalogue
from mm_metering.core.event_types import EVENT_TYPES
from mm_metering.core.lifecycles import COLLECTION, INVOICE, SUBSCRIPTION, Lifecycle
from mm_metering.middleware.responses import PROBLEM_BASE, REASONS
from tests.docs.answers import GUARD_CODES, answers
from tests.docs.api import api
from tests.docs.pages import AT_THE_ROOT, DOCS, ROOT, Page, navigation

SITE: Final = PROBLEM_BASE.removesuffix("problems/")
LLMS: Final = DOCS / "llms.txt"


def sections() -> Mapping[tuple[str, str], str]:
    """The text of each section, by page (under docs/) and name."""
    found = {(f"problems/{code}.md", "answer"): _fenced("http", answer) for code, answer in answers().items()}
    found |= {
        ("problems/index.md", "codes"): _codes(),
        ("reference/api.md", "api"): api(),
        ("reference/plans-file.md", "keys"): "\n".join(_keys(Catalogue.json_schema())),
        ("reference/events.md", "events"): "\n".join(_events()),
    }
    for name, table, first in (
        ("subscription", SUBSCRIPTION, "trial"),
        ("invoice", INVOICE, "draft"),
        ("collection", COLLECTION, "open"),
    ):
        found["explanation/lifecycles.md", name] = _fenced("mermaid", "\n".join(drawn(table, first)))
    return found


def section(text: str, name: str) -> str:
    found = _between(name).search(text)
    assert found, f"no <!-- begin {name} --> … <!-- end {name} -->"
    return found[2]


def with_section(text: str, name: str, content: str) -> str:
    return _between(name).sub(lambda found: f"{found[1]}{content}{found[3]}", text)


def llms() -> str:
    """What a language model reads first: each page of the navigation, in a line."""
    lines = ["# mm_metering", "", f"> {Page(DOCS / 'index.md').summary}"]
    for entry in navigation():
        if entry.page is None:
            lines += ["", f"{'#' * (entry.depth + 2)} {entry.title}", ""]
        elif entry.page != "index.md":
            page = Page(ROOT / AT_THE_ROOT.get(entry.page, f"docs/{entry.page}"))
            where = SITE + re.sub(r"(index)?\.md$", "", entry.page)
            lines.append(f"- [{entry.title}]({where.rstrip('/')}/): {page.summary}")
    return "\n".join(lines) + "\n"


def drawn(table: Lifecycle, first: str) -> Iterator[str]:
    """A state diagram of a lifecycle, as mermaid draws it."""
    yield "stateDiagram-v2"
    yield f"    [*] --> {first}"
    for state, moves in table.moves.items():
        yield from (f"    {state} --> {after}: {event}" for event, after in moves.items() if after != state)
    yield from (f"    {state} --> [*]" for state, moves in table.moves.items() if not moves)


def problem_pages() -> list[Path]:
    return [each for each in sorted((DOCS / "problems").glob("*.md")) if each.stem != "index"]


def _between(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- begin {name} -->\n)(.*?)(\n<!-- end {name} -->)", re.DOTALL)


def _fenced(kind: str, text: str) -> str:
    return f"```{kind}\n{text}\n```"


def _codes() -> str:
    rows = [(reason.status, code, reason.title) for code, reason in REASONS.items()]
    rows += [(status, code, title) for code, (status, title) in GUARD_CODES.items()]
    table = ["| status | code | |", "|--:|---|---|"]
    return "\n".join(table + [f"| {status} | [{code}]({code}.md) | {title} |" for status, code, title in sorted(rows)])


def _events() -> Iterator[str]:
    yield "| type | version | what happened | `data` |"
    yield "|---|---|---|---|"
    for each in EVENT_TYPES.values():
        yield f"| `{each.name}` | {each.version} | {each.doc} | {', '.join(f'`{name}`' for name in each.fields)} |"


def _keys(schema: Mapping[str, Any]) -> Iterator[str]:
    yield "| key | value | |"
    yield "|---|---|---|"
    rows = ((path, _value(field), field.get("description", "")) for path, field in _fields(schema, ""))
    for row in dict.fromkeys(rows):  # a limit, and one of a list of limits, have the same keys
        path, value, told = (each.replace("|", "\\|") for each in row)
        yield f"| `{path}` | {value} | {told} |"


def _fields(schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for each in schema.get("anyOf", [schema]):
        for name, field in each.get("properties", {}).items():
            below = f"{path}.{name}".removeprefix(".")
            yield below, field
            yield from _fields(field, below)
        for field in each.get("patternProperties", {}).values():
            yield from _fields(field, f"{path}.NAME".removeprefix("."))
        if isinstance(each.get("items"), Mapping) and each["items"].get("properties"):
            yield from _fields(each["items"], path)


def _value(field: Mapping[str, Any]) -> str:
    """In a few words; money is the pattern of decimal strings."""
    if "anyOf" in field:
        kinds = [_value(each) for each in field["anyOf"]]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in field:
        return ", ".join(f"`{json.dumps(each)}`" for each in field["enum"])
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    match field.get("type"):
        case "string":
            return "amount" if str(field.get("pattern", "")).startswith("^[0-9]{1,16}") else "text"
        case "integer":
            return "whole number"
        case "array":
            return f"list of {_value(field['items'])}"
        case "object":
            return "table"
        case kind:
            return str(kind)
