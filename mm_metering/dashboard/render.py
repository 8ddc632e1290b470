"""From pages to bytes: the templates, how they word amounts and instants, and files for spreadsheets."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlencode

from mm_metering.billing.documents.rows import guarded
from mm_metering.billing.documents.texts import clean
from mm_metering.core.cards import masked
from mm_metering.core.collecting import Notice
from mm_metering.core.money import plain
from mm_metering.core.periods import from_micros
from mm_metering.dashboard.charts import spark
from mm_metering.errors import MissingExtra

if TYPE_CHECKING:
    from jinja2 import Environment

STATIC: Final = files("mm_metering.dashboard") / "static"
TEMPLATES: Final = files("mm_metering.dashboard") / "templates"
MEDIA_TYPES: Final = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
NONE: Final = "–"
STEPS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


class Asset(NamedTuple):
    """``version`` changes with the content, so that browsers may keep it for ever."""

    content: bytes
    compressed: bytes
    media_type: str
    version: str


@cache
def assets() -> Mapping[str, Asset]:
    """By name."""
    return {each.name: _asset(each.name, each.read_bytes()) for each in STATIC.iterdir() if _ending(each.name)}


def _ending(name: str) -> str:
    return MEDIA_TYPES.get(name.rpartition(".")[2], "")


def _asset(name: str, content: bytes) -> Asset:
    return Asset(content, gzip.compress(content, 9, mtime=0), _ending(name), sha256(content).hexdigest()[:12])


@cache
def environment() -> Environment:
    """MissingExtra without jinja2."""
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtra("server", "the dashboard") from error
    found = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (TEMPLATES / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        cache_size=200,
    )
    found.filters |= {
        "amount": amount,
        "count": count,
        "day": day,
        "instant": instant,
        "json_text": json_text,
        "lasting": lasting,
        "list_of_two": lambda value: (value, words(value)),
        "masked": masked,
        "moment": from_micros,
        "short": short,
        "told": told,
        "words": words,
    }
    found.globals |= {"asset": lambda name: f"static/{name}?v={assets()[name].version}", "link": link, "spark": spark}
    return found


def html(template: str, values: Mapping[str, Any]) -> bytes:
    return environment().get_template(template).render(values).encode("utf-8", "replace")


# -- wording ----------------------------------------------------------------------------------------------------------


def count(value: int | Decimal | None) -> str:
    """ "1,234"; "unlimited" for None."""
    return "unlimited" if value is None else f"{value:,f}" if isinstance(value, Decimal) else f"{value:,}"


def amount(value: Decimal | None, currency: str = "") -> str:
    """ "1,234.50 USD", with the places that it has."""
    if value is None:
        return NONE
    text = f"{value:,f}".replace("-", "−")
    return f"{text} {currency}" if currency else text


def instant(at: datetime | None) -> str:
    """In UTC, to the second."""
    return NONE if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def day(at: date | None) -> str:
    return NONE if at is None else f"{at:%Y-%m-%d}"


def lasting(seconds: float | timedelta | None) -> str:
    """ "3 d 4 h": the two largest parts."""
    if seconds is None:
        return NONE
    left = max(0, int(seconds.total_seconds() if isinstance(seconds, timedelta) else seconds))
    parts = []
    for size, name in STEPS:
        number, left = divmod(left, size)
        parts.append(f"{number} {name}" if number else "")
    begun = next((at for at, part in enumerate(parts) if part), len(parts) - 1)
    return " ".join(part for part in parts[begun : begun + 2] if part) or "0 s"


def short(text: str, most: int = 40) -> str:
    """One line, in which nothing turns its neighbours' direction."""
    text = clean(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def words(name: str) -> str:
    """ "api_calls" for people."""
    return name.replace("_", " ").replace(".", " · ")


def told(notice: Notice) -> str:
    """What an alert says, for people: "reports 40 of 50 this month"."""
    data = notice.data
    if {"meter", "used", "limit"} <= data.keys():
        scope = f" of {data['scope']}" if data.get("scope") else ""
        window = f" this {data['window']}" if data.get("window") else ""
        return f"{words(str(data['meter']))}{scope} {_number(data['used'])} of {_number(data['limit'])}{window}"
    if {"expected", "budget"} <= data.keys():
        return f"likely {data['expected']} of {data['budget']} USD by the end of {data.get('period')}"
    return ", ".join(f"{words(name)} {_number(value)}" for name, value in data.items())


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def json_text(value: object) -> str:
    """For people to read."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=_plain)


def _plain(value: object) -> str:
    return plain(value) if isinstance(value, Decimal) else str(value)


def link(path: str, **query: object) -> str:
    """A relative URL; what is empty is left out."""
    given = {name: value for name, value in query.items() if value not in (None, "", False)}
    return f"{path}?{urlencode(given)}" if given else path


# -- files ------------------------------------------------------------------------------------------------------------


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """For a spreadsheet. A text that it would take for a formula has an apostrophe before it."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(header)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return out.getvalue()


def _cell(value: object) -> object:
    match value:
        case None:
            return ""
        case Decimal():
            return plain(value)
        case datetime():
            return value.astimezone(UTC).isoformat()
        case str():
            return guarded(value)
        case _:
            return value
