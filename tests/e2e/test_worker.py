"""``mm-metering worker`` as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def worker(stores: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    env = {f"MM_METERING_{name.upper()}": url for name, url in stores.items()}
    command = [sys.executable, "-m", "mm_metering.cli", "worker", *arguments]
    return subprocess.Popen(
        command, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_an_unreachable_store_is_one_sentence_and_code_3(tmp_path: Path) -> None:
    process = worker({"counters": "redis://127.0.0.1:1/0", "ledger": f"sqlite:///{tmp_path}/ledger.db"}, "--once")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 3
    assert len(said.strip().splitlines()) == 1
    assert said.startswith("mm-metering: ")
