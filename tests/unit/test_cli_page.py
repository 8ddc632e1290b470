"""docs/cli.md is what the commands say of themselves."""

from __future__ import annotations

from tests.unit.cli_page import PAGE, page


def test_the_page_is_of_this_release() -> None:
    assert PAGE.read_text("utf-8") == page(), "write it anew: ./dev run python -m tests.unit.cli_page"


def test_every_line_of_its_tables_has_two_cells() -> None:
    lines = [line for line in page().splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in lines} == {3}
