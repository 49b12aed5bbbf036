"""Measure one process: its wall time, its CPU seconds and its peak memory, without those of other processes."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_LAUNCHER: Final = Path(__file__).with_name("launcher.py")
_LONGEST_SECONDS: Final = 1800
_LOG_TAIL: Final = 3000


class MeasuringError(Exception):
    """A measured process failed or did not do its work."""


@dataclass(frozen=True)
class Used:
    """The cost of a process from its start to its end.

    Attributes:
        cpu_seconds: user and system time of all its threads.
        peak_bytes: its peak memory.
    """

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Measured:
    """A process that is being measured."""

    command: Sequence[str]
    process: "subprocess.Popen[bytes]"
    folder: Path

    def used(self) -> Used:
        """Wait for the end of the process and return its cost.

        Raises:
            MeasuringError: it failed; quotes the end of its output.
        """
        if self.process.wait(_LONGEST_SECONDS):
            log = (self.folder / "output").read_text(errors="replace")
            raise MeasuringError(f"{' '.join(self.command)} failed:\n{log[-_LOG_TAIL:]}")
        return Used(**json.loads((self.folder / "used").read_text()))


@contextmanager
def measured(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Iterator[Measured]:
    """Run a command as a separate process, which has ended when the context ends.

    Args:
        command: program and arguments.
        environment: its complete environment.
        folder: its working folder.
    """
    with tempfile.TemporaryDirectory(prefix="loginpipe-measured-") as files:
        with (Path(files) / "output").open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - our own command lines
                [sys.executable, "-I", "-S", str(_LAUNCHER), str(Path(files) / "used"), *command],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # So that launcher and command end together.
                start_new_session=True,
            )
        try:
            yield Measured(command, process, Path(files))
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def measure(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Used:
    """Run a command to its end and return its cost.

    Raises:
        MeasuringError: it failed.
    """
    with measured(command, environment, folder) as running:
        return running.used()
