from pathlib import Path

for name, block in zip(("plans.toml", "plans-next.toml"), (each for each in page.blocks if each.kind == "toml")):
    Path(name).write_text(block.text)
