"""A clock that is wrong: Python imports this before all else in programs that have it on PYTHONPATH.

CLOCK_AHEAD says by how many seconds. What measures durations goes on as it is, as on a machine whose
time of day was set wrong.
"""

import os
from datetime import UTC, datetime, timedelta

import time_machine

time_machine.travel(
    datetime.now(UTC) + timedelta(seconds=float(os.environ["CLOCK_AHEAD"])), tick=True
).start()
