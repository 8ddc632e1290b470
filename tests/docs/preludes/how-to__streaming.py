import tomllib
from pathlib import Path

plans = tomllib.loads(Path("plans.toml").read_text())
plans["meters"]["rows"] = {"event": "row"}
metering = await stack.enter_async_context(Metering(plans))
