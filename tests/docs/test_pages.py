"""Every example in the documentation runs."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Page, pages
from tests.docs.running import python_blocks, run_blocks

ALL = [Page(ROOT / "README.md"), *pages()]
WITH_PYTHON = [
    pytest.param(each, id=each.name) for each in ALL if python_blocks(each) and "/tutorial/" not in each.name
]


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # an example opens what the reader's app would close
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("page", WITH_PYTHON)
async def test_the_python_of_a_page_runs(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    await run_blocks(page)
    gc.collect()
