"""Stripe's official OpenAPI document, as far as the fake goes: what requests and answers must look like.

``openapi.NOTICE`` says where it comes from. Where ``jsonschema`` is not installed nothing is checked.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final

FILE: Final = "openapi.json.gz"
NEWER: Final = frozenset(
    {("post", "/v1/subscriptions/{subscription}/pause"), ("post", "/v1/subscriptions/{subscription}/resume")}
)
"""Calls whose parameters in 2026-10-28.endive are not those of the document, 2026-05-27.dahlia."""
_BODY: Final = "application/x-www-form-urlencoded"
_HERE: Final = "urn:stripe"


@cache
def document() -> dict[str, Any]:
    packed = files(__package__).joinpath(FILE).read_bytes()
    found: dict[str, Any] = _with_nulls(json.loads(gzip.decompress(packed)))
    return found


def _with_nulls(value: Any) -> Any:
    """``nullable``, which JSON schemas do not know, as one of two types; references from anywhere."""
    if isinstance(value, list):
        return [_with_nulls(each) for each in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        return {"$ref": f"{_HERE}{value['$ref']}"}
    inner = {name: _with_nulls(each) for name, each in value.items() if name != "nullable"}
    return {"anyOf": [inner, {"type": "null"}]} if value.get("nullable") is True else inner


@cache
def _validator(reference: str) -> Any:
    from jsonschema import Draft202012Validator
    from referencing import Registry
    from referencing.jsonschema import DRAFT202012

    whole = DRAFT202012.create_resource({**document()})
    return Draft202012Validator({"$ref": reference}, registry=Registry().with_resource(_HERE, whole))


def can_check() -> bool:
    try:
        import jsonschema
    except ImportError:
        return False
    return bool(jsonschema)


@cache
def operation(method: str, path: str) -> tuple[str, dict[str, Any]] | None:
    """The template of a path, and what the document says of it."""
    for template, methods in document()["paths"].items():
        pattern = re.sub(r"\{[^}]+\}", "[^/]+", template)
        if method.lower() in methods and re.fullmatch(pattern, path):
            return template, methods[method.lower()]
    return None


# -- answers ----------------------------------------------------------------------------------------------------------


def wrong_answer(method: str, path: str, status: int, body: Any) -> Iterator[str]:
    """What is wrong with an answer."""
    found = operation(method, path)
    if found is None:
        return
    template, said = found
    key = "200" if status == 200 else "default"
    pointer = f"{_HERE}#/paths/{_escaped(template)}/{method.lower()}/responses/{key}/content/application~1json/schema"
    if key not in said["responses"]:
        yield f"{method} {path}: an answer of HTTP {status}"
        return
    for error in _validator(pointer).iter_errors(body):
        yield f"{method} {path}: the answer's {_where(error)}"


# -- requests ---------------------------------------------------------------------------------------------------------


def wrong_request(method: str, path: str, params: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the parameters of a request."""
    if any(method.lower() == verb and re.fullmatch(re.sub(r"\{[^}]+\}", "[^/]+", each), path) for verb, each in NEWER):
        return
    found = operation(method, path)
    if found is None:
        yield f"{method} {path}: there is no such call"
        return
    schema = _request_schema(found[1], in_query=method.upper() in ("GET", "DELETE"))
    from jsonschema import Draft202012Validator

    for error in Draft202012Validator(schema).iter_errors(as_typed(params, schema)):
        yield f"{method} {path}: the request's {_where(error)}"


def _request_schema(said: Mapping[str, Any], *, in_query: bool) -> dict[str, Any]:
    body = said.get("requestBody", {}).get("content", {}).get(_BODY, {}).get("schema")
    if not in_query:
        return body or {"type": "object", "additionalProperties": False}
    asked = [each for each in said.get("parameters", ()) if each["in"] == "query"]
    inner = {**(body or {}).get("properties", {}), **{each["name"]: each["schema"] for each in asked}}
    required = [each["name"] for each in asked if each.get("required")]
    return {"type": "object", "properties": inner, "required": required, "additionalProperties": False}


def as_typed(value: Any, schema: Mapping[str, Any]) -> Any:
    """Texts of a form as the types that the schema names, where they are such."""
    if "anyOf" in schema:
        return _first_that_fits(value, schema["anyOf"])
    match schema.get("type"):
        case "object" if isinstance(value, dict):
            inner, rest = schema.get("properties", {}), schema.get("additionalProperties")
            other = rest if isinstance(rest, dict) else {}
            return {name: as_typed(each, inner.get(name, other)) for name, each in value.items()}
        case "array" if isinstance(value, list):
            return [as_typed(each, schema.get("items", {})) for each in value]
        case "integer" if isinstance(value, str) and re.fullmatch(r"-?\d+", value):
            return int(value)
        case "number" if isinstance(value, str) and re.fullmatch(r"-?\d+(\.\d+)?", value):
            return float(value)
        case "boolean" if value in ("true", "false"):
            return value == "true"
    return value


def _first_that_fits(value: Any, choices: list[dict[str, Any]]) -> Any:
    from jsonschema import Draft202012Validator

    for each in choices:
        typed = as_typed(value, each)
        if Draft202012Validator(each).is_valid(typed):
            return typed
    return as_typed(value, choices[0])


# -- objects ----------------------------------------------------------------------------------------------------------


def blank(name: str) -> dict[str, Any]:
    """An object of that kind with all that it always has, as empty as it may be."""
    made: dict[str, Any] = _blank({"$ref": f"{_HERE}#/components/schemas/{name}"})
    return made


def _blank(schema: Mapping[str, Any]) -> Any:
    if "$ref" in schema:
        return _blank(document()["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    if "anyOf" in schema:
        return None if {"type": "null"} in schema["anyOf"] else _blank(schema["anyOf"][0])
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "object":
            required = schema.get("required", ())
            inner = schema.get("properties", {}).items()
            return {name: _blank(each) for name, each in inner if name in required or _may_be_null(each)}
        case "array":
            return []
        case "boolean":
            return False
        case "integer" | "number":
            return 0
    return ""


def _may_be_null(schema: Mapping[str, Any]) -> bool:
    return {"type": "null"} in schema.get("anyOf", ())


def _where(error: Any) -> str:
    """The innermost of what is wrong, in a line."""
    while error.context:
        error = max(error.context, key=lambda each: len(each.absolute_path))
    place = ".".join(str(part) for part in error.absolute_path) or "parameters"
    return f"{place}: {error.message[:200]}"


def _escaped(template: str) -> str:
    return template.replace("~", "~0").replace("/", "~1").replace("{", "%7B").replace("}", "%7D")
