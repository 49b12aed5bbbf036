"""Measure time, CPU and memory of a call of the AWS Lambda handler, by the number of messages in it.

`make bench-lambda` runs the real runtime interface client, in a process like those of Lambda, against a runtime API on
loopback. For each size it makes several calls in one environment, each with new messages. It writes ``lambda.json``.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import md5
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import psutil
from rich.console import Console

from benchmarks.ground import MIGRATED, Ground, running_ground
from benchmarks.machine import machine
from benchmarks.measuring import MeasuringError
from benchmarks.report import table
from benchmarks.workload import distinct_bodies
from loginpipe_tests.crash.runs import fresh
from loginpipe_tests.lambda_service import HANDLER, Environment, environment, record

SIZES: Final = (10, 1_000, 10_000)
CALLS: Final = 5
_REPORT: Final = Path(__file__).parent / "report" / "lambda.json"
# As long as those of SQS, because the length counts towards the 6 MB limit of a call.
_HANDLE: Final = "AQEB" + "x" * 408


@dataclass(frozen=True)
class Calls:
    """The cost of calls of one size. ``first_…`` are the seconds and CPU seconds of the first call.

    Attributes:
        start_seconds: from the start of the process until it requested its first call.
        peak_bytes: the peak memory of the process, after all its calls.
    """

    messages: int
    event_bytes: int
    start_seconds: float
    start_cpu_seconds: float
    first_seconds: float
    first_cpu_seconds: float
    seconds: float
    cpu_seconds: float
    peak_bytes: int


def main() -> None:
    """Measure, write the report and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.aws_lambda", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--json", action="store_true", help="print JSON only")
    options = parser.parse_args()
    with running_ground() as ground:
        about = machine(ground.stack.database_url)
        found = [calls_of(ground, size) for size in SIZES]
    report = {"machine": about, "calls": [asdict(calls) for calls in found]}
    _REPORT.write_text(json.dumps(report, indent=1) + "\n")
    if options.json:
        json.dump(report, sys.stdout, indent=1)
        sys.stdout.write("\n")
        return
    columns = ("messages", "event, MB", "start, s", "first call, s", "call, ms", "CPU, µs a message", "peak, MB")
    lines = "\n".join(table(columns, [row(calls) for calls in found]))
    Console().print(lines, markup=False, highlight=False, soft_wrap=True)


def row(calls: Calls) -> Sequence[str]:
    """Return a row of the table."""
    return (
        f"{calls.messages:,}",
        f"{calls.event_bytes / 1e6:.2f}",
        f"{calls.start_seconds:.2f}",
        f"{calls.first_seconds:.2f}",
        f"{calls.seconds * 1000:,.0f}",
        f"{calls.cpu_seconds / calls.messages * 1e6:,.0f}",
        f"{calls.peak_bytes / 1e6:.0f}",
    )


def calls_of(ground: Ground, messages: int) -> Calls:
    """Measure calls of one size, in their own environment and database."""
    events = [event(messages, seed) for seed in range(CALLS + 1)]
    with ground.database(MIGRATED) as database_url, started(ground, database_url) as running:
        process = psutil.Process(running.process.pid)
        began = time.monotonic()
        running.api.until_asked()
        start_seconds, start_cpu = time.monotonic() - began, cpu_seconds(process)
        took = []
        for one in events:
            before, at = cpu_seconds(process), time.monotonic()
            if running.invoke(one, seconds=900).failed:
                raise MeasuringError("a call has returned messages to the queue")
            took.append((time.monotonic() - at, cpu_seconds(process) - before))
        first, *others = took
        return Calls(
            messages,
            len(json.dumps(events[0])),
            start_seconds,
            start_cpu,
            *first,
            statistics.median(seconds for seconds, _ in others),
            statistics.median(cpu for _, cpu in others),
            peak_bytes(process.pid),
        )


@contextmanager
def started(ground: Ground, database_url: str) -> Iterator[Environment]:
    """Start an execution environment as Lambda does."""
    folder = ground.folder / f"lambda-{uuid4().hex}"
    folder.mkdir()
    variables = ground.variables("login-queue", database_url)

    with environment(
        lambda address: fresh(folder, variables | {"AWS_LAMBDA_RUNTIME_API": address}, ["-m", "awslambdaric", HANDLER])
    ) as running:
        yield running


def event(messages: int, seed: int) -> dict[str, Any]:
    """Return the event of a call with only new messages."""
    sent_ms = str(time.time_ns() // 1_000_000)
    attributes = {"SentTimestamp": sent_ms, "ApproximateReceiveCount": "1"}
    attributes |= {"ApproximateFirstReceiveTimestamp": sent_ms, "SenderId": "A" * 21}
    return {
        "Records": [
            record(
                {
                    "MessageId": str(uuid4()),
                    "ReceiptHandle": _HANDLE,
                    "Body": body,
                    "MD5OfBody": md5(body.encode(), usedforsecurity=False).hexdigest(),
                    "Attributes": attributes,
                },
                "login-queue",
            )
            for body in distinct_bodies(1 + seed * messages, messages)
        ]
    }


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU seconds that a process has used so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


def peak_bytes(pid: int) -> int:
    """Return the peak memory of a process."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
