"""The Metering that a command works for: the app's own, or one built from the environment."""

from __future__ import annotations

import asyncio
import getpass
import importlib
import os
import sys
import tomllib
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, TypeVar

from mm_metering import catalogues
from mm_metering.core.schema import suggestion
from mm_metering.errors import InvalidInput, MeteringError, NotApplied
from mm_metering.gate.acting import acting
from mm_metering.metering import Metering

T = TypeVar("T")
Work = Callable[[Metering], Awaitable[T]]

PROGRAM: Final = "mm-metering"
PROJECT: Final = "pyproject.toml"
MAX_USER: Final = 100
KEPT: Final = {"counters": "local://usage", "ledger": "sqlite:///usage.db"}
"""A store that several processes of a developer's machine see into."""
LEDGER_ALONE: Final[dict[str, object]] = {"catalogue": catalogues.seed, "counters": "memory://", "journal": "off"}
"""What is built where the ledger is all that is needed."""


def by_hand(reason: str = "") -> AbstractContextManager[None]:
    """What a command does is done by whoever runs it."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # of a container that has no name for it
        user = f"uid {os.getuid()}"
    return acting(f"cli:{user[:MAX_USER]}", reason=reason)


# -- which one ---------------------------------------------------------------------------------------------------------


def metering_of(app: str, **options: Any) -> Metering:
    """The app's: of ``--app``, or of pyproject.toml in the current directory; else one from MM_METERING_*, where
    ``options`` win."""
    named = app or of_project()
    return load(named) if named else Metering.from_env(**options)


def needed(app: str) -> Metering:
    """The same where the app itself is needed; InvalidInput with what to do next where none is named."""
    if named := app or of_project():
        return load(named)
    raise InvalidInput(
        "app",
        f'is not named: give --app module:name, set MM_METERING_APP, or write app = "module:name" under '
        f"[tool.mm_metering] in {PROJECT}. Where there is none yet, `{PROGRAM} init` writes one",
    )


def of_project() -> str:
    """``[tool.mm_metering] app`` of the project in the current directory; "" if it says nothing."""
    try:
        project = tomllib.loads(Path(PROJECT).read_text("utf-8"))
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise InvalidInput("app", f"{PROJECT} cannot be read: {error}; give --app module:name") from error
    section = project.get("tool", {}).get("mm_metering", {})
    app = section.get("app", "") if isinstance(section, dict) else None
    if not isinstance(app, str):
        raise InvalidInput("app", f'{PROJECT}: [tool.mm_metering] app is a text such as "main:metering"')
    return app


def load(target: str) -> Metering:
    """The Metering that ``module:name`` names; modules are looked for in the current directory first."""
    found = found_at(target)
    if not isinstance(found, Metering):
        raise InvalidInput("app", f"{target} is of {type(found)}; name the Metering itself, such as main:metering")
    return found


def found_at(target: str) -> object:
    """What ``module:name`` names."""
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
    return found


def _import(name: str) -> object:
    try:
        return importlib.import_module(name)
    except MeteringError:
        raise
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise InvalidInput(
                "app",
                f"no module {error.name!r} in {Path.cwd()} or among the packages; run this where it is, or "
                f"`{PROGRAM} init` to begin one",
            ) from None
        raise InvalidInput("app", f"{name} needs a module that is not installed: {error.name}") from error
    except Exception as error:
        raise InvalidInput("app", f"{name} cannot be imported: {type(error).__name__}: {error}") from error


# -- opening it --------------------------------------------------------------------------------------------------------


def refuse_memory(place: str, store: str, app: str = "") -> None:
    """InvalidInput for a store that this process cannot see into: that of ``metering_of(app)``."""
    if not place.startswith("memory:"):
        return
    if named := app or of_project():
        way = f'than that of {named}; give it {store}="{KEPT[store]}" or the like, or look at its dashboard'
        raise InvalidInput(store, f"{place} lives inside one process, and this command is another {way}")
    raise InvalidInput(
        store,
        f"{place} lives inside one process, and this command is another; name the app's {store} in "
        f"MM_METERING_{store.upper()}, or the app's Metering with --app module:name. Where there is none yet, "
        f"`{PROGRAM} init` writes one, and `{PROGRAM} demo` shows one",
    )


def refuse_memories(metering: Metering, app: str = "") -> None:
    """The same of both stores."""
    for place, store in zip(metering.places, ("counters", "ledger"), strict=True):
        refuse_memory(place, store, app)


def run(app: str, work: Work[T], *, counts: bool = False, reason: str = "") -> T:
    """What ``work`` returns, on the app's Metering or one from the environment, which applies no plans of its own.
    ``counts``: usage that is not folded yet must be seen, so the app's counters are needed. ``reason``: why, for the
    audit log."""
    own = app or of_project()
    metering = metering_of(own, apply="never")
    refuse_memory(metering.places[1], "ledger", app)
    if counts:
        refuse_memory(metering.places[0], "counters", app)
    with by_hand(reason):
        return asyncio.run(_started(metering, work, own=bool(own)))


async def _started(metering: Metering, work: Work[T], *, own: bool) -> T:
    try:
        await _start(metering, own=own)
    except MeteringError:
        await metering.aclose()
        raise
    try:
        return await work(metering)
    finally:
        await metering.shutdown()


async def _start(metering: Metering, *, own: bool) -> None:
    if own:
        await metering.startup()
        return
    await metering.ledger.setup(apply=False)
    try:
        await metering.startup()
    except NotApplied as error:
        named = os.environ.get("MM_METERING_CATALOGUE", "the shipped plans")
        raise InvalidInput(
            "catalogue",
            f"{named} differs from the plans in this ledger; name the app's in MM_METERING_CATALOGUE, or the app's "
            "Metering with --app module:name",
        ) from error


def on_ledger(app: str, work: Work[T], *, applies: bool = False, reason: str = "") -> T:
    """What ``work`` returns, on the ledger of the app's Metering or of the environment, whatever else is broken:
    counters and the app's own plans are left alone. ``applies``: its schema may be made ready where that needs no
    asking."""
    metering = metering_of(app, **LEDGER_ALONE)
    refuse_memory(metering.places[1], "ledger", app)
    with by_hand(reason):
        return asyncio.run(_set_up(metering, work, applies=applies))


async def _set_up(metering: Metering, work: Work[T], *, applies: bool) -> T:
    try:
        await metering.ledger.setup(apply=applies and await metering.ledger.may_apply())
        return await work(metering)
    finally:
        await metering.aclose()


async def closing(metering: Metering, work: Work[T]) -> T:
    """What ``work`` returns, which opens what it needs."""
    try:
        return await work(metering)
    finally:
        await metering.aclose()
