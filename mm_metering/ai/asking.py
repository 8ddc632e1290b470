"""A call as it is asked for, checked: nothing is held yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mm_metering.ai import estimate
from mm_metering.ai.calls import MIN_OUTPUT, USUAL_OUTPUT
from mm_metering.ai.names import parse
from mm_metering.ai.scopes import scopes
from mm_metering.core.catalogue import AiPolicy
from mm_metering.core.events import whole_quantity
from mm_metering.core.identity import tenant_id
from mm_metering.errors import InvalidInput
from mm_metering.gate.admission import Scope

MAX_NAME: Final = 200


@dataclass(frozen=True, slots=True)
class Asked:
    """A call as it was asked for."""

    tenant: str
    model: str
    input_tokens: int
    max_output_tokens: int
    min_output_tokens: int
    scopes: tuple[Scope, ...] = ()

    def scopes_of(self, model: str) -> tuple[Scope, ...]:
        """With that of the model that it is made to."""
        return (*self.scopes, Scope(f"model:{model}"))


def asked(
    tenant: str,
    model: str,
    *,
    input: object = None,
    input_tokens: int | None = None,
    tokens: int | None = None,
    max_output_tokens: int | None = None,
    min_output_tokens: int = MIN_OUTPUT,
    feature: str | None = None,
    user: str | None = None,
    run: str | None = None,
) -> Asked:
    """The call that ``reserve`` asks for, checked."""
    read = _read(input, input_tokens, tokens)
    most = 0 if tokens is not None and max_output_tokens is None else USUAL_OUTPUT
    if max_output_tokens is not None:
        most = whole_quantity(max_output_tokens, least=0, field="max_output_tokens")
    least = min(whole_quantity(min_output_tokens, least=0, field="min_output_tokens"), most)
    named = scopes(feature=feature, user=user, run=run)
    return Asked(tenant_id(tenant), model_name(model), read, most, least, named)


def _read(prompt: object, input_tokens: int | None, tokens: int | None) -> int:
    given = [each for each in (input_tokens, tokens) if each is not None]
    if len(given) + (prompt is not None) != 1:
        raise InvalidInput("input", "give one of input, input_tokens and tokens")
    if given:
        return whole_quantity(given[0], least=0, field="input_tokens" if input_tokens is not None else "tokens")
    return estimate.input_tokens(prompt)


def model_name(model: object) -> str:
    """InvalidInput for what is none."""
    if not isinstance(model, str) or not 1 <= len(model) <= MAX_NAME or not model.isprintable():
        raise InvalidInput("model", f"is not the name of a model: 1 to {MAX_NAME} printable characters")
    return model


def is_listed(model: str, policy: AiPolicy) -> bool:
    """By any of its names: "openai/gpt-4" is "gpt-4"."""
    if policy.model_allowlist is None:
        return True
    name = parse(model)
    forms = set(name.forms) if name is not None else set()
    return model in policy.model_allowlist or not forms.isdisjoint(policy.model_allowlist)


def has_budget(policy: AiPolicy, scopes: Sequence[Scope]) -> bool:
    """Whether money limits a call in these scopes."""
    if policy.daily_budget is not None or policy.monthly_budget is not None:
        return True
    return any(each.cap is not None or policy.limits_of(each.name) for each in scopes)
