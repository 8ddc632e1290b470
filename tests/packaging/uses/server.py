"""The command line, the dashboard, encryption."""

import asyncio
import sys
from contextlib import redirect_stdout, suppress
from io import StringIO

from mm_metering import Metering
from mm_metering.cli import main

said = StringIO()
for arguments in (["--version"], ["--help"], ["telemetry", "alerts"]):
    sys.argv = ["mm-metering", *arguments]
    with suppress(SystemExit), redirect_stdout(said):
        main()
assert all(each in said.getvalue() for each in ("mm-metering 0.", "doctor", "groups:"))

metering = Metering(secret_key="A" * 43 + "=", worker="off")
metering.dashboard()
asyncio.run(metering.aclose())
