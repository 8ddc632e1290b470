"""docs/security.md names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()


def test_every_test_that_the_page_names_is_there_and_every_file() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 15
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert not [name for name in named if f"def {name}(" not in tests]
    linked = re.findall(r"\]\(([^)#]+)", PAGE)
    assert not [each for each in linked if not (ROOT / "docs" / each).exists()]


def test_the_page_counts_the_commands_of_the_redis_user() -> None:
    line = next(line for line in (ROOT / "docs" / "redis.md").read_text().splitlines() if "ACL SETUSER" in line)
    commands = {word for word in line.split() if word.startswith("+")}
    assert f"has {len(commands)} commands" in PAGE
