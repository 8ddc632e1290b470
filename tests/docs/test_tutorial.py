"""The tutorial, played as a reader would: copied, pasted, and what it shows is seen."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, Page
from tests.docs.shell import shell

STEPS = [Page(each) for each in sorted((DOCS / "tutorial").glob("*.md"))]


@pytest.mark.skipif(shutil.which("curl") is None, reason="the tutorial asks with curl")
@pytest.mark.timeout(240)
@pytest.mark.parametrize("page", STEPS, ids=lambda page: page.path.stem)
def test_a_step_shows_what_it_says(page: Page, tmp_path: Path) -> None:
    with shell(tmp_path) as opened:
        opened.play(page)
