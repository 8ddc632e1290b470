"""What a call may be held as: the model that was asked for, and the fallback, each with its worst case."""

from __future__ import annotations

import json
from typing import Literal

from mm_metering.ai.asking import Asked, has_budget, is_listed
from mm_metering.ai.calls import AiCall
from mm_metering.ai.hold_facts import Note
from mm_metering.ai.insight import CALL, TOKEN
from mm_metering.ai.prices import Prices
from mm_metering.clock import Clock
from mm_metering.core.catalogue import AI_COST_METER, AiPolicy, Catalogue
from mm_metering.core.decision import Decision
from mm_metering.core.periods import from_micros
from mm_metering.errors import MissingExtra
from mm_metering.gate.admission import Candidate, Share
from mm_metering.gate.holds import Held
from mm_metering.gate.refusals import raise_if_refused


class Candidates:
    def __init__(self, catalogue: Catalogue, prices: Prices, *, clock: Clock) -> None:
        self._catalogue = catalogue
        self._prices = prices
        self._clock = clock

    def all(self, asked: Asked, policy: AiPolicy, plan: str) -> list[Candidate]:
        """The asked model, then the fallback. ModelNotAllowed for one that is not on the list, which is never swapped,
        or that has no price under a money budget."""
        if not is_listed(asked.model, policy):
            self._refuse("model-not-allowed", plan)
        models = [asked.model]
        if policy.fallback_model and policy.fallback_model != asked.model and is_listed(policy.fallback_model, policy):
            models.append(policy.fallback_model)
        found = [candidate for model in models if (candidate := self.one(asked, model, policy)) is not None]
        if not found or (found[0].resource != asked.model):
            self._refuse("model-unpriced", plan)
        return found

    def one(self, asked: Asked, model: str, policy: AiPolicy) -> Candidate | None:
        """None for a model without a price that a budget needs."""
        scopes = asked.scopes_of(model)
        shares, floor = [], 0
        for meter in self._catalogue.meters_of(CALL, model):
            if meter.unit != "money":
                shares.append(Share(meter.name, 1, 1))
                continue
            costs = self._costs(asked, model)
            if costs is None:
                if policy.on_unpriced == "block" and has_budget(policy, scopes):
                    return None
                continue
            floor, least, most = costs
            shares.append(Share(meter.name, least, most, scopes if meter.name == AI_COST_METER else ()))
        for meter in self._catalogue.meters_of(TOKEN, model):
            least, most = asked.min_output_tokens, asked.max_output_tokens
            shares.append(Share(meter.name, asked.input_tokens + least, asked.input_tokens + most))
        names = [each.name for each in scopes]
        note = Note.of(self._catalogue, model, floor=floor, tokens=asked.input_tokens, scopes=names)
        return Candidate(CALL, model, tuple(shares), json.dumps(note))

    def _costs(self, asked: Asked, model: str) -> tuple[int, int, int] | None:
        """Nano-units of its input alone, with the least output, and with the most."""
        try:
            rates = self._prices.token_rates(model, asked.input_tokens, self._clock.now())
        except MissingExtra:
            rates = None
        if rates is None:
            return None
        read, least, most = asked.input_tokens, asked.min_output_tokens, asked.max_output_tokens
        costs = [rates.worst_case(read, output) for output in (0, least, most)]
        if any(each is None for each in costs):
            return None
        floor, low, high = (each or 0 for each in costs)
        return floor, low, high

    def call(self, asked: Asked, held: Held) -> AiCall:
        """With the output that its grants pay for."""
        model, most = held.candidate.resource, asked.max_output_tokens
        granted = held.granted(AI_COST_METER)
        wanted = next((each.want for each in held.candidate.shares if each.meter == AI_COST_METER), 0)
        if granted is not None and granted < wanted:
            afford = self._prices.affordable_output(model, asked.input_tokens, granted, self._clock.now())
            most = min(most, afford or 0)
        for meter in self._catalogue.meters_of(TOKEN, model):
            tokens = held.granted(meter.name)
            if tokens is not None:
                most = min(most, tokens - asked.input_tokens)
        call = AiCall(
            model=model,
            asked_model=asked.model,
            input_tokens=asked.input_tokens,
            max_output_tokens=max(0, most),
            granted_nanos=granted,
            floor_nanos=Note.in_(held.candidate).floor,
            began_at=from_micros(held.taken_us),
            prices=self._prices,
        )
        call.is_limited = bool(held.grants)
        return call

    def _refuse(self, reason: Literal["model-not-allowed", "model-unpriced"], plan: str) -> None:
        meters = [meter.name for meter in self._catalogue.meters.values() if meter.event == CALL]
        decision = Decision(allowed=False, meter=meters[0] if meters else CALL, requested=1, reason=reason, plan=plan)
        raise_if_refused((decision,), self._clock.now())
