"""``./dev chaos``: kills app processes, workers and servers under load, and counts what became of every request."""

from __future__ import annotations

import sys

from tests.chaos.driver import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
