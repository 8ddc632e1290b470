"""What if: other plans over months that were, and shadow plans over the running one."""

from __future__ import annotations

from mm_metering import catalogues
from mm_metering.billing.invoices import Progress
from mm_metering.core.shadow_report import ShadowReport
from mm_metering.core.simulation import Simulation
from mm_metering.core.whatif import Question
from mm_metering.errors import InvalidInput
from mm_metering.metering.house import House


class Comparing(House):
    """What other plans would have brought, or refused."""

    async def simulate(
        self,
        catalogue: catalogues.Source,
        *,
        start: str,
        end: str,
        progress: Progress = lambda _: None,
    ) -> Simulation:
        """What every tenant's calendar months from ``start`` to ``end`` ("2024-01"), both included and at most 36, came
        to under its stored plans, and would have come to under the plans of the same names in another catalogue; with
        and without the demand that was refused. Before tax and credit. Nothing of it is written.

        InvalidInput for months or a catalogue that cannot be compared, CatalogueError for one that is wrong.
        ``progress`` is told how many tenants are done.
        """
        new = catalogues.load(catalogue)
        question = Question.of(new, self.catalogue, start=start, end=end, now=self.clock.now())
        await self.flush()
        return await self._what_if.answer(question, progress)

    async def shadow_report(self, tenant: str | None = None) -> ShadowReport:
        """What the ``shadow`` plans would have decided and billed in the running day and month, each in its tenant's
        zone; of one tenant all of its limits. Nothing of it is written.

        InvalidInput where there are none, and where a tenant's version limits a meter that they do not have.
        """
        if self._shadow is None:
            raise InvalidInput("shadow", 'is not set: Metering(..., shadow="plans-next.toml") or MM_METERING_SHADOW')
        await (self.flush() if tenant is None else self._flush_of(tenant))
        await self.gate.report()
        return await self._shadow.report(tenant, now=self.clock.now(), progress=lambda _: None)
