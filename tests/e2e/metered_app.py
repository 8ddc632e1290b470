"""A route per meter, each counted by its own outage policy; the processes of test_outage.py and others serve it."""

from __future__ import annotations

from fastapi import FastAPI

from mm_metering import Metering, from_header
from tests.e2e.callers import PLANS

metering = Metering.from_env(catalogue=PLANS)
app = FastAPI()
metering.install(app, tenant=from_header("x-org-id"), exempt=["/free"])


@app.get("/soft")
@app.get("/strict")
@app.get("/burst")
@app.get("/free")
async def answered() -> dict[str, bool]:
    return {"ok": True}
