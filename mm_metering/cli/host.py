"""The Metering that a command works for: the app's own, or one built from the environment."""

from __future__ import annotations

import getpass
import importlib
import os
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from mm_metering.core.schema import suggestion
from mm_metering.errors import InvalidInput, MeteringError
from mm_metering.gate.acting import acting
from mm_metering.metering import Metering

PROGRAM: Final = "mm-metering"
MAX_USER: Final = 100
REASON: Final = "Why, for the audit log."


def refuse_memory(place: str, store: str) -> None:
    """InvalidInput for a store that this process cannot see into."""
    if place.startswith("memory:"):
        raise InvalidInput(
            store,
            f"{place} lives inside one process, and this command is another; name the app's {store} in "
            f"MM_METERING_{store.upper()}, or the app's Metering with --app module:name",
        )


def by_hand(reason: str = "") -> AbstractContextManager[None]:
    """What a command does is done by whoever runs it."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # of a container that has no name for it
        user = f"uid {os.getuid()}"
    return acting(f"cli:{user[:MAX_USER]}", reason=reason)


def load(target: str) -> Metering:
    """The Metering that ``module:name`` names; modules are looked for in the current directory first."""
    module_name, _, path = target.partition(":")
    if not module_name or not path:
        raise InvalidInput("app", f"{target!r} is not of the form module:name, such as main:metering")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    found = _import(module_name)
    for name in path.split("."):
        if not hasattr(found, name):
            hint = suggestion(name, [each for each in dir(found) if not each.startswith("_")])
            raise InvalidInput("app", f"{module_name} has no {name!r}{hint}")
        found = getattr(found, name)
    if not isinstance(found, Metering):
        raise InvalidInput("app", f"{target} is of {type(found)}; name the Metering itself, such as main:metering")
    return found


def _import(name: str) -> object:
    try:
        return importlib.import_module(name)
    except MeteringError:
        raise
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise InvalidInput("app", f"no module {error.name!r} in {Path.cwd()} or among the packages") from None
        raise InvalidInput("app", f"{name} needs a module that is not installed: {error.name}") from error
    except Exception as error:
        raise InvalidInput("app", f"{name} cannot be imported: {type(error).__name__}: {error}") from error
