"""Run one command and write down what it took: `launcher.py FILE COMMAND...`, on the standard library alone.

Linux hands the peak memory of a process on to the program that it becomes, so whoever starts a command must be smaller
than the command. This is: it imports next to nothing.
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
        # Kibibytes, on Linux.
        "peak_bytes": used.ru_maxrss * 1024,
    }
    with open(sys.argv[1], "w") as file:  # noqa: PTH123 - pathlib would be the largest thing in here
        json.dump(figures, file)
    process.returncode = os.waitstatus_to_exitcode(status)
    return abs(process.returncode)


if __name__ == "__main__":
    sys.exit(main())
