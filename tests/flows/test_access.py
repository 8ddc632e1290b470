"""Every read and write takes its tenant from who asks: another tenant's things are not found, and nothing of them is
told. What is asked is found by looking at the public methods, so that a new one is in here or fails."""

from __future__ import annotations

from mm_metering import FrozenClock
from tests.flows.conftest import Make
from tests.flows.owned import BY_EVENT, IDS, NOT_ASKED, OF_THE_HOST, PLACES, TENANTS, a_world, calls, methods

VICTIM, MALLORY = "acme-canary", "mallory"
IN_THIS_STATE = {
    "pay_invoice": "CardDeclined",
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
