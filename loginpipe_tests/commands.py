"""The command line in a test: run in this process, and what it came to; and what `loginpipe doctor` finds."""

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
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line of a failure."""
        assert self.code == 1, f"{self.out}{self.err}"
        assert self.out == ""
        assert self.err.startswith("error: ")
        assert self.err.endswith("\n")
        assert self.err.count("\n") == 1, self.err
        assert "Traceback" not in self.err
        return self.err.removeprefix("error: ").removesuffix("\n")


Command: TypeAlias = Callable[..., Done]


def command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The entry point of the command line, in this process: it takes a second less than one of its own."""

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
    """What `loginpipe doctor` finds, by what it looked at."""
    return {finding.what: finding for finding in examine(load_settings(), DAGSTER_CHECKS)}
