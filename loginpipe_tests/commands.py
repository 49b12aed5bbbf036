"""Run the command line in the process of a test, and get the findings of `loginpipe doctor`."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import pytest

from loginpipe import cli
from loginpipe.common.settings import load_settings
from loginpipe.defs.monitoring.dagster_state import DAGSTER_CHECKS
from loginpipe.monitoring.doctor import Finding, examine


@dataclass(frozen=True)
class Done:
    """The result of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """Return the one line of a failure; fail if there is anything else."""
        assert self.code == 1, f"{self.out}{self.err}"
        assert self.out == ""
        assert self.err.startswith("error: ")
        assert self.err.endswith("\n")
        assert self.err.count("\n") == 1, self.err
        assert "Traceback" not in self.err
        return self.err.removeprefix("error: ").removesuffix("\n")


Command: TypeAlias = Callable[..., Done]


def command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs the command line in this process. A process of its own takes a second longer."""

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["loginpipe", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        return Done(code, *capsys.readouterr())

    return run


def findings() -> dict[str, Finding]:
    """Return the findings of `loginpipe doctor` by what was checked."""
    return {finding.what: finding for finding in examine(load_settings(), DAGSTER_CHECKS)}
