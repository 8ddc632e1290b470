"""What MortgageMatch sells: the three plans that come with the package, and what its own routes cost.

A file does the same: copy ``mm_metering/catalogues/seed.toml``, add a ``[routes]`` table, name it in
MM_METERING_CATALOGUE.
"""

from __future__ import annotations

from mm_metering import catalogues

PLANS = {
    **catalogues.seed.to_dict(),
    "routes": {
        "POST /v1/scenarios/bulk": {"api_calls": 500},  # prices 500 loans in one request, and costs what 500 would
        "GET /v1/invoice": {"api_calls": 0},  # looking at the bill is free
        "exempt": ["/healthz"],
    },
}
