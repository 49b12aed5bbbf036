"""The lines of the log: their content, and the level from which they are written."""

import json
import logging
import warnings
from collections.abc import Iterator
from math import inf
from typing import Any

import dagster as dg
import pytest

from loginpipe.common.logs import configure_logs
from loginpipe.common.settings import Settings


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root, logger_class = logging.getLogger(), logging.getLoggerClass()
    handlers = list(root.handlers)
    yield
    configure_logs(Settings())
    logging.setLoggerClass(logger_class)
    root.handlers[:] = handlers
    logging.captureWarnings(capture=False)


def lines(err: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in err.splitlines()]


@dg.op
def count(context: dg.OpExecutionContext) -> None:
    context.log.debug("not of interest")
    context.log.info("took %d\nmessages", 3, extra={"received": 3, "delay_p95_seconds": inf, "queue": "q"})
    logging.getLogger("loginpipe.sqs").warning("slow")


@dg.op
def fail(context: dg.OpExecutionContext) -> None:
    raise ValueError("of no account")


def run(op: dg.OpDefinition) -> None:
    @dg.job(name="a_job")
    def a_job() -> None:
        op()

    with dg.DagsterInstance.ephemeral(settings={"python_logs": {"managed_python_loggers": ["loginpipe"]}}) as instance:
        a_job.execute_in_process(instance=instance, raise_on_error=False)


def test_in_production_a_line_is_json_with_what_was_given_as_extra(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logs(Settings(env="production"))
    run(count)
    info, warning = lines(capfd.readouterr().err)
    run_id = info.pop("run_id")
    assert info.pop("timestamp").endswith("+00:00")
    assert info == {
        "level": "info", "logger": "dagster", "event": "took 3\nmessages", "job": "a_job", "step": "count",
        "received": 3, "delay_p95_seconds": None, "queue": "q",
    }  # fmt: skip
    assert (warning["event"], warning["run_id"], warning["step"]) == ("slow", run_id, "count")


def test_a_failure_carries_its_error(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logs(Settings(env="production", log_level="ERROR"))
    run(fail)
    failures = lines(capfd.readouterr().err)
    assert {line["level"] for line in failures} == {"error"}
    assert any("ValueError: of no account" in line.get("error", "") and line.get("step") == "fail" for line in failures)


def test_locally_lines_are_for_people_from_the_same_level_on(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logs(Settings(log_level="WARNING"))
    run(count)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.endswith("count - slow")


def test_what_libraries_and_python_warn_of_is_json_too_and_once(capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        configure_logs(Settings(env="production"))
    logging.getLogger("some.library").warning("mind")
    logging.getLogger("some.library").info("never mind")
    warnings.warn("old", DeprecationWarning, stacklevel=1)
    try:
        {}["k"]
    except KeyError:
        logging.getLogger("loginpipe.ops").exception("lost")
    mind, old, lost = lines(capfd.readouterr().err)
    assert (mind["logger"], mind["event"]) == ("some.library", "mind")
    assert "DeprecationWarning: old" in old["event"]
    assert (lost["event"], lost["exception"].splitlines()[-1]) == ("lost", "KeyError: 'k'")
