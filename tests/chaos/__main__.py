"""``./dev chaos``: kills app processes, workers and servers under load, and counts what became of every request."""

import sys

if __name__ == "__main__":  # the forked processes import this file, too
    from tests.chaos.driver import main

    sys.exit(main(sys.argv[1:]))
