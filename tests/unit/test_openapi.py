"""OpenAPI: what an operation costs and which refusals it gives, on metered routes only."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException
from openapi_spec_validator import OpenAPIV31SpecValidator

from mm_metering import Metering, from_header, metered, quota
from mm_metering.middleware.openapi import document
from mm_metering.middleware.shapes import Style


def costs(method: str, path: str) -> Mapping[str, int] | None:
    return {("GET", "/a"): {"api_calls": 1}, ("POST", "/a"): {"api_calls": 5, "reports": 1}}.get((method, path))


def host() -> FastAPI:
    app = FastAPI()
    app.add_api_route("/a", lambda: 1)
    app.add_api_route("/a", lambda: 1, methods=["POST"])
    app.add_api_route("/free", lambda: 1)
    return app


def refusals(operation: dict[str, Any]) -> set[str]:
    return {status for status in operation["responses"] if status in ("402", "403", "429", "503")}


@pytest.mark.parametrize("headers", ["standard", "legacy", "both", "off"])
def test_metered_operations_say_their_cost_and_refusals_and_others_nothing(headers: Any) -> None:
    style = Style(headers=headers, error_shapes={"/a": "anthropic"})
    told = document(host().openapi(), costs, style=style)
    OpenAPIV31SpecValidator(told).validate()
    assert told["paths"]["/a"]["get"]["x-metering"] == {"api_calls": 1}
    assert told["paths"]["/a"]["post"]["x-metering"] == {"api_calls": 5, "reports": 1}
    assert refusals(told["paths"]["/a"]["get"]) == {"402", "403", "429", "503"}
    assert told["paths"]["/free"] == host().openapi()["paths"]["/free"]
    limited = told["components"]["responses"]["QuotaExceeded"]
    assert set(limited["content"]) == {"application/problem+json", "application/json"}
    assert ("RateLimit" in limited["headers"]) is (headers in ("standard", "both"))
    assert ("X-RateLimit-Limit" in limited["headers"]) is (headers in ("legacy", "both"))


def test_a_second_time_changes_nothing_and_the_given_document_never_changes() -> None:
    plain = host().openapi()
    before = copy.deepcopy(plain)
    once = document(plain, costs)
    assert plain == before
    assert document(once, costs) == once


def test_changing_the_answer_changes_neither_the_given_document_nor_the_next_answer() -> None:
    plain = host().openapi()
    before, expected = copy.deepcopy(plain), copy.deepcopy(document(plain, costs))
    told = document(plain, costs)
    told["components"]["headers"]["Retry-After"]["schema"]["minimum"] = 9
    told["paths"]["/a"]["get"]["responses"]["429"]["description"] = "mine"
    told["components"]["schemas"]["Own"] = {}
    assert plain == before
    assert document(plain, costs) == expected


def test_entries_beside_the_paths_are_left_alone() -> None:
    plain = host().openapi()
    plain["paths"] |= {"x-owner": "team-a", "x-version": 7}
    plain["paths"]["/a"]["parameters"] = []
    told = document(plain, lambda method, path: {"api_calls": 1})
    assert (told["paths"]["x-owner"], told["paths"]["x-version"]) == ("team-a", 7)
    assert told["paths"]["/a"]["parameters"] == []


def test_without_a_metered_operation_nothing_is_added() -> None:
    plain = host().openapi()
    assert document(plain, lambda method, path: None) == plain


def test_what_the_host_has_documented_stays() -> None:
    app = host()
    app.add_api_route("/b", lambda: 1, responses={429: {"description": "mine"}, 402: {"description": "pay"}})
    plain = app.openapi()
    plain["components"] = {"responses": {"QuotaExceeded": {"description": "another"}}}
    told = document(plain, lambda method, path: {"api_calls": 1} if path == "/b" else None)
    assert told["paths"]["/b"]["get"]["responses"]["429"]["description"] == "mine"
    assert told["components"]["responses"]["QuotaExceeded"] == {"description": "another"}
    assert set(told["components"]["responses"]) > {"QuotaExceeded_2", "BudgetExceeded"}
    OpenAPIV31SpecValidator(told).validate()


def test_an_installed_app_says_it_of_routes_marks_quotas_and_its_own_costs() -> None:
    metering = Metering({**Metering().catalogue.to_dict(), "routes": {"POST /search": {"api_calls": 5}}})
    app = host()
    app.add_api_route("/search", lambda: 1, methods=["POST"])
    app.add_api_route("/reports", metered("export", resource="report_pdf")(lambda: 1), methods=["POST"])
    app.add_api_route("/hooks", lambda: 1, dependencies=[Depends(quota("webhook_deliveries", 2))])
    metering.install(app, tenant=from_header("x-org-id"), exempt=["/free"])
    told = app.openapi()
    OpenAPIV31SpecValidator(told).validate()
    found = {path: operation.get("x-metering") for path, item in told["paths"].items() for operation in item.values()}
    assert found == {
        "/a": {"api_calls": 1},
        "/free": None,
        "/search": {"api_calls": 5},
        "/reports": {"api_calls": 1, "reports": 1, "exports": 1},
        "/hooks": {"api_calls": 1, "webhook_deliveries": 2},
    }
    assert app.openapi() == told


def test_the_hosts_own_errors_are_not_ours_to_document() -> None:
    def teapot() -> None:
        raise HTTPException(418)

    app = host()
    app.add_api_route("/tea", teapot, responses={418: {"description": "tea"}})
    told = document(app.openapi(), lambda method, path: {"api_calls": 1})
    assert told["paths"]["/tea"]["get"]["responses"]["418"] == {"description": "tea"}
