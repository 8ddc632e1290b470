"""Catalogues: the shipped plans, and how a plans file or a dict becomes a Catalogue.

Owns: reading files, the seed's three plans (``seed``), a file to begin with (``write_starter``). Does not own: what a
catalogue means (``core.catalogue``) or which version a tenant is on (the ledger). Invariant: whatever goes wrong with a
source is a CatalogueError.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

from mm_metering.core.catalogue import Catalogue
from mm_metering.core.catalogue_file import parse
from mm_metering.core.schema import shown
from mm_metering.errors import CatalogueError

__all__ = ["Source", "load", "named", "seed", "text_of", "write_starter"]

SHIPPED: Final = ("seed", "starter")
"""The catalogues of this package."""
Source: TypeAlias = "Catalogue | Mapping[str, Any] | str | os.PathLike[str]"
"""A catalogue, its Python form, or the path of a file that ends in .toml."""


def load(source: Source) -> Catalogue:
    """The catalogue of a source, read and checked."""
    if isinstance(source, Catalogue):
        return source
    if isinstance(source, Mapping):
        return Catalogue.from_dict(source)
    path = _toml_path(source)
    return parse(text_of(path), path)


def named(name: str) -> Catalogue:
    """One of SHIPPED, or the catalogue of a file."""
    return load(Path(__file__).with_name(f"{name}.toml")) if name in SHIPPED else load(name)


def write_starter(file: str) -> None:
    """Writes a short plans file with comments. CatalogueError if there is one already, or none can be written there."""
    path, text = Path(_toml_path(file)), _STARTER.read_text("utf-8")
    try:
        with path.open("x", encoding="utf-8") as new:
            new.write(text)
    except FileExistsError:
        raise CatalogueError("is there already, and stays as it is; name another file", file=file) from None
    except (OSError, ValueError) as error:
        raise CatalogueError(f"cannot be written: {error}", file=file) from error


def _toml_path(source: object) -> str:
    path = os.fspath(source) if isinstance(source, str | os.PathLike) else None
    if not isinstance(path, str) or not path.endswith(".toml"):
        raise CatalogueError(f"expected a Catalogue, a dict or the path of a .toml file, got {shown(source)}")
    return path


def text_of(path: str) -> str:
    """The text of a file in UTF-8; CatalogueError if there is none."""
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise CatalogueError(
            f"no such file in {Path.cwd()}; `mm-metering plans init {path}` writes one to begin with", file=path
        ) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise CatalogueError("not UTF-8; save the file in UTF-8", file=path, line=line) from None
    except (OSError, ValueError) as error:
        raise CatalogueError(f"cannot be read: {error}", file=path) from error


_STARTER = Path(__file__).with_name("starter.toml")
seed: Catalogue = named("seed")
"""Free, Pro and Enterprise, as the documentation's table has them."""
