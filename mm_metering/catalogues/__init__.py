"""Catalogues: the shipped plans, and how a plans file or a dict becomes a Catalogue.

Owns: reading files, the seed's three plans (``seed``). Does not own: what a catalogue means (``core.catalogue``) or
which version a tenant is on (the ledger). Invariant: whatever goes wrong with a source is a CatalogueError.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from mm_metering.core.catalogue import Catalogue
from mm_metering.core.catalogue_file import parse
from mm_metering.core.schema import shown
from mm_metering.errors import CatalogueError

__all__ = ["Source", "load", "seed"]

Source: TypeAlias = "Catalogue | Mapping[str, Any] | str | os.PathLike[str]"
"""A catalogue, its Python form, or the path of a file that ends in .toml."""


def load(source: Source) -> Catalogue:
    """The catalogue of a source, read and checked."""
    if isinstance(source, Catalogue):
        return source
    if isinstance(source, Mapping):
        return Catalogue.from_dict(source)
    path = _toml_path(source)
    return parse(_text_of(path), path)


def _toml_path(source: object) -> str:
    path = os.fspath(source) if isinstance(source, str | os.PathLike) else None
    if not isinstance(path, str) or not path.endswith(".toml"):
        raise CatalogueError(f"expected a Catalogue, a dict or the path of a .toml file, got {shown(source)}")
    return path


def _text_of(path: str) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise CatalogueError(
            f"no such file in {Path.cwd()}; start from mm_metering/catalogues/seed.toml", file=path
        ) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise CatalogueError("not UTF-8; save the file in UTF-8", file=path, line=line) from None
    except (OSError, ValueError) as error:
        raise CatalogueError(f"cannot be read: {error}", file=path) from error


seed: Catalogue = load(Path(__file__).with_name("seed.toml"))
"""Free, Pro and Enterprise, as the documentation's table has them."""
