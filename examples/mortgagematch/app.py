"""A metered FastAPI app. Four things make it one:

1. ``Metering.from_env`` reads MM_METERING_COUNTERS and MM_METERING_LEDGER, so any number of server processes share one
   count. Without them all is in memory: ``uvicorn examples.mortgagematch.app:app`` just runs.
2. ``metering.install`` meters every route, by its template: ``/v1/scenarios/{scenario_id}/quotes/{lender}`` is one
   resource, however many scenarios there are. A request costs one api_call, or what ``[routes]`` says.
3. ``@metered`` adds what an endpoint uses besides. Request, report and burst are one decision, taken before the
   endpoint runs: all or nothing. A 5xx takes it back; a 429 or 403 never counted.
4. ``enforce_quota`` is for what only the endpoint can know: it consumes, or raises, and the middleware answers.
"""

from __future__ import annotations

import os
from typing import Annotated, Literal

from fastapi import APIRouter, FastAPI, Header, HTTPException

from examples.mortgagematch.clock import SimulatedClock
from examples.mortgagematch.plans import PLANS
from mm_metering import Metering, from_header, metered

clock_file = os.environ.get("MORTGAGEMATCH_CLOCK")  # the demo lives through several days in seconds
metering = Metering.from_env(
    catalogue=PLANS,
    clock=SimulatedClock(clock_file) if clock_file else None,
    worker="off" if os.environ.get("MORTGAGEMATCH_WORKER") else "auto",  # off where `mm-metering worker` runs
)
app = FastAPI(title="MortgageMatch")
metering.install(app, tenant=from_header("x-org-id"))

Org = Annotated[str, Header(alias="x-org-id")]
scenarios = APIRouter()


@scenarios.get("")
async def list_scenarios(org: Org) -> list[str]:
    return [f"{org}/base", f"{org}/stress"]


@scenarios.post("", status_code=201)
async def create_scenario(org: Org) -> dict[str, str]:
    return {"id": f"{org}/base", "rate": "6.125"}


@scenarios.post("/bulk", status_code=202)
async def price_many() -> dict[str, int]:
    return {"priced": 500}


@scenarios.get("/{scenario_id}/quotes/{lender}")
async def quote(scenario_id: str, lender: str) -> dict[str, str]:
    if lender == "sleepy":  # nobody pays for a lender that does not answer
        raise HTTPException(502, "the lender does not answer")
    return {"scenario": scenario_id, "lender": lender, "apr": "6.31"}


app.include_router(scenarios, prefix="/v1/scenarios")


@app.post("/v1/reports", status_code=201)
@metered("export", resource="report_pdf")
def create_report() -> dict[str, str]:
    return {"id": "rep_1", "format": "pdf"}


@app.get("/v1/export/{kind}")
@metered("export", resource="data_csv")
async def export(kind: Literal["loans", "leads"]) -> dict[str, str]:
    return {"kind": kind, "url": f"/files/{kind}.csv"}


@app.post("/v1/webhooks/test", status_code=202)
async def send_test_webhook(org: Org) -> dict[str, str]:
    """Free has no webhooks: the refusal is a 403, and the request itself is then not counted either."""
    await metering.enforce_quota(org, "webhook_deliveries", resource="wh_test")
    return {"sent": "ping"}


@app.get("/v1/invoice")
async def invoice(org: Org) -> dict[str, str]:
    preview = await metering.preview_invoice(org)
    return {"period": preview.period} | {line.description: str(line.amount) for line in preview.lines}


@app.get("/healthz")
async def healthz() -> dict[str, bool]:
    return {"ok": True}
