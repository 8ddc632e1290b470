"""What holds for every command: found by walking the tree, so that a new one cannot be without."""

from __future__ import annotations

import ast
import re
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest

from mm_metering import Metering, cli
from mm_metering.cli import main, show
from mm_metering.cli.host import needed, of_project
from mm_metering.cli.options import PREFIX
from mm_metering.errors import InvalidInput
from mm_metering.proof import Verdict
from tests.unit.command_tree import Leaf, leaves

LEAVES: Final = [*leaves()]
PROMISED: Final = """
init dev demo worker status doctor routes explain simulate reconcile rebuild prove forecast
usage show|adjust|backfill|export
tenants show|set-plan|override|suspend|resume|cancel|list|export|forget
plans init|validate|diff|apply|show
invoice preview|run|show|explain
alerts list|test|mute
webhooks list|show|resend|replay|listen|trigger|rotate-secret
audit list|verify|export
keys list|rotate
telemetry grafana|alerts
"""
WITHOUT_JSON: Final = {
    "worker": "runs until it is stopped",
    "dev": "runs until it is stopped",
    "plans init": "writes a file",
    "webhooks listen": "runs until it is stopped",
    "tenants export": "writes lines of JSON",
    "audit export": "writes lines of JSON",
    "usage export": "writes lines of JSON",
    "telemetry grafana": "writes JSON",
    "telemetry alerts": "writes a file for Prometheus",
}
APP: Final = """
from mm_metering import Metering
metering = Metering()
other = 1
"""


def name(leaf: Leaf) -> str:
    return " ".join(leaf.words)


each_command = pytest.mark.parametrize("leaf", LEAVES, ids=name)


def test_every_command_that_is_promised_is_there() -> None:
    promised = set[str]()
    for line in PROMISED.strip().splitlines():
        first, _, rest = line.partition(" ")
        promised |= {f"{first}/{each}" for each in rest.split("|")} if "|" in rest else {*line.split()}
    there = {"/".join(leaf.words) for leaf in LEAVES}
    assert promised - there == set()


@each_command
def test_each_option_has_a_twin_that_help_names_and_that_works(leaf: Leaf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    given = {option.name: text_for(option) for option in leaf.options}
    args = [*(text_for(each) for each in leaf.arguments if each.nargs == 1)]
    needs = [(option.opts[0], given[option.name]) for option in leaf.options if option.required]
    plain = leaf.context(*args, *(word for pair in needs for word in pair))
    help_text = " ".join(leaf.command.get_help(plain).split())
    for option in leaf.options:
        twin = twin_of(leaf, option)
        assert re.search(rf"env var: [^\]]*\b{twin}\b", help_text), f"--help does not name {twin}"
        others = [word for pair in needs if pair[0] != option.opts[0] for word in pair]
        with monkeypatch.context() as inside:
            inside.setenv(twin, given[option.name])
            found = leaf.context(*args, *others)
        assert found.get_parameter_source(option.name).name == "ENVIRONMENT", option.opts
        assert str(found.params[option.name]).strip("[]'") in (given[option.name], "True", f"{given[option.name]}.0")
    show.be_quiet(False)  # noqa: FBT003


def text_for(param: Any) -> str:
    if param.name == "app":
        return "main:metering"
    if choices := param.type_descriptor.choices:
        return str(next(iter(choices)))
    kind = str(param.type_descriptor.annotation)
    return "1" if "bool" in kind else "7" if re.search("int|float", kind) else "text"


def twin_of(leaf: Leaf, option: Any) -> str:
    """What somebody would guess."""
    flag = option.opts[0].removeprefix("--").replace("-", "_").upper()
    if flag == "APP":
        return f"{PREFIX}_APP"
    return "_".join([PREFIX, *(word.replace("-", "_").upper() for word in leaf.words), flag])


@each_command
def test_each_command_that_shows_something_shows_it_as_json(leaf: Leaf) -> None:
    has_json = any("--json" in option.opts for option in leaf.options)
    assert has_json != (name(leaf) in WITHOUT_JSON)


@each_command
def test_each_command_and_parameter_says_what_it_is(leaf: Leaf) -> None:
    assert leaf.command.help, "a command without a sentence"
    for each in leaf.command.params:
        assert each.help, f"{each.name} has no help"


def test_shared_options_are_said_once() -> None:
    """Whatever several commands have is in options.py."""
    folder = Path(cli.__file__).parent
    once = {"--app", "--json", "--quiet"}
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if path.name != "options.py" and isinstance(node, ast.Constant) and node.value in once:
                pytest.fail(f"{path.name} says {node.value} itself")


# -- the program -------------------------------------------------------------------------------------------------------


class Program:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *words: str) -> tuple[int, str, str]:
        self._monkeypatch.setattr(sys, "argv", ["mm-metering", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        said = self._capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    """In an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return Program(monkeypatch, capsys)


@pytest.mark.parametrize(
    ("typed", "meant"), [(("invoic",), "'invoice'"), (("plans", "difff"), "'diff'"), (("docter",), "'doctor'")]
)
def test_a_mistyped_command_is_told_what_was_meant(program: Program, typed: tuple[str, ...], meant: str) -> None:
    code, said, error = program(*typed)
    assert (code, said) == (2, "")
    assert f"Did you mean {meant}" in error


@pytest.mark.parametrize(
    ("words", "code", "next_step"),
    [
        (("doctor",), 2, "`mm-metering init` writes one"),
        (("invoice", "list"), 2, "`mm-metering init` writes one"),
        (("worker",), 2, "`mm-metering demo` shows one"),
        (("doctor", "--app", "missing:metering"), 2, "`mm-metering init` to begin one"),
        (("plans", "validate", "plans.toml"), 2, "mm-metering plans init"),
        (("plans", "show"), 2, "MM_METERING_LEDGER"),
    ],
)
def test_a_first_error_says_what_to_do_next(
    program: Program, words: tuple[str, ...], code: int, next_step: str
) -> None:
    ended, said, error = program(*words)
    assert (ended, said) == (code, "")
    assert next_step in error
    assert error.count("\n") == 1


def test_an_unreachable_store_is_code_3_and_says_who_looks_closer(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MM_METERING_LEDGER", "postgresql://127.0.0.1:1/none")
    code, _, error = program("plans", "show")
    assert (code, error.count("\n")) == (3, 1)
    assert "`mm-metering doctor` looks closer" in error


def test_the_app_is_found_in_the_project_here(program: Program, tmp_path: Path) -> None:
    assert of_project() == ""
    (tmp_path / "pyproject.toml").write_text('[tool.mm_metering]\napp = "my_app_here:metering"\n')
    (tmp_path / "my_app_here.py").write_text(APP)
    assert isinstance(needed(""), Metering)
    assert program("doctor")[0] == 0
    with pytest.raises(InvalidInput, match="name the Metering itself"):
        needed("my_app_here:other")


@pytest.mark.parametrize("text", ["[tool.mm_metering]\napp = 1\n", "[tool", "[tool]\nmm_metering = 1\n"])
def test_a_project_that_says_nonsense_is_one_line(program: Program, tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    code, _, error = program("doctor")
    assert (code, error.count("\n"), "pyproject.toml" in error) == (2, 1, True)


def test_a_shell_completes_commands_and_values(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_MM_METERING_COMPLETE", "complete_bash")
    for typed, found in (("inv", ["invoice"]), ("invoice list --status dr", ["draft"]), ("plans va", ["validate"])):
        words = f"mm-metering {typed}"
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        assert program()[1].split() == found


def test_a_shell_is_told_how_to_complete(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    code, said, _ = program("--show-completion", "bash")
    assert (code, "_MM_METERING_COMPLETE=complete_bash" in said) == (0, True)


# -- how it shows things -----------------------------------------------------------------------------------------------


def test_json_keeps_amounts_exact_and_instants_in_utc(capsys: pytest.CaptureFixture[str]) -> None:
    show.emit({"amount": Decimal("1E+2"), "state": Verdict.AHEAD, "names": {"b", "a"}, "ä": (1, None)})
    assert capsys.readouterr().out == (
        '{\n  "amount": "100",\n  "state": "ahead",\n  "names": [\n    "a",\n    "b"\n  ],\n'
        '  "ä": [\n    1,\n    null\n  ]\n}\n'
    )


class Seconds:
    """A clock that a test moves."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_long_work_says_its_rate_and_when_it_will_be_done() -> None:
    now = Seconds()
    pace = show.Pace(1_000, now_s=now)
    assert pace.words(0) == pace.words(5) == ""
    now.now_s = 9.0
    assert pace.line("closing", 90) is None
    now.now_s = 10.0
    assert pace.line("closing", 400) == "closing: 400 of 1,000, 40/s, 15 seconds left"
    assert pace.line("closing", 401) is None, "once in ten seconds"
    now.now_s = 20.0
    assert pace.line("closing", 1_000) == "closing: 1,000 of 1,000, 50/s"
    now.now_s = 400.0
    assert pace.words(40) == "0.1/s, 3 hours left"


def test_work_of_unknown_size_says_its_rate() -> None:
    now = Seconds()
    pace = show.Pace(None, now_s=now)
    now.now_s = 10.0
    assert pace.line("tenants", 35) == "tenants: 35, 3.5/s"


def test_into_a_file_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with show.bar("closing", 2) as progress:
        progress(1)
        progress(2)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("quiet", [False, True])
def test_a_terminal_sees_a_bar_unless_it_is_to_be_quiet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, quiet: bool
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    show.be_quiet(quiet)
    try:
        with show.bar("closing [b]", 2) as progress:
            progress(2)
    finally:
        show.be_quiet(False)  # noqa: FBT003
    assert ("closing [b]" in capsys.readouterr().err) != quiet
