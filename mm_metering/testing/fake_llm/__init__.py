"""``FakeLlm``: a model server on loopback, for tests of what AI calls cost.

It speaks OpenAI's chat completions and responses and Anthropic's messages, plain and as server-sent events, as far as
their official SDKs need it for text: no tools, pictures or second choices. What it produced is known to the token.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from mm_metering.clock import Clock, SystemClock
from mm_metering.testing.fake_llm.desk import Desk, Fault, Kind, Produced
from mm_metering.testing.fake_llm.made import Asked, Script, tokens_in
from mm_metering.testing.fake_llm.server import Server, listening

__all__ = ["Asked", "FakeLlm", "Kind", "Produced", "tokens_in"]


class FakeLlm:
    """A context manager: ``with FakeLlm() as fake: OpenAI(api_key=fake.api_key, base_url=fake.url + "/v1")``, or
    ``Anthropic(api_key=fake.api_key, base_url=fake.url)``.

    Unless a script says otherwise it answers with the last text that it was sent. A token is a word with the blanks
    after it, and what was read is all text of the request. It never writes more tokens than the request allows. Without
    ``keep_alive`` each answer ends its connection, so that clients on event loops that end leave none open.
    """

    def __init__(self, *, clock: Clock | None = None, api_key: str = "sk-fake", keep_alive: bool = True) -> None:
        self.api_key = api_key
        self._desk = Desk(clock or SystemClock(), api_key)
        self._keep_alive = keep_alive
        self._server: Server | None = None

    def __enter__(self) -> Self:
        self._server = listening(self._desk, keep_alive=self._keep_alive)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._desk.closing.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    @property
    def url(self) -> str:
        """Without a path: OpenAI's clients want ``/v1`` after it."""
        assert self._server is not None, "use it as a context manager"
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def requests(self) -> list[Asked]:
        """All that was asked, the oldest first; what failed too."""
        return list(self._desk.asked)

    @property
    def totals(self) -> dict[str, Produced]:
        """What each model read and wrote, by the name in its replies, whether or not that was said or has arrived.

        Reasoning comes before the first chunk; a chunk counts when it is sent. A plain reply counts whole.
        """
        return dict(self._desk.totals)

    def script(
        self,
        *,
        text: str | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        cached_tokens: int = 0,
        reasoning_tokens: int = 0,
        model: str | None = None,
        service_tier: str | None = None,
        chunks: int = 8,
        delay_s: float = 0.0,
        times: int | None = None,
    ) -> None:
        """What all replies say from now on, or the next ``times`` after those that are planned already.

        ``input_tokens`` has ``cached_tokens`` in it, ``output_tokens`` has ``reasoning_tokens``: all numbers are as if
        there was no limit. Without a ``text``, ``output_tokens`` are as many words. ``chunks``: how many a text comes
        in, or as many as it has words. ``delay_s``: before each of them, and once before a plain reply.
        """
        script = Script(
            text=text,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cached_tokens=cached_tokens,
            reasoning_tokens=reasoning_tokens,
            model=model,
            service_tier=service_tier,
            chunks=chunks,
            delay_s=delay_s,
        )
        self._desk.plan(script, times)

    def fail(self, pattern: str, kind: Kind, *, times: int = 1, after: int = 1, wait_s: float = 1.0) -> None:
        """The next ``times`` requests whose path has the pattern (a regular expression) go wrong; 0 ends that.

        drop: the connection ends after that many chunks of text, or in the middle of a plain reply. refused: it ends
        without an answer. timeout: so it does, after ``wait_s``. 429: with ``wait_s`` as retry-after. 500, 400: as the
        provider says it. 200-error: a 200 with the body of an error, or an event of one. no-usage: as if nothing had
        gone wrong, but the usage is left out. Of these, drop and no-usage produce tokens.
        """
        self._desk.fail(pattern, Fault(kind, after, wait_s), times)
