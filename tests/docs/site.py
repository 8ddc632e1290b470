"""Builds the documentation site, strictly: a warning is a failure. `./dev docs` runs it with the builder beside it.

What lies outside of docs/ is not on the site, so the pages are built from a copy, without links to it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from mm_metering.core.catalogue import Catalogue
from mm_metering.middleware.responses import problem_schema
from tests.docs.pages import AT_THE_ROOT, DOCS, ROOT, SITE_FILE, Page, pages, without_links_out


def build(into: Path) -> int:
    with tempfile.TemporaryDirectory(prefix="mm-docs-") as work:
        copy = Path(work)
        shutil.copytree(DOCS, copy / "docs")
        shutil.copy(SITE_FILE, copy)
        for page in pages():
            (copy / page.name).write_text(without_links_out(page), "utf-8")
        for name, source in AT_THE_ROOT.items():
            (copy / "docs" / name).write_text(without_links_out(Page(ROOT / source)), "utf-8")
        for name, schema in (("plans", Catalogue.json_schema()), ("problem", problem_schema())):
            (copy / "docs" / f"{name}.schema.json").write_text(json.dumps(schema, indent=1), "utf-8")
        command = [sys.executable, "-m", "zensical", "build", "--strict"]
        done = subprocess.run(command, cwd=copy, check=False, capture_output=True, text=True)
        if done.returncode:
            print(done.stdout, done.stderr.partition("Traceback")[0], sep="\n", file=sys.stderr)
            return 1
        shutil.rmtree(into, ignore_errors=True)
        shutil.move(copy / "site", into)
    count = sum(1 for _ in into.rglob("*.html"))
    print(f"{count} pages, no warnings: {into}")
    return 0


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "site").resolve()))
