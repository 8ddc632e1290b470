"""The billing log: what was changed, told and heard, in one list, the newest first; and whether its chain is whole."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

from mm_metering.backends.collecting import Hint
from mm_metering.backends.looks import Place
from mm_metering.core.audit import AuditEntry
from mm_metering.core.audit_chain import MOST_BROKEN
from mm_metering.core.cards import masked
from mm_metering.core.collecting import Notice
from mm_metering.core.periods import from_micros, micros
from mm_metering.dashboard.page import PAGE, Link, Page, Rows, Visit, place_text
from mm_metering.dashboard.render import json_text, link, words

Kind: TypeAlias = Literal["changes", "told", "heard"]
KINDS: Final[Mapping[Kind, str]] = {
    "changes": "what was changed",
    "told": "what was told to tenants and hooks",
    "heard": "what the payment provider said",
}
IN_FILE: Final = 1_000
MAX_VERIFIED: Final = 100_000
"""Most entries whose chain is followed while somebody waits for the page."""
SUBJECTS: Final[Sequence[tuple[tuple[str, ...], str, str]]] = (
    (("invoice ", "collection ", "payment asked"), "invoice", "id"),
    (("endpoint ", "deliveries "), "webhooks", "endpoint"),
    (("plan stored",), "plans", "plan"),
    (("alerts ",), "alerts", ""),
    (("dead letters", "rebuilt", "keys "), "system", ""),
)
"""By how an action begins: the page about its subject, and under which name it takes the subject."""
NOTHING: Final[Sequence[object]] = (None, "", [], {})
_INSTANT: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|\+00:00)")
BECAUSE: Final = {"host": "the host changed it"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the log. ``said``: what changed, in words; ``raw``: the same as JSON."""

    kind: Kind
    at: datetime
    id: str
    tenant: str
    who: str
    what: str
    why: str
    said: Sequence[str]
    raw: str
    subject: str
    see: str

    @property
    def place(self) -> Place:
        return Place(micros(self.at), self.id)


async def log(visit: Visit) -> Page:
    size = IN_FILE if "csv" in visit.query else PAGE
    found = await entries(visit, size + 1)
    page, more = found[:size], len(found) > size
    data = {
        "entries": page,
        "older": place_text(page[-1].at, page[-1].id) if more else "",
        "kinds": KINDS,
        "kind": visit.text("kind"),
    }
    return Page("log.html", "Billing log", data, files={"log": _file(page)})


async def entries(visit: Visit, limit: int) -> list[Entry]:
    """The newest before the visit's place. Each source gives as many as the page has, and the newest of all stay."""
    before, kind, tenant = visit.place(), visit.text("kind"), visit.text("tenant") or None
    ledger, sources = visit.house.ledger, list[Awaitable[Iterable[Entry]]]()
    if kind in ("", "changes"):
        sources.append(_each(ledger.audit_page(tenant=tenant, before=before, limit=limit), _changed))
    if kind in ("", "told"):
        sources.append(_each(ledger.notices_page(tenant=tenant, before=before, limit=limit), _told))
    if kind in ("", "heard") and tenant is None:
        sources.append(_each(ledger.hints_page(before=before, limit=limit), _heard))
    found = [each for theirs in await asyncio.gather(*sources) for each in theirs]
    return sorted(found, key=lambda each: each.place, reverse=True)[:limit]


async def _each(page: Awaitable[Iterable[Any]], make: Callable[[Any], Entry]) -> list[Entry]:
    return [make(each) for each in await page]


def _changed(entry: AuditEntry) -> Entry:
    then, now = _json(entry.before), _json(entry.after)
    raw = json_text({"before": then, "after": now}) if then or now else ""
    what, see = entry.action.replace("->", "→"), _page_of(entry, now)
    said = [*([entry.detail] if entry.detail else []), *changes(then, now)]
    who = (entry.tenant, entry.actor)
    return Entry("changes", entry.at, entry.id, *who, what, entry.reason, said, raw, entry.subject, see)


def _page_of(entry: AuditEntry, after: Mapping[str, Any]) -> str:
    if entry.action.startswith("credit note"):
        return link("invoice", id=after.get("invoice"))
    for beginnings, path, name in SUBJECTS:
        if entry.action.startswith(beginnings):
            return link(path, **({name: entry.subject} if name else {}))
    return link("tenant", id=entry.tenant) if entry.tenant else ""


def _told(notice: Notice) -> Entry:
    """Of what a host tells the data is the host's own, and may be personal: it is not repeated here."""
    of_house, because = notice.source == "house", str(notice.data.get("because", ""))
    data = notice.data if of_house else {}
    said = [*changes({}, {name: value for name, value in data.items() if name not in ("invoice", "because")})]
    invoice = data.get("invoice") or (because if because.startswith("inv_") else "")
    see = link("invoice", id=invoice) if invoice else link("tenant", id=notice.tenant) if notice.tenant else ""
    return Entry(
        *("told", notice.made_at, notice.id, notice.tenant, notice.source, words(notice.type)),
        why=BECAUSE.get(because, "") if of_house else "",
        said=said if of_house else ["with the host's own data"],
        raw=json_text(data) if data else "",
        subject=str(invoice or notice.tenant),
        see=see,
    )


def _heard(hint: Hint) -> Entry:
    follows = "followed" if hint.next_us is None else f"to be followed at {from_micros(hint.next_us):%Y-%m-%d %H:%M:%S}"
    tries = [f"{hint.tries} tries"] if hint.tries else []
    raw = {"about": hint.about, "object": hint.object_id, "happened_at": from_micros(hint.happened_us)}
    return Entry(
        *("heard", from_micros(hint.stored_us), hint.id, "", "payment provider", hint.type),
        why=hint.note,
        said=[f"{words(hint.about)} {hint.object_id}", follows, *tries],
        raw=json_text(raw),
        subject=hint.object_id,
        see="payments",
    )


# -- in words ---------------------------------------------------------------------------------------------------------


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """ "status finalized → paid"; what was not there before is named alone."""
    for name in dict.fromkeys((*before, *after)):
        then, now = (each.get(name) for each in (before, after))
        if name == "sha256":
            yield "too long to be kept, its digest is"
        elif then not in NOTHING:
            yield f"{words(name)} {_said(then)} → {_said(now)}"
        elif now not in NOTHING:
            yield f"{words(name)} {_said(now)}"


def _said(value: object) -> str:
    match value:
        case None | "":
            return "none"
        case bool():
            return "yes" if value else "no"
        case dict():
            return ", ".join(f"{words(str(name))} {_said(each)}" for name, each in value.items()) or "none"
        case list() | tuple():
            return "; ".join(map(_said, value)) or "none"
        case str() if _INSTANT.fullmatch(value):
            return value[:19].replace("T", " ")
    return str(value)


def _json(text: str) -> dict[str, Any]:
    """What an entry says of a state; one that was written by other hands may be anything."""
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return {"text": text}
    return found if isinstance(found, dict) else {"value": found}


def _file(page: Iterable[Entry]) -> Rows:
    header = ("at", "kind", "tenant", "who", "what", "why", "changed", "subject", "id")
    return Rows(header, [_cells(each) for each in page])


def _cells(each: Entry) -> tuple[object, ...]:
    said = masked("; ".join(each.said))
    return each.at, each.kind, each.tenant, each.who, each.what, masked(each.why), said, each.subject, each.id


# -- whether it is whole ----------------------------------------------------------------------------------------------


async def verify(visit: Visit) -> Page:
    """Follows the chain of all that was changed, if it is not too long to wait for."""
    head = await visit.house.audit_anchor()
    entries = head.seq if head else 0
    report = await visit.house.verify_audit() if entries <= MAX_VERIFIED else None
    data = {"report": report, "entries": entries, "head": head, "most": MAX_VERIFIED, "most_broken": MOST_BROKEN}
    return Page("verify.html", "Is the log whole?", data)


LINK = Link("log", "Billing log", log, also={"verify": verify})
