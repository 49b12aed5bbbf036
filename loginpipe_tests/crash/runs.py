"""Runs in other processes, as the test that starts them sees them."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final, Self
from unittest.mock import patch

_WAIT_SECONDS: Final = 300
_FOLDER: Final = Path(__file__).parents[2]

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["loginpipe_tests.crash.warm"])


class Run:
    """A run that was started. It is a context manager that leaves no process behind.

    Attributes:
        folder: the files of the run, and its ``log``.
    """

    def __init__(self, folder: Path, process: "subprocess.Popen[bytes] | BaseProcess") -> None:
        self.folder = folder
        self._process = process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._ended(_WAIT_SECONDS)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def until_reached(self) -> None:
        """Wait until it has reached the point."""
        deadline = time.monotonic() + _WAIT_SECONDS
        while not (self.folder / "reached").exists():
            ended = self._ended(0.02)
            # One that is killed at the point may end at once.
            assert ended is None or (self.folder / "reached").exists(), f"it ended without coming there: {self.log()}"
            assert time.monotonic() < deadline, f"it did not come to the point: {self.log()}"

    def release(self) -> None:
        """Let it continue after the point."""
        (self.folder / "release").touch()

    def wait(self, seconds: float = _WAIT_SECONDS) -> int:
        """Wait until it has ended, and return its exit code; a negative one is the number of a signal."""
        code = self._ended(seconds)
        assert code is not None, f"it did not end within {seconds:g} s: {self.log()}"
        return code

    @property
    def pid(self) -> int:
        """Return its process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Return True if it has ended."""
        return self._ended(0) is not None

    def report(self) -> dict[str, Any]:
        """Return its report, which it wrote when it ended by itself: ``run_id``, ``success``, ``peak_mebibytes``."""
        report: dict[str, Any] = json.loads((self.folder / "report.json").read_text())
        return report

    def log(self) -> str:
        """Return the end of its output, without Dagster's own lines on the steps."""
        lines = (self.folder / "log").read_text(errors="replace").splitlines()
        return "\n".join(line for line in lines if " - DEBUG - " not in line)[-4000:]

    def _ended(self, seconds: float) -> int | None:
        if isinstance(self._process, BaseProcess):
            self._process.join(seconds)
            return self._process.exitcode
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None


def forked(
    folder: Path,
    environment: Mapping[str, str],
    arguments: Sequence[str],
    program: str = "loginpipe_tests.crash.run_job",
) -> Run:
    """Start a program of this folder in a process that already has everything loaded."""
    process = _forks.Process(target=_run, args=(program, str(folder), dict(environment), list(arguments)))
    with patch.dict(os.environ):
        # Of a run that is killed, no coverage is kept, so none is measured.
        os.environ.pop("COVERAGE_PROCESS_CONFIG", None)
        process.start()
    return Run(folder, process)


def fresh(folder: Path, environment: Mapping[str, str], command: Sequence[str]) -> Run:
    """Start a Python command."""
    path = os.pathsep.join(filter(None, [environment.get("PYTHONPATH"), str(_FOLDER)]))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            env={**environment, "PYTHONPATH": path},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    return Run(folder, process)


def _run(program: str, folder: str, environment: dict[str, str], arguments: list[str]) -> None:
    log = os.open(Path(folder) / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.exit(import_module(program).main(["--folder", folder, *arguments]))
