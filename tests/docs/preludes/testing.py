from pathlib import Path

from mm_metering.backends.memory import MemoryCounters as MyCounters
from mm_metering.backends.memory_ledger import MemoryLedger as MyLedger

MyProvider = MockBillingAdapter
APP = """
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from mm_metering import from_header, metered

@metered("export", resource="report_pdf")
async def report(request):
    return JSONResponse({"id": "rep_1"}, status_code=201)

def create_app(metering):
    app = Starlette(routes=[Route("/v1/reports", report, methods=["POST"])])
    metering.install(app, tenant=from_header("x-org-id"))
    return app
"""
Path("main.py").write_text(APP)
