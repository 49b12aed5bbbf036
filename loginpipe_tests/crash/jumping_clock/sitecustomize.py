"""A wall clock that is wrong and jumps. Python loads this first if its folder is on ``PYTHONPATH``.

``CRASH_CLOCK_HOURS=-30,30`` lists by how much it is wrong; the values alternate from second to second. `time.time` and
`time.time_ns` use it in every module of the process; ``datetime.now`` and `time.monotonic` do not.
"""

import os
import time

_offsets = [int(hours) * 3600 for hours in os.environ["CRASH_CLOCK_HOURS"].split(",")]
_time, _time_ns, _monotonic = time.time, time.time_ns, time.monotonic


def _offset() -> int:
    return _offsets[int(_monotonic()) % len(_offsets)]


time.time = lambda: _time() + _offset()
time.time_ns = lambda: _time_ns() + _offset() * 1_000_000_000
