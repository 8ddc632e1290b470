"""A process that has imported everything but the product, and runs tests on a changed copy of it in forks of itself.

Each request is a line of JSON: a module, a piece of its source, what stands there instead, and the tests. The answer is
a line of JSON: pytest's exit code and the end of what it printed. ``python -m tests.mutants.server``
"""

from __future__ import annotations

import gc
import importlib.abc
import importlib.machinery
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Final

import alembic.command
import fastapi
import hypothesis.strategies
import opentelemetry.metrics
import pydantic
import pytest
import pytest_asyncio
import redis.asyncio
import sqlalchemy.ext.asyncio
import uuid_utils

LOADED: Final = (
    *(alembic, fastapi, hypothesis, opentelemetry, pydantic, pytest, pytest_asyncio, redis, sqlalchemy, uuid_utils),
)
"""What a fork need not import again."""
ENDED: Final = 100
"""Told apart from the exit code of a fork that failed before its tests began."""
SHOWN: Final = 2_000
QUIET: Final = (
    *("-x", "-q", "--no-header", "--tb=line", "--noconftest", "--assert=plain", "-p", "no:cacheprovider"),
    *("-p", "no:unraisableexception"),  # it collects garbage five times, and the fork ends anyway
    *("-p", "asyncio", "-p", "timeout", "-p", "hypothesispytest"),
)


class Changed(importlib.machinery.SourceFileLoader):
    """Loads a module with one piece of its source exchanged; SystemExit where that is not there exactly once."""

    def __init__(self, name: str, path: str, old: str, new: str) -> None:
        super().__init__(name, path)
        self._old, self._new = old, new

    def get_code(self, fullname: str) -> CodeType:
        source = self.get_source(fullname) or ""
        if source.count(self._old) != 1:
            raise SystemExit(f"{fullname} has {self._old!r} {source.count(self._old)} times, not once")
        return compile(source.replace(self._old, self._new), self.path, "exec", dont_inherit=True)


class Finder(importlib.abc.MetaPathFinder):
    """Finds the one module that is changed."""

    def __init__(self, name: str, old: str, new: str) -> None:
        self._name, self._old, self._new = name, old, new

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        assert spec is not None
        assert spec.origin
        spec.loader = Changed(fullname, spec.origin, self._old, self._new)
        return spec


def run(request: dict[str, Any], output: int) -> None:
    """In a fork: ends with ENDED and the exit code of the tests."""
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    if request["module"]:
        sys.meta_path.insert(0, Finder(request["module"], request["old"], request["new"]))
    hypothesis.settings.register_profile(
        "mutants", derandomize=True, database=None, phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate)
    )
    hypothesis.settings.load_profile("mutants")
    sys.exit(ENDED + pytest.main([*QUIET, *request["tests"]]))


def serve() -> None:
    fork = multiprocessing.get_context("fork")
    gc.collect()
    gc.freeze()  # a fork that looked through all of this would copy it
    for line in sys.stdin:
        with tempfile.TemporaryFile() as output:
            child = fork.Process(target=run, args=(json.loads(line), output.fileno()))
            child.start()
            child.join()
            output.seek(0)
            said = output.read().decode(errors="replace")[-SHOWN:]
        print(json.dumps({"code": (child.exitcode or 0) - ENDED, "said": said}), flush=True)


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[2])
    serve()
