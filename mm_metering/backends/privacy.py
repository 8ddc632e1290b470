"""What the ledger keeps sealed, and how it forgets a tenant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from mm_metering.core.audit import AuditEntry
from mm_metering.core.deliveries import EndpointRow
from mm_metering.core.tenancy import TenantRow
from mm_metering.vault import Place

SEALED: Final = "mm1:"
"""What a text begins with that is sealed with its tenant's own key."""


class KeyRow(NamedTuple):
    """A tenant's own key, sealed by the vault."""

    tenant: str
    sealed: str


class Forgotten(NamedTuple):
    """The tenant as it stands then, and what went: so many facts lost their metadata, and so many endpoints,
    deliveries, notices and event ids were deleted."""

    tenant: TenantRow
    facts: int
    endpoints: int
    deliveries: int
    notices: int
    event_ids: int


def secret_place(endpoint_id: str) -> Place:
    return Place("mm_webhook_endpoint", "secret", endpoint_id)


def key_place(tenant: str) -> Place:
    return Place("mm_tenant_key", "key", tenant)


class Privacy(Protocol):
    """A part of the ``Ledger`` law. Each method is one transaction."""

    async def tenant_key(self, tenant: str) -> str | None:
        """Its key, sealed."""
        ...

    async def put_tenant_key(self, new: KeyRow, *, instead_of: str | None) -> bool:
        """Stores it if the one that stands is ``instead_of`` (None: if there is none). False, and nothing is changed,
        otherwise, and for a tenant that was forgotten."""
        ...

    async def tenant_keys(self, *, after: str = "", limit: int = 1000) -> list[KeyRow]:
        """A page of them, by tenant."""
        ...

    async def every_endpoint(self, *, after: str = "", limit: int = 1000) -> list[EndpointRow]:
        """A page of all tenants' endpoints, by id."""
        ...

    async def forget_tenant(
        self, tenant: str, *, now_us: int, shard: int, audit: Sequence[AuditEntry] = ()
    ) -> Forgotten:
        """Cancels its subscription for good (``tenancy.forgotten``) and destroys what may be personal: its key, the
        metadata of its facts that is not sealed with that, its endpoints, their deliveries, what its outbox holds, its
        callers' event ids, its mutes, and the alerts of these. It writes one notice of the cancellation. A payer stays
        while an invoice is on its way to be paid.

        Facts without their metadata are other facts: cells, the digest of its ``shard`` and what was acknowledged there
        are changed alike, so that a proof holds. UnknownTenant if there is none. Again, it destroys what came since.
        """
        ...
