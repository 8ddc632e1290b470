"""The demo as a stranger runs it: it ends well, proves its sums, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def demo(**env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "examples.mortgagematch.demo", "--once"]
    settings = {**os.environ, **env}
    return subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.timeout(120)
def test_the_demo_proves_its_sums_and_leaves_nothing_behind(tmp_path: Path) -> None:
    ended = demo(TMPDIR=str(tmp_path))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "check passed: 18 of 18 sums are equal to the unit" in ended.stdout
    assert "250 api_calls past the allowance" in ended.stdout
    assert not list(tmp_path.iterdir())
    assert str(tmp_path) not in _commands()


def test_without_a_server_it_says_in_one_sentence_what_to_set() -> None:
    ended = demo(MM_REDIS_SERVER="/nonexistent", TMPDIR=tempfile.gettempdir())
    assert ended.returncode == 1
    assert "MM_REDIS_SERVER" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def _commands() -> str:
    """The command lines of all processes."""
    lines = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(each.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return "\n".join(lines)
