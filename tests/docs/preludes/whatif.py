from pathlib import Path

clock.set("2024-03-01T00:00:00Z")
Path("new.toml").write_text(next(each.text for each in page.blocks if each.kind == "toml"))
