"""What the check-up makes of a house's status, settings and processes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest

from mm_metering.billing.mock import MockBillingAdapter
from mm_metering.billing.stripe import StripeBillingAdapter
from mm_metering.core.findings import Finding
from mm_metering.worker.checkup import Settings, check_house, check_processes, check_settings, several, workers_in
from mm_metering.worker.status import (
    JobStatus,
    JournalStatus,
    OpenAlert,
    QueueStatus,
    ShardStatus,
    Status,
    WorkerStatus,
)

NOW = datetime(2024, 1, 15, 12, tzinfo=UTC)
NOTHING = QueueStatus(waiting=0, oldest_at=None)
SHARD = ShardStatus(shard=0, worker="w", folded_at=NOW, oldest_at=None, lag_s=0.0)
WORKER = WorkerStatus(id="w", shards=(0,), alive=True)
JOB = JobStatus(job="close-month", period_start=NOW, state="done", tries=1, started_at=NOW, finished_at=NOW, error=None)
HEALTHY = Status(
    as_of=NOW,
    counters="redis://host/0",
    ledger="postgresql://host/db",
    workers=(WORKER,),
    shards=(SHARD,),
    journal=JournalStatus(place=None, files=0, facts=0),
    jobs=(JOB,),
    closed_at=NOW,
    dead_letters=0,
    alerts=(),
    invoices={},
    deliveries=NOTHING,
    notices=NOTHING,
    provider_webhooks=NOTHING,
    holds=NOTHING,
    endpoints_off=0,
)
SETTINGS = Settings(
    ("redis://host/0", "postgresql://host/db"), worker_inside=False, seals=True, keeps_anchors=True, provider=None
)


def wrong(status: Status = HEALTHY, settings: Settings = SETTINGS, **environ: str) -> list[Finding]:
    found = [*check_house(status, settings), *check_settings(settings, environ)]
    return [each for each in found if each.level != "ok"]


def with_(**changes: Any) -> Status:
    return HEALTHY.model_copy(update=changes)


def test_a_healthy_house_has_nothing_to_mend() -> None:
    assert wrong() == []
    assert wrong(with_(workers=()), SETTINGS._replace(worker_inside=True)) == []
    assert [each.text for each in check_house(HEALTHY, SETTINGS)] == ["workers: 1", "the ledger is 0 s behind"]


@pytest.mark.parametrize(
    ("changes", "level", "says"),
    [
        ({"workers": ()}, "warn", "no worker runs: usage is counted, and not billed; run `mm-metering worker"),
        ({"workers": (WORKER.model_copy(update={"alive": False}),)}, "warn", "worker w stands still"),
        ({"shards": (SHARD.model_copy(update={"lag_s": 11.0}),)}, "warn", "the ledger is 11 s behind: if it stays so"),
        ({"shards": (SHARD.model_copy(update={"lag_s": 3_600.0}),)}, "FAIL", "3,600 s behind: look at the worker's"),
        ({"shards": (SHARD.model_copy(update={"trouble": "no answer"}),)}, "FAIL", "shard 0: no answer"),
        ({"dead_letters": 3}, "FAIL", "3 dead letters are not in the ledger: look at `mm-metering dead-letters`"),
        ({"endpoints_off": 2}, "warn", "2 webhook endpoints are off"),
        (
            {"jobs": (JOB.model_copy(update={"state": "failed", "tries": 6, "error": "boom"}),)},
            "FAIL",
            "the job close-month was given up after 6 tries: boom",
        ),
        (
            {"alerts": (OpenAlert(kind="usage_report", subject="acme", opened_at=NOW, detail="refused"),)},
            "warn",
            "open alert usage_report acme: refused",
        ),
    ],
)
def test_what_is_wrong_with_a_house_is_said_with_the_way_out(changes: dict[str, Any], level: str, says: str) -> None:
    assert [each for each in wrong(with_(**changes)) if each.level == level and says in each.text]


def test_usage_that_waits_for_no_worker_is_a_failure() -> None:
    waits = SHARD.model_copy(update={"lag_s": 5.0, "oldest_at": NOW - timedelta(seconds=5)})
    assert wrong(with_(workers=(), shards=(waits,)))[0].level == "FAIL"


# -- settings ----------------------------------------------------------------------------------------------------------


def test_a_house_that_keeps_things_should_seal_and_anchor_them() -> None:
    bare = SETTINGS._replace(seals=False, keeps_anchors=False)
    assert [each.text.partition(":")[0] for each in wrong(settings=bare)] == ["no secret_key", "no audit_anchors"]
    first_steps = bare._replace(places=("memory://", "memory://"))
    assert wrong(settings=first_steps) == [], "it keeps nothing"


class Provider(NamedTuple):
    is_live: bool
    hears: bool = True


@pytest.mark.parametrize(
    ("provider", "ledger", "stage", "found"),
    [
        (Provider(is_live=True), "postgresql://h/d", "production", None),
        (Provider(is_live=True), "postgresql://h/d", "", None),
        (Provider(is_live=False), "postgresql://h/d", "", None),
        (Provider(is_live=False), "memory://", "dev", None),
        (Provider(is_live=True), "memory://", "", "ends with its process"),
        (Provider(is_live=True), "sqlite:///x", "", "is this production?"),
        (Provider(is_live=True), "postgresql://h/d", "Staging", "'staging': use the key of a sandbox"),
        (Provider(is_live=False), "postgresql://h/d", "prod", "'prod': nobody is charged"),
        (Provider(is_live=True, hears=False), "postgresql://h/d", "", "no webhook_secret"),
    ],
)
def test_a_key_of_the_wrong_mode_is_said(provider: Provider, ledger: str, stage: str, found: str | None) -> None:
    settings = SETTINGS._replace(places=("redis://h/0", ledger), provider=provider)
    texts = [each.text for each in wrong(settings=settings, APP_ENV=stage)]
    assert [found in text for text in texts if found] == ([True] if found else [])
    assert bool(texts) == bool(found)


def test_a_mock_beside_a_ledger_that_is_kept_is_said() -> None:
    mock = SETTINGS._replace(provider=MockBillingAdapter())
    assert ["mock ends with its process" in each.text for each in wrong(settings=mock)] == [True]
    assert wrong(settings=mock._replace(places=("memory://", "memory://"))) == []


@pytest.mark.parametrize(("key", "is_live"), [("sk_live_abc123", True), ("rk_test_abc123", False)])
def test_a_stripe_adapter_says_its_mode(key: str, is_live: bool) -> None:  # noqa: FBT001
    adapter = StripeBillingAdapter(api_key=key)
    settings = SETTINGS._replace(provider=adapter)
    texts = [each.text for each in check_settings(settings, {"ENV": "production"})]
    assert (adapter.is_live, adapter.hears) == (is_live, False)
    assert any("nobody is charged" in text for text in texts) != is_live


# -- processes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "workers"),
    [
        ("/usr/bin/python /venv/bin/uvicorn main:app --workers 4", 4),
        ("gunicorn -w 3 main:app", 3),
        ("gunicorn --workers=2 main:app", 2),
        ("python -m fastapi run --workers 8", 8),
        ("uvicorn main:app", 0),
        ("uvicorn main:app --workers", 0),
        ("uvicorn main:app --workers many", 0),
        ("celery worker -w 4", 0),
        ("", 0),
    ],
)
def test_a_server_s_command_line_says_how_many_processes_there_are(command: str, workers: int) -> None:
    assert workers_in(command.split()) == workers


def test_several_processes_on_a_store_of_one_are_a_failure() -> None:
    both, shared = ("memory://", "memory://"), ("redis://h/0", "sqlite:///x")
    counters, ledger = check_processes(both, {"WEB_CONCURRENCY": "4"}, [])
    assert counters == Finding(
        "FAIL",
        "WEB_CONCURRENCY=4, and each of 4 processes has a counters of its own in memory://: run one, or name a "
        "counters that they share",
    )
    assert "ledger" in ledger.text
    assert [*check_processes(shared, {"WEB_CONCURRENCY": "4"}, [])] == []
    for healthy in ({}, {"WEB_CONCURRENCY": "1"}, {"WEB_CONCURRENCY": "auto"}):
        assert [*check_processes(both, healthy, [["uvicorn", "main:app"]])] == []
    assert several({}, [["python"], ["/bin/gunicorn", "-w", "2"]]) == (2, "gunicorn --workers 2")
