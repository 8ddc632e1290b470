"""Every command of the command line, as typer has them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

from mm_metering.cli import tree
from mm_metering.cli.host import PROGRAM


class Leaf(NamedTuple):
    """A command that does something; ``words`` are what somebody types."""

    words: tuple[str, ...]
    command: Any

    @property
    def options(self) -> list[Any]:
        return [each for each in self.command.params if each.param_type_name == "option"]

    @property
    def arguments(self) -> list[Any]:
        return [each for each in self.command.params if each.param_type_name == "argument"]

    def context(self, *args: str) -> Any:
        """As it is when somebody has typed this."""
        parent: Any = program().context_class(program(), info_name=PROGRAM)
        for word in self.words[:-1]:
            parent = program().context_class(parent.command.commands[word], info_name=word, parent=parent)
        return self.command.make_context(self.words[-1], [*args], parent=parent)


@cache
def program() -> Any:
    return tree.program()


def leaves() -> Iterator[Leaf]:
    yield from _below((), program())


def _below(words: tuple[str, ...], command: Any) -> Iterator[Leaf]:
    if not hasattr(command, "commands"):
        yield Leaf(words, command)
        return
    for name, each in command.commands.items():
        yield from _below((*words, name), each)
