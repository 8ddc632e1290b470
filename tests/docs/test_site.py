"""Every page is in the navigation, every link leads somewhere, every command in a page is one."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import pytest

from tests.docs.pages import AT_THE_ROOT, DOCS, ROOT, Page, navigation, pages
from tests.docs.shell import steps
from tests.unit.command_tree import leaves

OUTSIDE = [Page(ROOT / name) for name in ("README.md", "ARCHITECTURE.md", "CHANGELOG.md")]
ALL = [*OUTSIDE, *pages()]
EXTRAS = re.compile(r"mm-metering\[([\w,]+)\]")


def test_every_page_stands_in_the_navigation_once() -> None:
    named = [each.page for each in navigation() if each.page]
    written = [page.path.relative_to(DOCS).as_posix() for page in pages()]
    assert sorted(named) == sorted([*written, *AT_THE_ROOT])


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page: Page) -> None:
    assert [f"{page.name}:{line}: {target}" for target, line in page.links if not _is_there(page, target)] == []


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.name)
def test_every_command_of_a_page_is_one(page: Page) -> None:
    for command in _commands(page):
        _check(command, page)


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.name)
def test_every_extra_of_a_page_is_one(page: Page) -> None:
    known = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE))
    assert {each for found in EXTRAS.findall(page.text) for each in found.split(",")} <= known


def _is_there(page: Page, target: str) -> bool:
    path, _, anchor = target.partition("#")
    if "://" in path or path.startswith("mailto:"):
        return True
    there = (page.path.parent / path).resolve() if path else page.path
    return there.exists() and (not anchor or there.suffix != ".md" or anchor in Page(there).anchors)


def _commands(page: Page) -> Iterator[str]:
    """What is typed to `mm-metering` in blocks; in prose it is often a part of it."""
    for block in page.blocks:
        for step in steps(block) if block.kind in ("console", "text", "") else ():
            whole = step.command.partition("  #")[0]
            whole = re.sub(r"^(?:[A-Z_]+=\S+ )+", "", whole)
            if whole.startswith("mm-metering "):
                yield whole


def _check(command: str, page: Page) -> None:
    """The command and its options are known, and as many arguments are there as it takes."""
    typed = shlex.split(re.sub(r"\s+>\s+\S+\s*$", "", re.sub(r"\[(--?[^\]]*)\]", r"\1", command)))[1:]
    where = f"{page.name}: {command}"
    for words in _alternatives(typed):
        leaf = next((each for each in leaves() if tuple(words[: len(each.words)]) == each.words), None)
        assert leaf is not None, f"{where}: no such command"
        rest = [re.sub(r"^\d+$", "1", each) for each in words[len(leaf.words) :]]
        context = leaf.command.context_class(leaf.command, info_name=leaf.words[-1], **leaf.command.context_settings)
        given, left, _ = leaf.command.make_parser(context).parse_args(rest)
        missing = [each.name for each in leaf.arguments if each.required and given.get(each.name) is None]
        assert not left, f"{where}: {left}"
        assert not missing, f"{where}: without {missing}"


def _alternatives(words: list[str]) -> Iterator[list[str]]:
    """`webhooks show A | resend A` are two commands of one group."""
    group: list[str] = []
    part: list[str] = []
    for word in [*words, "|"]:
        if word != "|":
            part.append(word)
            continue
        yield [*group, *part]
        group, part = words[:1], []
