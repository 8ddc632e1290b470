"""The audit log as a host has it: who acts, anchors, and the command line."""

from __future__ import annotations

import asyncio
import getpass
import json
import logging
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mm_metering import FrozenClock, Metering
from mm_metering.audit import AuditLog
from mm_metering.core.audit_chain import anchors_in
from mm_metering.errors import InvalidInput
from tests.flows.conftest import PATIENT, Make, Shell

SECRET = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
OTHER = "MTEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
UNTIL = "2024-03-01T00:00:00Z"


async def test_what_a_job_does_is_done_by_the_worker(make: Make, clock: FrozenClock, ledger: str) -> None:
    metering = await make(ledger=ledger, worker="off", secret_key=SECRET)
    with metering.acting("u_17", reason="signed up"):
        await metering.put_tenant("acme", plan="pro", subscribed_at="2024-01-01T00:00:00Z")
        clock.set("2024-02-03T00:00:00Z")
        await metering._jobs.once()
    finalized, created = await metering.list_audit(tenant="acme")
    assert (created.action, created.actor, created.reason) == ("tenant created", "u_17", "signed up")
    assert (finalized.action, finalized.actor, finalized.reason) == ("invoice finalized", "worker", "")


async def test_a_sync_caller_acts_as_who_it_says(memory: Metering) -> None:
    def mutes() -> None:
        with memory.acting("u_17"):
            memory.from_sync(lambda: memory.mute_alerts("quota", until=UNTIL))

    await asyncio.to_thread(mutes)
    assert [(each.action, each.actor) for each in await memory.list_audit(limit=1)] == [("alerts muted", "u_17")]


async def test_the_same_again_is_no_change_and_no_entry(memory: Metering) -> None:
    for _ in range(2):
        await memory.put_tenant("acme", plan="pro")
        await memory.mute_alerts("quota", until=UNTIL)
    assert [each.action for each in await memory.list_audit(limit=2)] == ["alerts muted", "tenant created"]


async def test_anchors_go_into_the_log_and_a_file_and_find_what_was_cut_off(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mm_metering.audit")
    path, file = tmp_path / "ledger.db", tmp_path / "elsewhere" / "anchors"
    metering = await make(ledger=f"sqlite:///{path}", worker="off", secret_key=SECRET, audit_anchors=file)
    await metering._jobs.once()
    await metering.mute_alerts("quota", until=UNTIL)
    await metering._audit.keep_anchor(metering.clock.now(), 1)
    anchor = await metering.audit_anchor()
    assert anchor is not None
    assert [seq for seq, _ in anchors_in(file.read_text())] == [3, 4]
    assert anchors_in(caplog.text) == anchors_in(file.read_text())
    assert (await metering.verify_audit(anchors=[file.read_text(), anchor])).anchors == 3
    cut_off(path, 3)
    assert (await metering.verify_audit()).holds
    report = await metering.verify_audit(anchors=[file.read_text()])
    assert [(each.seq, each.flaw) for each in report.broken] == [(4, "cut off")]


async def test_an_anchors_file_that_cannot_be_written_is_told(memory: Metering, tmp_path: Path) -> None:
    log = AuditLog(memory.ledger, clock=memory.clock, keys={}, anchors=tmp_path)
    with pytest.raises(InvalidInput, match=r"audit_anchors: .* cannot be written: Is a directory"):
        await log.keep_anchor(memory.clock.now(), 1)


async def test_an_empty_log_has_no_anchor_and_holds(tmp_path: Path) -> None:
    metering = Metering(ledger=f"sqlite:///{tmp_path}/ledger.db", worker="off", journal="off")
    await metering.ledger.setup(apply=True)
    await metering._audit.keep_anchor(metering.clock.now(), 1)
    report = await metering.verify_audit()
    assert (report.entries, report.holds, await metering._audit.anchor()) == (0, True, None)
    await metering.aclose()


async def test_keys_may_be_rotated_and_a_missing_one_is_named(make: Make, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    before = await make(ledger=url, worker="off", secret_key=SECRET)
    await before.mute_alerts("quota", until=UNTIL)
    metering = await make(ledger=url, worker="off", secret_key=f"{OTHER},{SECRET}")
    await metering.mute_alerts("quota", until="2024-04-01T00:00:00Z")
    assert (await metering.verify_audit()).holds
    alone = await make(ledger=url, worker="off", secret_key=OTHER)
    report = await alone.verify_audit()
    assert [(each.seq, each.flaw) for each in report.broken] == [(1, "no key")]
    unsigned = await make(ledger=url, worker="off")
    await unsigned.mute_alerts("budget", until=UNTIL)
    report = await metering.verify_audit()
    assert [(each.seq, each.flaw) for each in report.broken] == [(6, "unsigned")]
    assert (await metering.verify_audit(anchors=[str(await unsigned.audit_anchor())])).holds


# -- the command line --------------------------------------------------------------------------------------------------


def cut_off(path: Path, left: int) -> None:
    """With its head, as somebody does who may write everything."""
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("DROP TRIGGER mm_audit_log_no_delete")
        file.execute("DELETE FROM mm_audit_log WHERE seq > ?", (left,))
        file.execute(
            "UPDATE mm_audit_head SET seq = ?, mac = (SELECT mac FROM mm_audit_log WHERE seq = ?)", (left, left)
        )


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a ledger with five entries, which the command line works on."""
    path = tmp_path / "ledger.db"
    monkeypatch.setenv("MM_METERING_LEDGER", f"sqlite:///{path}")
    monkeypatch.setenv("MM_METERING_SECRET_KEY", SECRET)

    async def fill() -> None:
        clock = FrozenClock("2024-01-15T12:00:00Z")
        options = {"worker": "off", "timing": PATIENT, "journal": "off"}
        async with Metering(ledger=f"sqlite:///{path}", clock=clock, secret_key=SECRET, **options) as metering:  # type: ignore[arg-type]
            await metering.put_tenant("acme", plan="pro")
            with metering.acting("u_17", reason="[bold]ticket 12"):
                clock.set("2024-01-16T12:00:00Z")
                await metering.change_plan("acme", "enterprise")

    asyncio.run(fill())
    return path


def test_the_log_is_listed_and_says_who_ran_a_command(path: Path, shell: Shell) -> None:
    code, _, err = shell("alerts", "mute", "quota", "--reason", "noise")
    assert (code, err) == (0, "")
    code, out, _ = shell("audit", "list", "--limit", "2")
    flat = "".join(out.split())
    assert code == 0
    assert f"cli:{getpass.getuser()}alertsmuted" in flat
    assert flat.count("[bold]ticket12") == 1
    assert flat.endswith("entries:2")
    assert "tenant created" not in shell("audit", "list", "--tenant", "")[1]


def test_a_log_that_holds_is_verified_and_gives_its_anchor(path: Path, shell: Shell, tmp_path: Path) -> None:
    code, out, _ = shell("audit", "verify")
    assert code == 0
    assert "entries: 5, of which signed: 5\n" in out
    assert "without --anchor: entries that were cut off" in out
    ((seq, mac),) = anchors_in(out)
    assert shell("audit", "verify", "--anchor", f"{seq}:{mac}")[0] == 0
    file = tmp_path / "anchors"
    file.write_text(f"INFO audit anchor {seq}:{mac}\n")
    cut_off(path, 4)
    assert shell("audit", "verify")[0] == 0
    code, out, _ = shell("audit", "verify", "--anchors", file)
    assert code == 1
    assert "BROKEN  entry 5 was anchored and is not there; the log ends with entry 4" in out
    assert "not verified from entry 5 on" in out


def test_an_entry_that_was_changed_is_named(path: Path, shell: Shell) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("DROP TRIGGER mm_audit_log_no_update")
        file.execute("UPDATE mm_audit_log SET actor = 'nobody' WHERE seq = 4")
    code, out, _ = shell("audit", "verify")
    assert code == 1
    assert "BROKEN  entry 4 was changed, or it did not follow the one before it\n" in out


def test_an_export_has_every_entry_as_it_was_written(path: Path, shell: Shell) -> None:
    code, out, _ = shell("audit", "export")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [each["seq"] for each in lines] == [1, 2, 3, 4, 5]
    assert (lines[4]["at"], lines[4]["actor"]) == ("2024-01-16T12:00:00+00:00", "u_17")
    _, out, _ = shell("audit", "export", "--from", "2024-01-16T00:00:00Z", "--to", "2024-01-17T00:00:00Z")
    assert [json.loads(line)["action"] for line in out.splitlines()] == ["plan changed"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--anchor", "5:abc"), "anchor: '5:abc' is not of the form SEQ:MAC"),
        (("--anchors", "/nowhere"), "anchors: /nowhere cannot be read: No such file or directory"),
        (("--anchors", "/dev/null"), "anchors: /dev/null has no anchor"),
    ],
)
def test_anchors_that_cannot_be_read_are_refused(path: Path, shell: Shell, words: tuple[str, str], said: str) -> None:
    code, _, err = shell("audit", "verify", *words)
    assert code == 2
    assert said in err
