"""The promises of ./dev that need no network: clear refusals, honest stamps, fallbacks, locks without hosts."""

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENT = re.compile(r"^[a-z0-9][^ ]*==[^ ]+", re.MULTILINE)
HASHED_REQUIREMENT = re.compile(r"^([a-z0-9][^ ]*==[^ ]+).* \\\n    --hash=sha256:[0-9a-f]{64}", re.MULTILINE)
FAILS = ["sh", "-c", "echo no index >&2; exit 1"]


@pytest.fixture
def dev() -> ModuleType:
    loader = SourceFileLoader("dev", str(ROOT / "dev"))
    spec = spec_from_loader(loader.name, loader)
    assert spec
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture
def elsewhere(dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of two files, so that nothing here touches the real .venv."""
    (tmp_path / ".venv").mkdir()
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    for lock in (dev.DEMO, dev.TEST):
        (tmp_path / lock.file).write_text(f"# {lock.file}\n")
    monkeypatch.setattr(dev, "ROOT", tmp_path)
    monkeypatch.setattr(dev, "VENV", tmp_path / ".venv")
    return tmp_path


def test_without_a_command_it_lists_them_all(dev: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert dev.main([]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in dev.COMMANDS)


def test_an_unknown_command_is_refused_with_the_known_ones(dev: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert dev.main(["tset"]) == 2
    assert (
        "no command 'tset'; it has demo, example, test, sim, chaos, nightly, matrix, bench, check"
        in capsys.readouterr().err
    )


def test_an_old_python_gets_one_clear_sentence(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    assert dev.main(["demo"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("changed", ["requirements.lock", "pyproject.toml"])
def test_a_stamp_holds_until_what_it_stands_for_changes(dev: ModuleType, elsewhere: Path, changed: str) -> None:
    assert not dev.is_ready(dev.DEMO)
    dev.stamp(dev.DEMO).write_text(dev.digest(dev.DEMO))
    assert dev.is_ready(dev.DEMO)
    (elsewhere / changed).write_text("changed")
    assert not dev.is_ready(dev.DEMO)


def test_the_test_installation_serves_the_demo_but_not_the_other_way(dev: ModuleType, elsewhere: Path) -> None:
    dev.stamp(dev.DEMO).write_text(dev.digest(dev.DEMO))
    assert not dev.is_ready(dev.TEST)
    dev.stamp(dev.DEMO).unlink()
    dev.stamp(dev.TEST).write_text(dev.digest(dev.TEST))
    assert dev.is_ready(dev.DEMO)


def test_two_first_uses_at_once_install_once(dev: ModuleType, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = elsewhere / "log"
    monkeypatch.setattr(dev, "venv_works", lambda: True)
    monkeypatch.setattr(dev, "ways_to_install", lambda _: iter([[["sh", "-c", f"echo installed >> '{log}'"]]]))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(dev.set_up, [dev.DEMO] * 4))
    assert log.read_text() == "installed\n"


def test_a_way_that_fails_gives_way_to_the_next(dev: ModuleType, elsewhere: Path) -> None:
    not_a_program = [str(elsewhere / "uv")]
    dev.first_that_works([[not_a_program], [["true"], FAILS], [["touch", "done"]]])
    assert (elsewhere / "done").exists()


def test_when_no_way_works_each_is_shown_with_the_way_out(dev: ModuleType, elsewhere: Path) -> None:
    with pytest.raises(SystemExit, match=r"(?s)no index.*It needs pip 22\.3 or newer"):
        dev.first_that_works([[FAILS]])


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-test.lock", "requirements-docs.lock"])
def test_a_lock_is_hash_checked_and_names_no_host_and_no_machine(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert not re.search(r"https?:|file:|--(extra-)?index|--find-links|(^|\s)/", text)
    assert REQUIREMENT.findall(text) == HASHED_REQUIREMENT.findall(text)


def test_the_test_lock_contains_the_demo_lock() -> None:
    demo = set(REQUIREMENT.findall((ROOT / "requirements.lock").read_text()))
    assert demo < set(REQUIREMENT.findall((ROOT / "requirements-test.lock").read_text()))
