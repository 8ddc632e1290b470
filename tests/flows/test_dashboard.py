"""The dashboard and the portal as HTTP: who may look, what may be done and by whom, and what every answer carries."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.routing import Mount

from mm_metering import Metering, UsageEvent, from_header
from mm_metering.dashboard.access import Visitor
from mm_metering.dashboard.app import MENU, OWN_MENU
from mm_metering.dashboard.render import STATIC
from mm_metering.errors import InvalidInput
from tests.flows.conftest import Make

HERE = ("127.0.0.1", 4711)
ELSEWHERE = ("192.0.2.7", 4711)
LOCAL = "http://127.0.0.1:8000"
PAGES = [path for each in MENU for path in (each.path, *each.also)]
ACTIONS = {path: role for each in MENU for path, (role, _) in each.actions.items()}
OWN_ACTIONS = [path for each in OWN_MENU for path in each.actions]
HOSTILE = "<script>alert('x')</script>"


def client(app: Any, at: tuple[str, int] = HERE, base: str = LOCAL) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app, client=at), base_url=base)


async def answer(app: Any, path: str, **options: Any) -> httpx2.Response:
    async with client(app, options.pop("at", HERE), options.pop("base", LOCAL)) as asked:
        return await asked.request(options.pop("method", "GET"), f"/{path}", **options)


# -- who may look -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "base", "headers"),
    [
        (ELSEWHERE, LOCAL, {}),
        (HERE, "http://rebound.example", {}),
        (HERE, LOCAL, {"x-forwarded-for": "192.0.2.7"}),
        (HERE, LOCAL, {"forwarded": "for=192.0.2.7"}),
        (HERE, LOCAL, {"via": "1.1 proxy"}),
    ],
)
async def test_without_auth_only_this_machine_looks(
    memory: Metering, at: tuple[str, int], base: str, headers: dict[str, str]
) -> None:
    app = memory.dashboard()
    assert (await answer(app, "")).status_code == 200
    assert (await answer(app, "", base="http://localhost:1")).status_code == 200
    refused = await answer(app, "", at=at, base=base, headers=headers)
    assert refused.status_code == 403
    assert "Without auth= only this machine" in refused.text


def test_without_auth_there_is_no_dashboard_of_stores_that_others_use() -> None:
    metering = Metering(counters="redis://redis.example:6379/0")
    with pytest.raises(InvalidInput, match=r"auth: is needed: redis://redis\.example:6379/0 may be in use by others"):
        metering.dashboard()
    metering.dashboard(auth=lambda _: None)


async def test_auth_says_who_visits_and_as_what(memory: Metering) -> None:
    def auth(request: Request) -> Any:
        match request.headers.get("x-who"):
            case "gone":
                return RedirectResponse("/login", 303)
            case "refused":
                raise HTTPException(401, "say who you are", {"WWW-Authenticate": "Basic"})
            case "wrong":
                return "emperor"
            case "both":
                return ("finance", "operator")
            case who:
                return who

    app = memory.dashboard(auth=auth)
    asked = {who: await answer(app, "", at=ELSEWHERE, headers={"x-who": who}) for who in ("viewer", "both", "gone")}
    assert [each.status_code for each in asked.values()] == [200, 200, 303]
    assert asked["gone"].headers["location"] == "/login"
    assert (await answer(app, "")).status_code == 403
    refused = await answer(app, "", headers={"x-who": "refused"})
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Basic")
    assert "say who you are" in refused.text
    wrong = await answer(app, "", headers={"x-who": "wrong"})
    assert wrong.status_code == 400
    assert "a role is one of viewer, finance, operator" in wrong.text


async def test_auth_may_be_async(memory: Metering) -> None:
    async def auth(request: Request) -> Visitor | None:
        return Visitor("u_7") if "x-known" in request.headers else None

    app = memory.dashboard(auth=auth)
    assert (await answer(app, "", headers={"x-known": "1"})).status_code == 200
    assert (await answer(app, "")).status_code == 403


# -- what may be done -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ACTIONS)
async def test_a_viewer_does_nothing_and_a_page_of_elsewhere_neither(memory: Metering, path: str) -> None:
    await memory.put_tenant("acme", plan="free")
    before = await memory.list_audit()
    viewer, everything = memory.dashboard(auth=lambda _: "viewer"), memory.dashboard()
    given = {"tenant": "acme", "plan": "pro", "step": "cancel", "reason": "no"}
    refused = await answer(viewer, path, method="POST", data=given)
    assert refused.status_code == 403
    assert f"takes the role {ACTIONS[path]}" in refused.text
    for headers in (
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
    ):
        forged = await answer(everything, path, method="POST", data=given, headers=headers)
        assert forged.status_code == 403, headers
        assert "sent by a page of elsewhere" in forged.text
    assert await memory.list_audit() == before
    assert (await answer(everything, path)).status_code == 404, "a GET changes nothing"


async def test_what_is_done_stands_in_the_audit_log_with_who_and_why(memory: Metering) -> None:
    await memory.put_tenant("acme", plan="free")
    app = memory.dashboard(auth=lambda _: Visitor("u_7", frozenset({"operator"})))  # type: ignore[arg-type]
    given = {"tenant": "acme", "plan": "pro", "reason": "ticket 4711"}
    async with client(app) as asked:
        done = await asked.post("/change-plan", data=given, headers={"sec-fetch-site": "same-origin"})
        assert (done.status_code, done.headers["location"]) == (303, "tenant?id=acme")
        first, second = await asked.get("/tenant?id=acme"), await asked.get("/tenant?id=acme")
    assert "acme is on pro" in first.text
    assert "acme is on pro" not in second.text, "it is said once"
    entry = (await memory.list_audit(tenant="acme"))[0]
    assert (entry.actor, entry.reason) == ("dashboard:u_7", "ticket 4711")
    tenant = await memory.get_tenant("acme")
    assert tenant is not None
    assert tenant.plan == "pro"


@pytest.mark.parametrize(
    ("path", "given", "status", "said"),
    [
        ("change-plan", {"tenant": "acme", "plan": "gold"}, 400, "gold"),
        ("change-plan", {"plan": "pro"}, 400, "tenant: is empty"),
        ("step", {"tenant": "acme", "step": "explode"}, 400, "none of pause, resume, cancel"),
        ("step", {"tenant": "nobody", "step": "pause"}, 404, "nobody"),
        ("mute", {"rule": "quota", "hours": "-1"}, 400, "is no whole number"),
        ("resend", {"delivery": "dl_1"}, 404, "there is no delivery"),
        ("nothing", {}, 404, "Nothing can be done"),
    ],
)
async def test_bad_input_gets_a_clear_page_and_changes_nothing(
    memory: Metering, path: str, given: dict[str, str], status: int, said: str
) -> None:
    await memory.put_tenant("acme", plan="free")
    before = await memory.list_audit()
    found = await answer(memory.dashboard(), path, method="POST", data=given)
    assert found.status_code == status
    assert said in found.text
    assert await memory.list_audit() == before


async def test_a_form_that_is_too_large_is_not_read(memory: Metering) -> None:
    sent = {"tenant": "acme", "reason": "x" * 70_000}
    found = await answer(memory.dashboard(), "change-plan", method="POST", data=sent)
    assert found.status_code == 400
    assert "has more than 65,536 bytes" in found.text


# -- what every answer carries ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*PAGES, "nothing", "static/app.css"])
async def test_every_answer_is_strict_and_no_page_is_kept(memory: Metering, path: str) -> None:
    found = await answer(memory.dashboard(), path)
    policy = found.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert found.headers["x-content-type-options"] == "nosniff"
    if path.startswith("static/"):
        assert "immutable" in found.headers["cache-control"]
    else:
        assert found.headers["cache-control"] == "no-store"
        assert "style=" not in found.text
        assert " onclick" not in found.text
        assert "https://" not in found.text.replace("https://example.com", ""), "nothing is loaded from elsewhere"


async def test_a_host_that_meters_does_not_meter_the_pages(memory: Metering) -> None:
    app = Starlette(
        routes=[Mount("/metering", memory.dashboard()), Mount("/usage", memory.portal(from_header("x-org")))]
    )
    memory.install(app, tenant=from_header("x-org"))
    async with client(app) as asked:
        for _ in range(3):
            assert (await asked.get("/metering/")).status_code == 200
            assert (await asked.get("/usage/", headers={"x-org": "acme"})).status_code in (200, 404)
    await memory.flush()
    assert (await memory.get_usage("acme", "2024-01-15", "2024-01-15")).api_calls == 0


async def test_our_own_endpoints_have_one_guard(make: Make) -> None:
    from mm_metering import EndpointRules

    metering = await make(endpoint_rules=EndpointRules(per_minute=2))
    app = metering.dashboard()
    assert [(await answer(app, "")).status_code for _ in range(3)] == [200, 200, 429]


# -- texts of others --------------------------------------------------------------------------------------------------


async def test_hostile_texts_are_texts(memory: Metering) -> None:
    await memory.put_tenant(HOSTILE, plan="free")
    await memory.record(UsageEvent(tenant=HOSTILE, event_type="api_call", resource=HOSTILE))
    await memory.flush()
    app = memory.dashboard()
    for path in ("tenants", "events", f"tenant?id={HOSTILE}", f"tenants?q={HOSTILE}", f"nothing{HOSTILE}"):
        found = await answer(app, path)
        assert "<script>alert" not in found.text, path
        assert "&lt;script&gt;alert" in found.text, path


@pytest.mark.parametrize("name", ["=SUM(A1)", "+1", "-1", "@cmd"])
async def test_a_spreadsheet_takes_no_text_for_a_formula(memory: Metering, name: str) -> None:
    await memory.put_tenant(name, plan="free")
    found = await answer(memory.dashboard(), "tenants?csv=tenants")
    header, row = csv.reader(io.StringIO(found.text))
    assert header[0] == "tenant"
    assert row[0] == f"'{name}"


@pytest.mark.parametrize(
    "query", ["before=x", "before=1.%00", "skip=-1", "skip=99999999999999999", "order=drop", "csv=no"]
)
@pytest.mark.parametrize("path", PAGES)
async def test_a_query_of_nonsense_is_no_error_of_ours(memory: Metering, path: str, query: str) -> None:
    found = await answer(memory.dashboard(), f"{path}?{query}&id=x&tenant=x")
    assert found.status_code in (200, 400, 404)


# -- the portal -------------------------------------------------------------------------------------------------------


@pytest.fixture
def whose() -> Callable[[str], dict[str, str]]:
    return lambda tenant: {"x-org": tenant}


async def test_a_portal_shows_a_tenant_itself_and_nothing_else(
    memory: Metering, whose: Callable[[str], dict[str, str]]
) -> None:
    for tenant, calls in (("acme", 7), ("globex", 13)):
        await memory.put_tenant(tenant, plan="pro")
        await memory.record(UsageEvent(tenant=tenant, event_type="api_call", resource="/v1", quantity=calls))
        await memory.webhooks.create_endpoint(tenant, f"https://{tenant}.example.com/hook")
    await memory.flush()
    app = memory.portal(tenant=from_header("x-org"))
    own = (await answer(app, "usage.json", headers=whose("acme"))).json()
    assert (own["tenant"], own["plan"], own["status"]) == ("acme", "pro", "active")
    (calls_limit,) = [each for each in own["limits"] if each["meter"] == "api_calls"]
    assert (calls_limit["used"], calls_limit["limit"], calls_limit["then"]) == (7, 10_000, "charge")
    for path in ("", "webhooks", "webhooks.json", "webhooks?tenant=globex", "usage.json?id=globex&tenant=globex"):
        assert "globex" not in (await answer(app, path, headers=whose("acme"))).text.replace(path, "").replace(
            "tenant=globex", ""
        ), path
    for path in ("tenants", "events", "alerts", "system", "log"):
        assert (await answer(app, path, headers=whose("acme"))).status_code == 404, "the house's pages are not here"
    nobody = await answer(app, "usage.json")
    assert (nobody.status_code, nobody.headers["content-type"]) == (403, "application/problem+json")


async def test_a_portals_tenant_makes_an_endpoint_and_sees_its_secret_once(
    memory: Metering, whose: Callable[[str], dict[str, str]]
) -> None:
    await memory.put_tenant("acme", plan="pro")
    app = memory.portal(tenant=from_header("x-org"))
    made = await answer(
        app, "create-endpoint", method="POST", data={"url": "https://acme.example.com/hook"}, headers=whose("acme")
    )
    assert made.status_code == 200
    assert "whsec_" in made.text
    (endpoint,) = await memory.webhooks.list_endpoints("acme")
    entry = (await memory.list_audit(tenant="acme"))[0]
    assert (entry.actor, entry.subject) == ("portal:tenant", endpoint.id)
    assert "whsec_" not in (await answer(app, "webhooks", headers=whose("acme"))).text


@pytest.mark.parametrize("path", OWN_ACTIONS)
async def test_a_portal_to_read_changes_nothing_and_anothers_things_are_not_found(
    memory: Metering, whose: Callable[[str], dict[str, str]], path: str
) -> None:
    for tenant in ("acme", "globex"):
        await memory.put_tenant(tenant, plan="pro")
    theirs = await memory.webhooks.create_endpoint("globex", "https://globex.example.com/hook")
    given = {"endpoint": theirs.id, "to": "off", "since": "2024-01-01T00:00", "start": "2024-01-01T00:00"}
    given |= {"end": "2024-02-01T00:00", "delivery": "dl_of_globex", "url": "https://acme.example.com/"}
    before = await memory.list_audit(tenant="globex")
    readers = memory.portal(tenant=from_header("x-org"), read_only=True)
    assert (await answer(readers, path, method="POST", data=given, headers=whose("acme"))).status_code == 403
    app = memory.portal(tenant=from_header("x-org"))
    found = await answer(app, path, method="POST", data=given, headers=whose("acme"))
    assert found.status_code == (200 if path == "create-endpoint" else 404)
    assert await memory.list_audit(tenant="globex") == before


async def test_a_portal_is_framed_by_whom_it_names(memory: Metering) -> None:
    app = memory.portal(tenant=lambda _: "acme", frames=("https://app.example.com",))
    assert "frame-ancestors https://app.example.com" in (await answer(app, "")).headers["content-security-policy"]
    for wrong in ("https://a.example; script-src *", "app.example.com", "*"):
        with pytest.raises(InvalidInput, match="is no origin"):
            memory.portal(tenant=lambda _: "acme", frames=(wrong,))


# -- files of others --------------------------------------------------------------------------------------------------


def test_files_of_others_are_as_they_were_published() -> None:
    sums = (STATIC / "SHA256SUMS").read_text(encoding="ascii")
    known = {name: digest for digest, name in (line.split() for line in sums.splitlines())}
    assert known == {name: sha256((STATIC / name).read_bytes()).hexdigest() for name in known}
    others = {each.name for each in STATIC.iterdir()} - {"app.css", "app.js", "mark.svg", "README.md", "SHA256SUMS"}
    assert others == {*known, "htmx.LICENSE", "uplot.LICENSE"}
