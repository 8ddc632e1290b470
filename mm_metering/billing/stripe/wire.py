"""The SDK's client over httpx. Imported where a client is made: it loads ``stripe``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import stripe


class Wire(stripe.HTTPXClient):
    """Hands bodies to httpx as content: as data, where the SDK puts them, text is deprecated, and the warning becomes
    a failed call where warnings are errors."""

    def _get_request_args_kwargs(
        self, method: str, url: str, headers: Mapping[str, str], post_data: object
    ) -> list[Any]:
        args, options = super()._get_request_args_kwargs(method, url, headers, post_data)
        if isinstance(options.get("data"), str | bytes):
            options["content"] = options.pop("data")
        return [args, options]
