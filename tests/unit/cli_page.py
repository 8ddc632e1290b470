"""docs/cli.md, made of the commands' own words: ``python -m tests.unit.cli_page`` writes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from mm_metering.cli.host import PROGRAM
from mm_metering.cli.options import PREFIX
from tests.unit.command_tree import Leaf, leaves

PAGE: Final = Path(__file__).parents[2] / "docs" / "cli.md"
SHARED: Final = ("--app", "--json", "--quiet")
INTRODUCTION: Final = f"""\
# The command line

`pip install "mm-metering[server]"` brings `{PROGRAM}`. This page is made of its own words, by
`./dev run python -m tests.unit.cli_page`; `{PROGRAM} COMMAND --help` says the same.

- **Which app.** `--app main:metering`, `{PREFIX}_APP`, or `[tool.mm_metering] app = "main:metering"` in the
  pyproject.toml of the current directory; else a Metering from `{PREFIX}_COUNTERS`, `{PREFIX}_LEDGER` and the others
  that the `.env.example` of `{PROGRAM} init` names.
- **Environment.** Each option has a twin, which `--help` names: `--period` of `invoice list` is
  `{PREFIX}_INVOICE_LIST_PERIOD`.
- **`--json`.** The whole value and nothing else on stdout; amounts are exact strings, instants in UTC.
- **Long work.** On stderr: a bar with rate and time left on a terminal, a line each ten seconds elsewhere, nothing
  with `--quiet`.
- **Exit codes.** 0 done; 1 something was found or went wrong; 2 what was asked for is wrong; 3 a store cannot be
  reached; 130 interrupted. An error is one line on stderr, with the way out, and never a traceback.
- **Completion.** `{PROGRAM} --install-completion`.
"""


def page() -> str:
    return INTRODUCTION + "".join(f"\n{section}" for section in _sections())


def _sections() -> Iterator[str]:
    heading = ""
    for leaf in leaves():
        group = leaf.words[0] if len(leaf.words) > 1 else ""
        if group and group != heading:
            yield f"## {PROGRAM} {group}\n"
        heading = group
        yield _command(leaf)


def _command(leaf: Leaf) -> str:
    arguments = "".join(f" {_name(each)}" for each in leaf.arguments)
    shared = [name for name in SHARED if any(name in option.opts for option in leaf.options)]
    lines = [f"### `{PROGRAM} {' '.join(leaf.words)}{arguments}`", "", " ".join(leaf.command.help.split()), ""]
    rows = [_row(_name(each), each.help, each) for each in leaf.arguments]
    rows += [_row(_option(each), each.help, each) for each in leaf.options if not set(SHARED) & {*each.opts}]
    if rows:
        lines += ["| | |", "|---|---|", *rows, ""]
    if shared:
        lines += [f"And {', '.join(f'`{name}`' for name in shared)}.", ""]
    return "\n".join(lines)


def _row(name: str, text: str, param: Any) -> str:
    said = " ".join(text.split())
    if param.param_type_name == "option":
        said += " Needed." if param.required else _default(param.default)
    return f"| `{name}` | {said} |".replace("[list|retry]", "list or retry")


def _default(value: Any) -> str:
    return "" if value in (None, False, "", [], ()) else f" By default {value}."


def _name(param: Any) -> str:
    return str(param.metavar or param.name.upper())


def _option(param: Any) -> str:
    names = ", ".join(sorted(param.opts, key=len))
    if param.is_flag:
        return names
    choices = param.type_descriptor.choices
    return f"{names} {' or '.join(map(str, choices)) if choices else _name(param)}"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
