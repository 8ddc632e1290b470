"""What an invoice is a pure function of, kept with it, so that it can be made again, byte for byte, at any time."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final, TypeVar

from mm_metering.core.catalogue import Plan, Proration
from mm_metering.core.cells import Cell, CellKey, CellSum, Segment
from mm_metering.core.invoices import Adjustment, CreditGrant, Discount, Invoice, InvoiceLine, Tax, Value
from mm_metering.core.invoicing import draft
from mm_metering.core.rating import Levels, Terms
from mm_metering.core.tenancy import TenantRow

V = TypeVar("V", bound=Value)

FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Inputs:
    """The arguments of ``draft``. ``taxes`` None: the tenant's own rate. Plans are named by the tenant's timeline."""

    tenant: TenantRow
    proration: Proration
    period: str
    currency: str
    issue: int
    cells: Sequence[Cell]
    late: Sequence[InvoiceLine] = ()
    adjustments: Sequence[Adjustment] = ()
    discounts: Sequence[Discount] = ()
    grants: Sequence[CreditGrant] = ()
    taxes: Sequence[Tax] | None = None
    levels_before: Levels = field(default_factory=dict)

    def draft(self, plans: Mapping[tuple[str, int], Plan]) -> Invoice:
        return draft(
            Terms(self.tenant, plans, self.proration),
            self.period,
            self.cells,
            currency=self.currency,
            late=self.late,
            issue=self.issue,
            adjustments=self.adjustments,
            discounts=self.discounts,
            grants=self.grants,
            taxes=self.taxes,
            levels_before=self.levels_before,
        )

    def pack(self) -> bytes:
        """As compressed JSON."""
        tenant = {name: getattr(self.tenant, name) for name in TenantRow.__slots__}
        form = {
            "format": FORMAT,
            "tenant": tenant,
            "proration": self.proration,
            "period": self.period,
            "currency": self.currency,
            "issue": self.issue,
            "cells": [_cell_form(cell) for cell in sorted(self.cells, key=lambda cell: cell.key)],
            "late": _dump(self.late),
            "adjustments": _dump(self.adjustments),
            "discounts": _dump(self.discounts),
            "grants": _dump(self.grants),
            "taxes": None if self.taxes is None else _dump(self.taxes),
            "levels_before": [[*level, value] for level, value in sorted(self.levels_before.items())],
        }
        return zlib.compress(json.dumps(form, separators=(",", ":")).encode())

    @classmethod
    def unpack(cls, packed: bytes) -> Inputs:
        form = json.loads(zlib.decompress(packed))
        tenant = form["tenant"] | {"segments": tuple(Segment(*each) for each in form["tenant"]["segments"])}
        row = TenantRow(**{name: value for name, value in tenant.items() if name in TenantRow.__slots__})
        return cls(
            tenant=row,
            proration=form.get("proration", "second"),
            period=form["period"],
            currency=form["currency"],
            issue=form["issue"],
            cells=[_cell_of(row.id, each) for each in form["cells"]],
            late=_load(InvoiceLine, form["late"]),
            adjustments=_load(Adjustment, form["adjustments"]),
            discounts=_load(Discount, form["discounts"]),
            grants=_load(CreditGrant, form["grants"]),
            taxes=None if form["taxes"] is None else _load(Tax, form["taxes"]),
            levels_before={(meter, resource): value for meter, resource, value in form["levels_before"]},
        )


def _cell_form(cell: Cell) -> list[Any]:
    key, total = cell.key, cell.total
    return [str(key.day), key.since_us, key.meter, key.resource, total.quantity, total.weighted, total.count]


def _cell_of(tenant: str, form: Sequence[Any]) -> Cell:
    day, since_us, meter, resource, quantity, weighted, count = form
    key = CellKey(tenant, date.fromisoformat(day), since_us, meter, resource, "")
    return Cell(key, CellSum(quantity, weighted=weighted, count=count), 0)


def _dump(values: Sequence[Value]) -> list[Any]:
    return [each.model_dump(mode="json") for each in values]


def _load(kind: type[V], forms: Sequence[Any]) -> list[V]:
    return [kind.model_validate_json(json.dumps(form)) for form in forms]
