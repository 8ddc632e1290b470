"""``python -m mm_metering.cli``."""

from mm_metering.cli import main

if __name__ == "__main__":
    main()
