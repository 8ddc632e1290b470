"""``python -I -S alone.py WHEEL SITE PROGRAM DISTRIBUTION...``: runs a program with an unpacked wheel, and of all that
is installed these distributions alone."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import Distribution, distributions
from pathlib import Path
from types import ModuleType

wheel, site, program, *names = sys.argv[1:]


def files(of: Distribution) -> set[Path]:
    return {Path(site, each) for each in of.files or ()}


class Alone:
    """Before the finder of paths: what is there, but not one of ours, is not there."""

    allowed: set[Path]

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.origin is None or not spec.origin.startswith(site):
            return spec
        if Path(spec.origin) not in cls.allowed:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return spec


wanted = {each.lower().replace("_", "-") for each in names}
found = [each for each in distributions(path=[site]) if each.name.lower().replace("_", "-") in wanted]
Alone.allowed = {file for each in found for file in files(each)}
sys.path += [wheel, site]
sys.meta_path.insert(0, Alone)
sys.argv = [program]
runpy.run_path(program, run_name="__main__")
