"""A metered FastAPI app. Six things make it one:

1. ``Metering.from_env`` reads MM_METERING_COUNTERS and MM_METERING_LEDGER, so any number of server processes share one
   count. Without them all is in memory: ``uvicorn examples.mortgagematch.app:app`` just runs.
2. ``metering.install`` meters every route, by its template: ``/v1/scenarios/{scenario_id}/quotes/{lender}`` is one
   resource, however many scenarios there are. A request costs one api_call, or what ``[routes]`` says.
3. ``@metered`` adds what an endpoint uses besides. Request, report and burst are one decision, taken before the
   endpoint runs: all or nothing. A 5xx takes it back; a 429 or 403 never counted.
4. What raises a refusal in an endpoint (``create_endpoint`` on Free, which has no webhooks) is answered by the
   middleware: a 403, and the request itself is then not counted either.
5. ``assistant.py`` asks a model under ``@ai_call``: held before, charged after, within the plan's budget.
6. Tenants hear of what happens by webhooks of theirs; ``/usage`` is each tenant's own page, ``/metering`` the house's.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, FastAPI, Header, HTTPException, Request
from fastapi.responses import JSONResponse, RedirectResponse
from starlette.types import Scope

from examples.mortgagematch.assistant import Assistant, assistant
from examples.mortgagematch.clock import SimulatedClock
from examples.mortgagematch.plans import PLANS
from mm_metering import Metering, UrlRefused, first_of, from_header, metered
from mm_metering.webhooks.guard import Rules

LOCAL: Final = ("memory:", "local:", "sqlite:")
clock_file = os.environ.get("MORTGAGEMATCH_CLOCK")  # the demo lives through several days in seconds
hooks_port = os.environ.get("MORTGAGEMATCH_HOOKS")  # and has its customers' webhooks on this machine
metering = Metering.from_env(
    catalogue=PLANS,
    clock=SimulatedClock(clock_file) if clock_file else None,
    worker="off" if os.environ.get("MORTGAGEMATCH_WORKER") else "auto",  # off where `mm-metering worker` runs
    webhook_rules=Rules(allow_http=True, ports=(int(hooks_port),), allow_networks=("127.0.0.0/8",))
    if hooks_port
    else None,
)
metering.webhooks.add_event_type("report.finished", "A report can be fetched.", {"report": {"type": "string"}})


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with assistant() as app.state.assistant:
        yield


app = FastAPI(title="MortgageMatch", lifespan=lifespan)
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


@scenarios.post("/{scenario_id}/explanation")
async def explain(scenario_id: str, request: Request) -> dict[str, Any]:
    model: Assistant = request.app.state.assistant
    reply = await model.explain("first-bank")
    return {"scenario": scenario_id, "text": reply["choices"][0]["message"]["content"], "model": reply["model"]}


app.include_router(scenarios, prefix="/v1/scenarios")


@app.post("/v1/reports", status_code=201)
@metered("export", resource="report_pdf")
def create_report() -> dict[str, str]:
    return {"id": "rep_1", "format": "pdf"}


@app.get("/v1/export/{kind}")
@metered("export", resource="data_csv")
async def export(kind: Literal["loans", "leads"]) -> dict[str, str]:
    return {"kind": kind, "url": f"/files/{kind}.csv"}


@app.exception_handler(UrlRefused)
async def not_such_a_url(_: Request, error: UrlRefused) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 422)


@app.post("/v1/webhooks", status_code=201)
async def create_webhook(org: Org, url: str) -> dict[str, str | None]:
    """The secret is shown this once."""
    endpoint = await metering.webhooks.create_endpoint(org, url, events=["report.finished", "quota.exceeded"])
    return {"id": endpoint.id, "secret": endpoint.secret}


@app.post("/v1/webhooks/test", status_code=202)
async def send_test_webhook(org: Org) -> dict[str, str]:
    """Counts as a delivery once the tenant's endpoint has taken it."""
    event = await metering.webhooks.send_event(org, "report.finished", {"report": "rep_1"})
    return {"sent": event.id}


@app.get("/v1/invoice")
async def invoice(org: Org) -> dict[str, str]:
    preview = await metering.preview_invoice(org)
    return {"period": preview.period} | {line.description: str(line.amount) for line in preview.lines}


@app.get("/healthz")
async def healthz() -> dict[str, bool]:
    return {"ok": True}


# -- pages ------------------------------------------------------------------------------------------------------------


def org_of_browser(scope: Scope) -> str | None:
    return Request(scope).cookies.get("org")


@app.get("/as/{org}", include_in_schema=False)
async def look_as(org: str) -> RedirectResponse:
    """In place of a login, for whoever tries this out: examples/starlette_dashboard has one."""
    answer = RedirectResponse("../usage/", 303)
    answer.set_cookie("org", org, httponly=True, samesite="lax")
    return answer


if all(place.startswith(LOCAL) for place in metering.places):  # elsewhere pages need to know who looks
    app.mount("/usage", metering.portal(tenant=first_of(from_header("x-org-id"), org_of_browser)))
    app.mount("/metering", metering.dashboard())
