"""Run one command and write its cost to a file: `launcher.py FILE COMMAND...`, with the standard library only.

On Linux, a process that executes another program passes its peak memory on to it. So the program that starts a command
must be smaller than the command. This one imports very little.
"""

import json
import os
import subprocess
import sys
import time


def main() -> int:
    """Run the command to its end; return its exit code."""
    began = time.monotonic()
    process = subprocess.Popen(sys.argv[2:])  # noqa: S603 - our own command line
    _, status, used = os.wait4(process.pid, 0)
    figures = {
        "wall_seconds": time.monotonic() - began,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        # In kibibytes on Linux.
        "peak_bytes": used.ru_maxrss * 1024,
    }
    with open(sys.argv[1], "w") as file:  # noqa: PTH123 - pathlib would be the largest thing in here
        json.dump(figures, file)
    process.returncode = os.waitstatus_to_exitcode(status)
    return abs(process.returncode)


if __name__ == "__main__":
    sys.exit(main())
