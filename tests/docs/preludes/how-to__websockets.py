import tomllib
from pathlib import Path

plans = tomllib.loads(Path("plans.toml").read_text())
plans["meters"]["messages"] = {"event": "message"}
plans["plans"]["free"]["quotas"]["messages"] = {"limit": 2, "per": "day"}
metering = Metering(plans)
