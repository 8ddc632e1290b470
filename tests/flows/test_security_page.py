"""docs/security.md names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()


def test_each_threat_has_its_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("|")][2:]
    assert rows
    for row in rows:
        found = re.search(r"`(tests/[a-z0-9_/]+\.py)::(test_[a-z0-9_]+)` \|$", row)
        assert found, row
        assert f"def {found[2]}(" in (ROOT / found[1]).read_text(), row


def test_it_is_short_and_links_the_acl() -> None:
    assert len(PAGE.splitlines()) <= 150
    assert "(redis.md#an-acl-user)" in PAGE
    assert "## An ACL user" in (ROOT / "docs" / "redis.md").read_text()
