"""Who may look and act, asked over a real server."""

from __future__ import annotations

from urllib.parse import urlsplit

import httpx2
import pytest

from mm_metering import Metering
from mm_metering.dashboard.access import Role
from mm_metering.dashboard.app import MENU
from mm_metering.errors import InvalidInput
from tests.pages.conftest import OWN_HEADERS
from tests.pages.house import House
from tests.pages.links import crawl

ACTIONS = {path: role for each in MENU for path, (role, _) in each.actions.items()}


def test_a_viewer_is_offered_nothing_that_he_may_not_do(house: House) -> None:
    found = crawl(f"{house.url}/team/", {"x-role": "viewer"}, of_a_kind=1)
    assert found.broken == []
    assert len(found.texts) > len(MENU)
    assert found.posts == set()


@pytest.mark.parametrize("role", [Role.FINANCE, Role.OPERATOR])
def test_who_has_a_role_is_offered_what_it_is_for(house: House, role: Role) -> None:
    found = crawl(f"{house.url}/team/", {"x-role": role}, of_a_kind=1)
    offered = {urlsplit(each).path.removeprefix("/team/") for each in found.posts}
    assert offered
    assert {ACTIONS[each] for each in offered} <= {role, Role.VIEWER}


@pytest.mark.parametrize("path", ACTIONS)
def test_who_lacks_the_role_is_refused(house: House, path: str) -> None:
    others = " ".join(each for each in Role if each is not ACTIONS[path])
    answer = httpx2.post(f"{house.url}/team/{path}", headers={"x-role": others})
    assert answer.status_code == 403
    assert f"the role {ACTIONS[path]}" in answer.text


@pytest.mark.parametrize("path", ACTIONS)
@pytest.mark.parametrize("header", [{"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}], ids=str)
def test_a_post_of_a_page_of_elsewhere_is_refused(house: House, path: str, header: dict[str, str]) -> None:
    assert httpx2.post(f"{house.url}/metering/{path}", headers=header).status_code == 403
    assert httpx2.post(f"{house.url}/usage/{path}", headers={**OWN_HEADERS, **header}).status_code in (403, 404)


@pytest.mark.parametrize(
    "header",
    [
        {"host": "metering.evil.example"},
        {"host": "127.0.0.1.evil.example"},
        {"x-forwarded-for": "203.0.113.9"},
        {"x-forwarded-for": "127.0.0.1"},
        {"forwarded": "for=127.0.0.1"},
        {"via": "1.1 proxy"},
    ],
    ids=str,
)
def test_without_auth_nothing_that_came_through_others_is_answered(house: House, header: dict[str, str]) -> None:
    answer = httpx2.get(f"{house.url}/metering/", headers=header)
    assert answer.status_code == 403
    assert "acme" not in answer.text


def test_without_auth_nobody_is_known_to_a_team(house: House) -> None:
    assert httpx2.get(f"{house.url}/team/").status_code == 403
    assert httpx2.get(f"{house.url}/usage/").status_code == 403


def test_stores_that_others_use_have_no_pages_without_auth() -> None:
    with pytest.raises(InvalidInput, match="auth: is needed: redis"):
        Metering(counters="redis://127.0.0.1:1").dashboard()
