"""A proxy that strips a prefix, as small as it gets."""

from __future__ import annotations

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class Stripping:
    """What nginx does with ``location /tools/ { proxy_pass http://app/; }``: the app never hears of the prefix."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app, self._prefix = app, prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if not scope["path"].startswith(f"{self._prefix}/"):
                await PlainTextResponse("nothing here", 404)(scope, receive, send)
                return
            path = scope["path"].removeprefix(self._prefix)
            scope = {**scope, "path": path, "raw_path": path.encode()}
        await self._app(scope, receive, send)
