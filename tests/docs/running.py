"""Runs a page's Python blocks, in order, in one namespace; a block may await."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from mm_metering import catalogues
from tests.docs.pages import ROOT, Block, Page

PRELUDES: Final = Path(__file__).parent / "preludes"
TESTS_TAKE_S: Final = 50.0
PLUGINS: Final = ("-p", "mm_metering.testing.plugin", "-p", "pytest_asyncio.plugin", "-p", "no:cacheprovider")
SETTINGS: Final = ("-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function")
_A_TEST = re.compile(r"^(?:async )?def test_|^@pytest\.", re.MULTILINE)


async def run_blocks(page: Page) -> None:
    """In the working directory: blocks that are a file are written, those with tests are run by pytest, the others
    executed. What a page presumes comes from preludes/common.py and its own prelude."""
    write("plans.toml", Path(catalogues.__file__).with_name("seed.toml").read_text("utf-8"))
    async with AsyncExitStack() as stack:
        stack.enter_context(_environment_kept())
        names: dict[str, Any] = {"__name__": "page", "stack": stack, "page": page}
        for prelude in (PRELUDES / "common.py", prelude_of(page)):
            if prelude.exists():
                await execute(prelude.read_text("utf-8"), str(prelude), 1, names)
        tests = ""
        for block in page.blocks:
            if block.file:
                write(block.file, block.text)
            elif block.kind == "python" and _A_TEST.search(block.text):
                tests += block.text
            elif block.kind == "python":
                await execute(block.text, page.name, block.line, names)
        if tests:
            run_tests(tests)


def write(name: str, text: str) -> None:
    Path(name).write_text(text, "utf-8")


@contextmanager
def _environment_kept() -> Iterator[None]:
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def prelude_of(page: Page) -> Path:
    return PRELUDES / f"{page.name.removeprefix('docs/').removesuffix('.md').replace('/', '__')}.py"


async def execute(source: str, file: str, line: int, names: dict[str, Any]) -> None:
    """As a notebook would; a traceback names the page and its line."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code = compile("\n" * (line - 1) + source, file, "exec", flags=flags, dont_inherit=True)
    waits = eval(code, names)
    if inspect.isawaitable(waits):
        await waits


def run_tests(tests: str) -> None:
    """In a process of its own, beside the page's conftest.py."""
    Path("test_page.py").write_text(f"import pytest\n\n\n{tests}", "utf-8")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{Path.cwd()}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "--rootdir", str(Path.cwd()), *PLUGINS, *SETTINGS, "test_page.py"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TESTS_TAKE_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def python_blocks(page: Page) -> list[Block]:
    return [each for each in page.blocks if each.kind == "python"]
