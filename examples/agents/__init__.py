"""An agent that may call tools, and a budget that ends what it does not end itself. See README.md."""
