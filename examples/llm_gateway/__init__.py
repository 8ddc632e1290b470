"""A gateway to a model provider: OpenAI's API, streams too, with a budget for each tenant. See README.md."""
