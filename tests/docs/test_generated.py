"""What the pages have from the code is as the code says; ``MM_TEST_WRITE=1`` writes it anew."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import pytest

import mm_metering
from mm_metering.middleware import endpoint_guard
from mm_metering.middleware.responses import PROBLEM_BASE, REASONS
from tests.docs.answers import GUARD_CODES
from tests.docs.generated import LLMS, llms, problem_pages, section, sections, with_section
from tests.docs.pages import DOCS, SITE_FILE

SECTIONS = sections()
ANEW = "MM_TEST_WRITE=1 ./dev test tests/docs/test_generated.py writes it anew"
SOURCES = Path(mm_metering.__file__).parent


@pytest.mark.parametrize(("page", "name"), SECTIONS, ids=lambda each: each)
def test_a_section_is_what_the_code_says(page: str, name: str) -> None:
    path, content = DOCS / page, SECTIONS[page, name]
    if os.environ.get("MM_TEST_WRITE"):
        path.write_text(with_section(path.read_text("utf-8"), name, content), "utf-8")
    assert section(path.read_text("utf-8"), name) == content, ANEW


def test_llms_txt_has_every_page_of_the_navigation() -> None:
    if os.environ.get("MM_TEST_WRITE"):
        LLMS.write_text(llms(), "utf-8")
    assert LLMS.read_text("utf-8") == llms(), ANEW


def test_each_code_has_a_page_and_each_page_a_code() -> None:
    said = {
        call.args[1].value
        for call in ast.walk(ast.parse(Path(endpoint_guard.__file__).read_text("utf-8")))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "_problem"
        if isinstance(call.args[1], ast.Constant)
    }
    assert said - set(REASONS) == set(GUARD_CODES)
    assert {each.stem for each in problem_pages()} == set(REASONS) | set(GUARD_CODES)


def test_a_problem_s_type_is_the_address_of_its_page() -> None:
    site = re.search(r"^site_url: (\S+)$", SITE_FILE.read_text("utf-8"), re.MULTILINE)
    assert site is not None
    assert f"{site[1]}problems/" == PROBLEM_BASE


def test_every_variable_that_the_code_names_is_on_its_page() -> None:
    page = (DOCS / "reference" / "environment.md").read_text("utf-8")
    named = {
        found for path in SOURCES.rglob("*.py") for found in re.findall(r"MM_[A-Z_]+[A-Z]", path.read_text("utf-8"))
    }
    of_commands = {
        each for each in named if re.match(r"MM_METERING_(WORKER|INVOICE|SIMULATE|AUDIT_EXPORT|WEBHOOKS|SHOW)", each)
    }
    internal = {"MM_FAILPOINT", "MM_METERING", "MM_METERING_STRIPE", "MM_METERING_STAGE"}
    assert sorted(each for each in named - of_commands - internal if each not in page) == []
