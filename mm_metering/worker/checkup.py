"""What goes wrong silently in a house: its status, its settings and its processes, as findings. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Final, NamedTuple, Protocol, runtime_checkable

from mm_metering.billing.mock import MockBillingAdapter
from mm_metering.core.findings import Finding
from mm_metering.gate.journal_file import Directory
from mm_metering.worker.status import Status

LAG_S: Final = 10.0
"""Past that the ledger is behind; past LATE_S something is wrong."""
LATE_S: Final = 60.0
MOST_ALERTS: Final = 5
SERVERS: Final = frozenset({"uvicorn", "gunicorn", "granian", "hypercorn", "fastapi"})
WORKERS_OPTION: Final = re.compile(r"(?:--workers|-w)(?:=?(\d+))?")
COUNTS: Final = ("WEB_CONCURRENCY", "UVICORN_WORKERS", "GRANIAN_WORKERS")
"""Variables by which servers are told how many processes to run."""
STAGES: Final = ("MM_METERING_STAGE", "APP_ENV", "ENVIRONMENT", "ENV", "FASTAPI_ENV")
"""Variables by which hosts say where they run."""
PRODUCTION: Final = frozenset({"production", "prod", "live"})


@runtime_checkable
class HasMode(Protocol):
    """A payment provider that is either for real money or for trying."""

    @property
    def is_live(self) -> bool: ...

    @property
    def hears(self) -> bool:
        """Whether it can verify the webhooks that the provider sends."""
        ...


class Settings(NamedTuple):
    """``worker_inside``: this process folds what it counts. ``provider``: the payment provider's adapter."""

    places: tuple[str, str]
    worker_inside: bool
    seals: bool
    keeps_anchors: bool
    provider: object | None


def check_house(status: Status, settings: Settings) -> Iterator[Finding]:
    """What is behind, what failed, what waits for somebody."""
    yield from (Finding("FAIL", f"shard {each.shard}: {each.trouble}") for each in status.shards if each.trouble)
    yield from _workers(status, settings)
    yield from _lag(status)
    for job in status.jobs:
        if job.state == "failed":
            yield Finding("FAIL", f"the job {job.job} was given up after {job.tries} tries: {job.error}")
    if status.dead_letters:
        way = "look at `mm-metering dead-letters`, then post them again with `mm-metering dead-letters retry`"
        yield Finding("FAIL", f"{status.dead_letters:,} dead letters are not in the ledger: {way}")
    if status.endpoints_off:
        way = "its tenant mends it and enables it again; `mm-metering webhooks list TENANT` shows it"
        yield Finding("warn", f"{status.endpoints_off:,} webhook endpoints are off, gone or failing for days: {way}")
    others = [each for each in status.alerts if each.kind not in ("dead_letters", "job_failed")]
    for alert in others[:MOST_ALERTS]:
        yield Finding("warn", f"open alert {alert.kind} {alert.subject}: {alert.detail}")


def _workers(status: Status, settings: Settings) -> Iterator[Finding]:
    alive = [each for each in status.workers if each.alive]
    for each in status.workers:
        if each.alive is False:
            yield Finding("warn", f"worker {each.id} stands still: it ended without saying so, or its machine is stuck")
    if alive:
        yield Finding("ok", f"workers: {len(alive)}")
    elif not settings.worker_inside:
        what = "no worker runs: usage is counted, and not billed; run `mm-metering worker --app ...`"
        yield Finding("FAIL" if status.lag_s else "warn", what)


def _lag(status: Status) -> Iterator[Finding]:
    behind = f"the ledger is {status.lag_s:,.0f} s behind"
    if status.lag_s > LATE_S:
        yield Finding("FAIL", f"{behind}: look at the worker's log, or run more of them")
    elif status.lag_s > LAG_S:
        yield Finding("warn", f"{behind}: if it stays so, run more workers")
    else:
        yield Finding("ok", behind)


def check_journal(journal: Directory | None) -> Iterator[Finding]:
    """What others left on this machine, once what could be taken over is."""
    if journal is None:
        return
    waiting = journal.count()
    if waiting.files:
        what = f"{waiting.facts:,} facts in {waiting.files:,} files wait for a process that takes them over"
        yield Finding("warn", f"journal: {journal.path}: {what}")
    else:
        yield Finding("ok", f"journal: {journal.path}: nothing waits")


# -- settings ----------------------------------------------------------------------------------------------------------


def check_settings(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    """What a house that keeps things should have, and whether its keys fit to where it runs."""
    _, ledger = settings.places
    if not ledger.startswith("memory:"):
        yield from _sealing(settings)
    if isinstance(settings.provider, HasMode):
        yield from _mode(settings.provider, ledger, stage_of(environ))
    elif isinstance(settings.provider, MockBillingAdapter) and not ledger.startswith("memory:"):
        way = "in its place StripeBillingAdapter with a sandbox's key, or with FakeStripe's base_url"
        yield Finding("warn", f"the payment provider's mock ends with its process, and the ledger does not: {way}")


def _sealing(settings: Settings) -> Iterator[Finding]:
    if not settings.seals:
        why = "metadata is stored in clear, the audit log is not signed, and no webhook endpoint can be made"
        way = "set MM_METERING_SECRET_KEY to the output of `openssl rand -base64 32`"
        yield Finding("warn", f"no secret_key: {why}; {way}")
    if not settings.keeps_anchors:
        why = "where the audit log ends is said in the worker's log alone"
        yield Finding(
            "warn", f"no audit_anchors: {why}; set MM_METERING_AUDIT_ANCHORS to a file that is kept elsewhere"
        )


def _mode(provider: HasMode, ledger: str, stage: str) -> Iterator[Finding]:
    if provider.is_live and ledger.startswith("memory:"):
        yield Finding("FAIL", "the payment provider's key is live, and the ledger ends with its process: name a ledger")
    elif provider.is_live and stage and stage not in PRODUCTION:
        yield Finding("FAIL", f"the payment provider's key is live, and this is {stage!r}: use the key of a sandbox")
    elif provider.is_live and ledger.startswith("sqlite:"):
        yield Finding("warn", "the payment provider's key is live, and the ledger is one file: is this production?")
    elif not provider.is_live and stage in PRODUCTION:
        yield Finding("FAIL", f"the payment provider's key is of a sandbox, and this is {stage!r}: nobody is charged")
    else:
        yield Finding("ok", f"the payment provider's key is {'live' if provider.is_live else 'of a sandbox'}")
    if not provider.hears:
        yield Finding("warn", "no webhook_secret: what the payment provider says is refused, and found out hours later")


def stage_of(environ: Mapping[str, str]) -> str:
    """Where the host says that it runs; "" if it does not."""
    return next((environ[name].strip().lower() for name in STAGES if environ.get(name)), "")


# -- processes ---------------------------------------------------------------------------------------------------------


def check_processes(
    places: Sequence[str], environ: Mapping[str, str], commands: Iterable[Sequence[str]]
) -> Iterator[Finding]:
    """Several processes that each count for themselves. It sees what servers are told by the environment and by the
    command lines that are given; two that were started by hand it does not."""
    found = several(environ, commands)
    for place, store in zip(places, ("counters", "ledger"), strict=True):
        if found and place.startswith("memory:"):
            number, said = found
            why = f"{said}, and each of {number} processes has a {store} of its own in {place}"
            yield Finding("FAIL", f"{why}: run one, or name a {store} that they share")


def several(environ: Mapping[str, str], commands: Iterable[Sequence[str]]) -> tuple[int, str] | None:
    """How many processes a server was told to run, and by what; None for one."""
    for name in COUNTS:
        if (number := _number(environ.get(name, ""))) > 1:
            return number, f"{name}={number}"
    for command in commands:
        if (number := workers_in(command)) > 1:
            return number, f"{PurePath(_server(command)).name} --workers {number}"
    return None


def workers_in(command: Sequence[str]) -> int:
    """How many processes a command line asks for; 0 if it is no server's or does not say."""
    if not _server(command):
        return 0
    for at, word in enumerate(command):
        if match := WORKERS_OPTION.fullmatch(word):
            following = command[at + 1] if at + 1 < len(command) else ""
            return _number(match[1] or following)
    return 0


def _server(command: Sequence[str]) -> str:
    return next((word for word in command if PurePath(word).name in SERVERS), "")


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 5 else 0
