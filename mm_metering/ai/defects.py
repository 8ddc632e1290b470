"""What is wrong with replies and prices of models, said once an hour: a model that has it has it at every call."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, TypeAlias

log: Final = logging.getLogger("mm_metering.ai")

Kind: TypeAlias = Literal["unpriced", "contradictory", "no usage", "error body", "unsettled"]

EVERY: Final = timedelta(hours=1)
MAX_KEPT: Final = 1_024
"""So many models with a defect are told apart; what comes beyond is counted together."""
TEXTS: Final[dict[Kind, str]] = {
    "unpriced": "have no price for what they used, and are charged what was held; add the model to [ai.prices]",
    "contradictory": "said numbers that cannot all be true, and are charged the larger reading; compare the invoice",
    "no usage": "have no usage in the reply, and are charged an estimate; ask the provider for it, or settle by counts",
    "error body": "got an error for a reply, and are charged their input; raise for it, or call.release()",
    "unsettled": "were not settled, and are charged all that was held; call.settle(reply)",
}


@dataclass(slots=True)
class _Said:
    again_at: datetime
    count: int = 0


class Defects:
    """Says each defect of each model at the first call, and then at most once an hour how many there were since."""

    def __init__(self) -> None:
        self._said: dict[tuple[Kind, str], _Said] = {}

    def add(self, kind: Kind, model: str, now: datetime, detail: str = "") -> None:
        key = (kind, model)
        if key not in self._said and len(self._said) >= MAX_KEPT:
            self._forget(now)
        if key not in self._said and len(self._said) >= MAX_KEPT:
            key = (kind, "other models")
        said = self._said.setdefault(key, _Said(now))
        said.count += 1
        if now >= said.again_at:
            log.warning("AI calls of %s: %d %s%s", key[1], said.count, TEXTS[kind], detail and f" ({detail})")
            said.again_at, said.count = now + EVERY, 0

    def _forget(self, now: datetime) -> None:
        """Those that would be said at once."""
        self._said = {key: said for key, said in self._said.items() if said.again_at > now}
