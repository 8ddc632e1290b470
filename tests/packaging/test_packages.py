"""What is built is whole, and each extra is enough for what it is for."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import Final

import pytest

import mm_metering
from tests.packaging import built, uses

HERE: Final = Path(__file__).parent
ALONE: Final = HERE / "alone.py"
PROGRAMS: Final = {path.stem: path for path in Path(uses.__file__).parent.glob("[!_]*.py")}
NO_PROGRAM: Final = {"all"}


class Packages:
    def __init__(self, folder: Path) -> None:
        self.sdist, self.wheel = built.build(built.ROOT, folder / "dist", "sdist", "wheel")[::-1]
        self.source = built.unpacked(self.sdist, folder / "source")
        self.code = built.unpacked(self.wheel, folder / "code")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    return Packages(tmp_path_factory.mktemp("packages"))


def names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def test_a_wheel_has_all_of_the_package_and_nothing_else(packages: Packages) -> None:
    package = Path(mm_metering.__file__).parent
    kept = {str(each.relative_to(package.parent)) for each in package.rglob("*") if each.is_file()}
    found = names(packages.wheel)
    assert {each for each in found if ".dist-info/" not in each} == {each for each in kept if "__pycache__" not in each}
    assert "mm_metering/py.typed" in found


def test_the_sdist_makes_the_same_wheel_and_has_what_dev_needs(packages: Packages, tmp_path: Path) -> None:
    (again,) = built.build(packages.source, tmp_path, "wheel")
    assert names(again) == names(packages.wheel)
    asked = subprocess.run([sys.executable, "dev"], cwd=packages.source, check=True, capture_output=True, text=True)
    assert "demo" in asked.stdout
    locks = {each.name for each in built.ROOT.glob("requirements*.lock")}
    assert locks <= {each.name for each in packages.source.iterdir()}


def test_each_extra_has_a_program() -> None:
    assert {*built.EXTRAS} - NO_PROGRAM == {*PROGRAMS} - {"none"}


@pytest.mark.parametrize("extra", PROGRAMS)
def test_an_extra_is_enough_for_what_it_is_for(packages: Packages, tmp_path: Path, extra: str) -> None:
    site = sysconfig.get_paths()["purelib"]
    brought = sorted(built.brought("" if extra == "none" else extra))
    command: list[str | Path] = [sys.executable, "-I", "-S", ALONE, packages.code, site, PROGRAMS[extra], *brought]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
