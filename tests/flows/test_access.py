"""Every read and write takes its tenant from who asks: another tenant's things are not found, and nothing of them is
told. What is asked is found by looking at the public methods, so that a new one is in here or fails."""

from __future__ import annotations

import httpx2
import pytest
from starlette.routing import Route

from mm_metering import FrozenClock, InvalidEvent, Metering, UsageEvent
from mm_metering.worker.health import health_app
from tests.flows.conftest import Make
from tests.flows.owned import BY_EVENT, IDS, NOT_ASKED, OF_THE_HOST, PLACES, TENANTS, a_world, calls, methods
from tests.fuzz.surfaces import SURFACES

VICTIM, MALLORY = "acme-canary", "mallory"
IN_THIS_STATE = {
    "pay_invoice": "CardDeclined",
    "adjust_usage": "InvalidEvent",  # of a level
    "credit_invoice": "InvalidInput",  # the call before has credited all of it
    "void_invoice": "WrongState",
    "finalize_invoice": "WrongState",
    "mark_invoice": "WrongState",
    "set_addon": "CatalogueError",  # none is sold
}
"""What one's own thing may answer: it was found."""


def test_each_method_names_a_tenant_or_is_the_hosts() -> None:
    """A new one that takes an id must also take who asks; one that does not must be said to be the host's."""
    for place in PLACES:
        found = dict(methods(place))
        listed = {*OF_THE_HOST[place].split(), *NOT_ASKED[place].split()}
        assert not listed - set(found), f"{place}: no such methods any more"
        for name, signature in found.items():
            names = set(signature.parameters)
            takes_a_tenant = bool(names.intersection(TENANTS))
            assert takes_a_tenant or name in (*OF_THE_HOST[place].split(), *BY_EVENT), f"{place}.{name}: for whom?"
            looks_like_ids = {each for each in names if each.endswith("_id")} - {"organization_id", "plan_id"}
            assert looks_like_ids - IDS <= {"webhook_id"}, f"{place}.{name}: are {looks_like_ids} ids of things?"
            if names & IDS:
                assert takes_a_tenant, f"{place}.{name} takes an id, and nobody can say who asks"
                assert name not in listed, f"{place}.{name} takes an id, and is not asked"


async def test_what_is_anothers_is_not_found_and_nothing_of_it_is_told(
    make: Make, clock: FrozenClock, stores: dict[str, str]
) -> None:
    world = await a_world(make, clock, stores, VICTIM, MALLORY)
    before = await world.all_of(VICTIM)
    secrets = {VICTIM, *world.ids[VICTIM].values()}
    asked = calls()
    for call in (each for each in asked if each.param):
        theirs = world.ids[VICTIM][(call.place, call.param)]
        made_up = theirs[:-4] + "0000"
        told, unknown = [await world.ask(call, MALLORY, given=each) for each in (theirs, made_up)]
        assert (told[0], told[1].replace(theirs, "ID")) == (unknown[0], unknown[1].replace(made_up, "ID")), call
        assert told[0] == "NotFound" or told == ("answer", "[]"), call
        assert not [each for each in secrets - {theirs} if each in told[1]], call
        assert await world.all_of(VICTIM) == before, call
    for call in asked:  # the same calls for one's own: they find it, and say nothing of others
        kind, text = await world.ask(call, MALLORY)
        assert kind != "NotFound", (call, text)
        assert kind in ("answer", IN_THIS_STATE.get(call.method)), (call, kind, text)
        assert not [each for each in secrets if each in text], call
    assert await world.all_of(VICTIM) == before


# -- by HTTP ----------------------------------------------------------------------------------------------------------


async def test_no_answer_by_http_tells_of_another_tenant(make: Make, clock: FrozenClock) -> None:
    """Each path of each surface, asked by another tenant, by a key and a tenant that nobody knows, and by nobody."""
    world = await a_world(make, clock, {}, VICTIM, MALLORY)
    await world.metering.put_tenant("fresh", plan="pro")
    before, secrets = await world.all_of(VICTIM), {VICTIM, *world.ids[VICTIM].values()}
    for build in SURFACES.values():
        surface = build(world.metering)
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=surface.app), base_url="http://x") as client:
            for path, verbs in surface.document["paths"].items():
                for method in verbs:
                    for caller in ({"x-org-id": "fresh"}, {"x-key": "not one"}, {"x-org-id": "no such"}, {}):
                        answer = await client.request(method, path.format(name="n"), headers=caller, json={"text": "?"})
                        told = f"{answer.status_code} {answer.headers} {answer.text}"
                        assert not [each for each in secrets if each in told], (path, told)
    assert await world.all_of(VICTIM) == before


async def test_a_refusal_by_http_says_ones_own_numbers_and_an_unknown_field_is_refused(memory: Metering) -> None:
    for tenant in (VICTIM, MALLORY):
        await memory.put_tenant(tenant, plan="free")
    await memory.record(UsageEvent(tenant=VICTIM, event_type="export", resource="report_pdf", quantity=7))
    surface = SURFACES["host"](memory)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=surface.app), base_url="http://x") as client:

        async def asked(tenant: str, **more: object) -> httpx2.Response:
            return await client.post("/ask/n", headers={"x-org-id": tenant}, json={"text": "?", **more})

        assert (await asked(MALLORY, plan="enterprise")).status_code == 422
        refused = [await asked(VICTIM), await asked(MALLORY)]
        assert [(each.status_code, each.json()["limits"][0]["used"]) for each in refused] == [(429, 7), (429, 1)]
        unknown = [await client.post("/ask/n", headers={"x-key": key}, json={}) for key in ("a kez", "b")]
        assert {(each.status_code, each.json()["detail"]) for each in unknown} == {
            (401, "tenant: the request names nobody we know; send the credentials you were given")
        }


def test_our_own_endpoints_are_these_and_none_is_an_admins() -> None:
    """Admin verbs are Python's and the command line's; one that comes to HTTP needs a scope, and a row here."""
    routes = [route for route in health_app(Metering().monitor).routes if isinstance(route, Route)]
    assert {route.path: route.methods for route in routes} == {
        each: {"GET", "HEAD"} for each in ("/healthz", "/metrics")
    }
    takes_requests = {
        f"{place}.{name}"
        for place in PLACES
        for name, signature in methods(place)
        if "Request" in f"{[each.annotation for each in signature.parameters.values()]}"
    }
    assert takes_requests == {"metering.stripe_webhook"}


@pytest.mark.parametrize("field", ["plan", "price", "counts", "kind", "corrects"])
async def test_an_event_takes_no_field_that_is_not_its_own(memory: Metering, field: str) -> None:
    event = {"event_type": "api_call", "resource": "/", field: "x"}
    with pytest.raises(InvalidEvent, match=field):
        await memory.billing.record_usage(MALLORY, event)
    with pytest.raises(InvalidEvent, match=field):
        UsageEvent.model_validate({"tenant": MALLORY, **event})


async def test_the_tenant_of_a_dict_is_never_who_asks(memory: Metering) -> None:
    event = {"tenant": VICTIM, "event_type": "api_call", "resource": "/"}
    await memory.billing.record_usage(MALLORY, event)
    used = {each: (await memory.get_usage(each, "2024-01-15", "2024-01-15")).api_calls for each in (VICTIM, MALLORY)}
    assert used == {VICTIM: 0, MALLORY: 1}
