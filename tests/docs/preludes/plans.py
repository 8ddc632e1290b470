import tomllib
from pathlib import Path

from mm_metering.core.periods import micros

plans = tomllib.loads(Path("plans.toml").read_text())
plans |= tomllib.loads(next(each.text for each in page.blocks if each.text.startswith("[addons.")))
plans["plans"]["pro"]["quotas"]["api_calls"] = [plans["plans"]["pro"]["quotas"]["api_calls"], {"limit": 200, "per": "second"}]
metering = await stack.enter_async_context(Metering(plans))
await metering.put_tenant("acme", plan="pro")
