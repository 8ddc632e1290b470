"""The last net under our loggers: what looks like a card number, a key or a password is masked, whoever wrote it."""

from __future__ import annotations

import logging
import re
from typing import Final

from mm_metering.core.cards import masked

ROOT: Final = "mm_metering"
HIDDEN: Final = "***"

_SECRETS: Final = (
    (re.compile(r"(?<=://)[^\s/@'\"]+@"), f"{HIDDEN}@"),  # a URL's user and password
    (re.compile(r"\b(whsec_|[sr]k_(?:live|test)_|mm_(?:live|test)_)[A-Za-z0-9+/=_-]{8,}"), rf"\1{HIDDEN}"),
    (re.compile(r"(?i)\b(bearer |basic )[A-Za-z0-9+/=._~-]{8,}"), rf"\1{HIDDEN}"),
    (re.compile(r"\bv1a?,[A-Za-z0-9+/]{40,}={0,2}"), f"v1,{HIDDEN}"),  # a webhook's signature
)
_PLAIN = logging.Formatter()


def scrubbed(text: str) -> str:
    """The text without what nobody should read."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return masked(text)


class Scrub(logging.Filter):
    """Lets every record pass, scrubbed: its message, and the text of its exception."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        clean = scrubbed(text)
        if clean != text:
            record.msg, record.args = clean, None
        if record.exc_info and not record.exc_text:
            record.exc_text = scrubbed(_PLAIN.formatException(record.exc_info))
        return True


_SCRUB: Final = Scrub()


def guard_logs() -> None:
    """Puts the net under each of our loggers that there is now: a logger's filter does not hold for those below it."""
    known = [name for name in logging.root.manager.loggerDict if name == ROOT or name.startswith(f"{ROOT}.")]
    for name in known:
        logging.getLogger(name).addFilter(_SCRUB)  # once, however often it is added
