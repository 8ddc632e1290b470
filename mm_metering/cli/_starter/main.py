"""A metered app: `mm-metering dev` runs it with a test clock and fakes, `uvicorn main:app` as it is."""

from fastapi import FastAPI

from mm_metering import Metering, from_header, metered

metering = Metering.from_env(catalogue="plans.toml")  # stores of MM_METERING_*, see .env.example; in memory without
app = FastAPI()
metering.install(app, tenant=from_header("x-org-id"))  # innermost middleware, and the lifespan


@app.get("/v1/scenarios")  # one api_call, counted per route template
async def scenarios() -> list[str]:
    return ["base", "stress"]


@app.post("/v1/reports")
@metered("export", resource="report_pdf")  # and one report, in the same decision
async def report() -> dict[str, str]:
    return {"id": "rep_1"}


@app.get("/healthz")  # not metered: plans.toml exempts it
async def healthz() -> str:
    return "ok"
