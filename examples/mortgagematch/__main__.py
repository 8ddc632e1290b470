"""``python -m examples.mortgagematch``: what ``./dev demo`` runs."""

import sys

from examples.mortgagematch.demo import main

sys.exit(main(sys.argv[1:]))
