"""Models that were used and have no price: for the check-up, over all tenants."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import Final

from mm_metering.ai.insight import Insight
from mm_metering.backends.ledger import Ledger
from mm_metering.core.findings import Finding

DAY: Final = timedelta(days=1)
MOST_NOTICES: Final = 1_000
"""The newest so many are looked at."""
MOST_TENANTS: Final = 100
MOST_NAMED: Final = 10


async def check_models(ledger: Ledger, insight: Insight, now: datetime) -> list[Finding]:
    """Of yesterday and today: a tenant's first such call of a day leaves a notice, so few are looked at."""
    told = [each for each in await ledger.notices(limit=MOST_NOTICES) if each.type == "model.unpriced"]
    tenants = sorted({each.tenant for each in told if each.made_at > now - DAY})
    calls = Counter[str]()
    for tenant in tenants[:MOST_TENANTS]:
        calls.update((await insight.usage(tenant, (now - DAY).date(), (now + DAY).date())).unpriced)
    if not calls:
        return []
    named = ", ".join(f"{model} ({count:,} calls)" for model, count in calls.most_common(MOST_NAMED))
    what = f"models without a price in the last day: {named}: what they cost is not known"
    return [Finding("warn", f"{what}; add them under [ai.prices], or take a newer genai-prices")]
