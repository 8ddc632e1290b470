from openai import AsyncOpenAI

from mm_metering.testing.fake_llm import FakeLlm

fake = stack.enter_context(FakeLlm())
os.environ |= {"OPENAI_API_KEY": fake.api_key, "OPENAI_BASE_URL": f"{fake.url}/v1"}
PUBLIC_KEY = "a secret of thirty-two characters or more"
find_owner = {"key-1": "acme"}.get
StripeBillingAdapter = lambda **_: MockBillingAdapter()
summary = lambda rows: rows[:1]
messages = [{"role": "user", "content": "Hello"}]
Row = dict
await metering.put_tenant("acme", plan="pro")
stack.enter_context(metering.bind("acme"))

from pathlib import Path

CONFTEST = """
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from mm_metering import from_header, metered

@metered("export", resource="report_pdf")
async def report(request):
    return JSONResponse({"id": "rep_1"}, status_code=201)

@pytest.fixture
def metering_app(metering):
    app = Starlette(routes=[Route("/v1/reports", report, methods=["POST"])])
    metering.install(app, tenant=from_header("x-org-id"))
    return app
"""
Path("conftest.py").write_text(CONFTEST)
