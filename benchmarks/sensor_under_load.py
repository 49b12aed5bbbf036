"""Measure the delay and the cost of a steady stream of messages, if only the sensor starts runs.

`make bench-sensor` runs `loginpipe dev` as a user does, with daemon and runs in separate processes, on the queue of an
endpoint that is never the bottleneck. It writes ``sensor.md`` and ``sensor.json``.
"""

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import psutil
import psycopg2
from dotenv import dotenv_values
from rich.console import Console

from benchmarks.catalogue import growth, read_catalogue
from benchmarks.comparison import Change
from benchmarks.ground import fast_endpoint, rows
from benchmarks.lag import Figure, Sample, cpu_us_a_message, delays, events_an_hour, quantile, schedule
from benchmarks.machine import load, machine
from benchmarks.report import table
from loginpipe.local.environment import create_login_queue
from loginpipe.local.sample_events import sample_bodies
from loginpipe_tests.e2e.project import Project, eventually, running_project, running_ui
from loginpipe_tests.sqs_endpoint import Endpoint

QUEUE: Final = "login-queue"
MAX_FIRST_SECONDS: Final = 10
MAX_CPU_US: Final = {5: 4_000, 167: 250, 1_000: 90}
"""Messages per second → maximum CPU microseconds per message."""
P50_MOST_SECONDS: Final = 0.5
P99_MOST_SECONDS: Final = 1.5
DELAYS_FROM_RATE: Final = 167
EVENTS_RATE: Final = 167
MAX_EVENTS: Final = 300
RUN_SECONDS: Final = 600
"""The default of LOGINPIPE_RUN_SECONDS."""

_FOLDER: Final = Path(__file__).parent / "report"
_SAMPLE_SECONDS: Final = 0.02
_POLL: Final = "SELECT coalesce(sum(inserted + duplicates + rejected), 0) FROM loginpipe.batches"
_ACTIVE: Final = "SELECT count(*) FROM runs WHERE status IN ('QUEUED', 'NOT_STARTED', 'STARTING', 'STARTED')"
_TICKS: Final = "SELECT count(*) FROM job_ticks"
_LAST_EVENT: Final = "SELECT coalesce(max(id), 0) FROM event_logs"
_RUNS: Final = "SELECT count(*) FROM runs WHERE pipeline_name = 'ingest_logins'"
# The events of every run, without its progress lines.
_OF_A_RUN: Final = """
    run_id IN (SELECT run_id FROM runs WHERE pipeline_name = 'ingest_logins') AND event NOT LIKE '%so far: received%'
"""
_HOW: Final = """\
- The project is as `loginpipe local up` makes it, with the shipped `dagster.yaml` and `loginpipe dev`; the sensor alone
  starts runs. The queue is on an endpoint on the same machine, without latency and without TLS.
- Messages arrive evenly: one by one at up to 50 a second, and every 20 ms above that.
- A delay is the time from sending a message to the first moment at which as many are stored as had been sent up to it.
  What is stored is asked for every 20 ms, so a delay is up to 20 ms too long.
- CPU is that of the daemon, the code server and all processes below them, runs included: not that of the web server, of
  Postgres and of the endpoint. Of a message: what they took meanwhile, less what they take without messages.
- Events an hour: those of one whole run for every 600 s, and lines of progress and everything else as they came.
"""


@dataclass(frozen=True)
class Rate:
    """The measurements at one rate of messages.

    Attributes:
        a_second: messages per second.
        last_sent_after: seconds from the first message to the last.
    """

    a_second: int
    messages: int
    last_sent_after: float
    p50_seconds: float
    p99_seconds: float
    worst_seconds: float
    cpu_us_a_message: float


@dataclass(frozen=True)
class Measured:
    """All measurements."""

    machine: dict[str, str]
    seconds_a_rate: float
    idle_seconds: float
    idle_cpu_a_second: float
    first_seconds: float
    rates: list[Rate]
    events_an_hour: float
    catalogue: dict[str, Change]
    runs: int


def main() -> None:
    """Measure, write the reports and print them."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sensor_under_load", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument("--seconds", type=float, default=120, help="for which messages arrive at each rate")
    parser.add_argument("--idle-seconds", type=float, default=60, help="for which nothing arrives before")
    parser.add_argument("--output", type=Path, default=_FOLDER, metavar="FOLDER", help="of the reports")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    options = parser.parse_args()
    console = Console(stderr=True)
    with TemporaryDirectory(prefix="loginpipe-bench-") as folder, fast_endpoint() as endpoint:
        # This replaces the endpoint of the stack, which slows down as its backlog grows.
        (Path(folder) / ".env").write_text(f"AWS_ENDPOINT_URL={endpoint.url}\n")
        create_login_queue(endpoint.client, QUEUE)
        with running_project(Path(folder)) as project, running_ui(project):
            found = _Measuring(project, endpoint, console).measured(options.seconds, options.idle_seconds)
    options.output.mkdir(parents=True, exist_ok=True)
    document = {**asdict(found), "figures": [{**asdict(figure), "met": figure.met} for figure in figures(found)]}
    (options.output / "sensor.json").write_text(json.dumps(document, indent=1) + "\n")
    (options.output / "sensor.md").write_text(markdown(found))
    sys.stdout.write(json.dumps(document) + "\n" if options.json else markdown(found))


def figures(found: Measured) -> Iterator[Figure]:
    """Yield the reported figures, with their targets if they have any."""
    yield Figure(
        "CPU of daemon and code server while nothing arrives, ms a second", None, found.idle_cpu_a_second * 1000
    )
    yield Figure("the first message after an idle time, from sent to stored, s", MAX_FIRST_SECONDS, found.first_seconds)
    for rate in found.rates:
        of_delays = rate.a_second >= DELAYS_FROM_RATE
        at = f"at {rate.a_second:,} messages a second"
        yield Figure(f"{at}: delay, p50, s", P50_MOST_SECONDS if of_delays else None, rate.p50_seconds)
        yield Figure(f"{at}: delay, p99, s", P99_MOST_SECONDS if of_delays else None, rate.p99_seconds)
        yield Figure(f"{at}: CPU a message, µs", MAX_CPU_US[rate.a_second], rate.cpu_us_a_message)
    yield Figure(f"at {EVENTS_RATE:,} messages a second: Dagster's events an hour", MAX_EVENTS, found.events_an_hour)


def markdown(found: Measured) -> str:
    """Return the report for people."""
    return "\n".join(_lines(found)).rstrip() + "\n"


def _lines(found: Measured) -> Iterator[str]:
    yield "# Messages that keep coming\n"
    yield (
        f"{found.seconds_a_rate:g} seconds at each rate, after {found.idle_seconds:g} seconds without messages; "
        f"{found.runs} runs.\n"
    )
    yield from table(
        ("figure", "target", "measured", "met"),
        (
            (
                figure.name, "-" if figure.target is None else f"{figure.target:,g}", f"{figure.measured:,.2f}",
                {True: "yes", False: "**no**", None: "-"}[figure.met],
            )
            for figure in figures(found)
        ),
    )  # fmt: skip
    yield "Postgres' catalogue before and after all rates:\n"
    yield from table(
        ("", "before", "after"),
        ((name, f"{change.before:,}", f"{change.after:,}") for name, change in found.catalogue.items()),
    )
    yield "## Machine\n"
    yield from table(("", ""), found.machine.items())
    yield "## How it was measured\n"
    yield _HOW


class _Measuring:
    """Measures a project whose daemon is running."""

    def __init__(self, project: Project, endpoint: Endpoint, console: Console) -> None:
        variables = dotenv_values(project.folder / ".env")
        self._database_url = str(variables["LOGINPIPE_DATABASE_URL"])
        self._dagster_url = str(variables["DAGSTER_POSTGRES_URL"]).replace("postgresql+psycopg2://", "postgresql://", 1)
        self._endpoint = endpoint
        self._console = console
        self._processes = dagster_processes()

    def measured(self, seconds: float, idle_seconds: float) -> Measured:
        """Measure everything in sequence."""
        described = machine(self._database_url)
        # By then the code is loaded, and all sensors have been evaluated.
        eventually(lambda: self._figure(_TICKS) > 0, seconds=120, what="the sensors are asked")
        self._say(f"nothing arrives for {idle_seconds:g} seconds")
        idle_cpu_a_second = self._idle_cpu_a_second(idle_seconds)
        self._say("the first message")
        first = self._first_seconds()
        catalogue = read_catalogue(self._database_url)
        found, events = [], (0, 0.0)
        for a_second in MAX_CPU_US:
            self._say(f"{a_second:,} messages a second for {seconds:g} seconds")
            before, began = self._last_event(), time.monotonic()
            found.append(self._at_rate(a_second, seconds, idle_cpu_a_second))
            if a_second == EVENTS_RATE:
                events = self._steady_events_since(before), time.monotonic() - began
        grown = growth(catalogue, read_catalogue(self._database_url))
        self._say("the run ends, a minute after its last message")
        eventually(lambda: self._figure(_ACTIVE) == 0, seconds=300, what="the runs have ended")
        described["load at the end"] = load()
        runs = self._figure(_RUNS)
        of_a_run = self._figure(f"SELECT count(*) FROM event_logs WHERE {_OF_A_RUN}") / runs  # noqa: S608
        return Measured(
            machine=described,
            seconds_a_rate=seconds,
            idle_seconds=idle_seconds,
            idle_cpu_a_second=idle_cpu_a_second,
            first_seconds=first,
            rates=found,
            events_an_hour=events_an_hour(of_a_run, RUN_SECONDS, *events),
            catalogue=grown,
            runs=runs,
        )

    def _idle_cpu_a_second(self, seconds: float) -> float:
        before, began = cpu_seconds(self._processes), time.monotonic()
        time.sleep(seconds)
        return (cpu_seconds(self._processes) - before) / (time.monotonic() - began)

    def _first_seconds(self) -> float:
        with self._samples() as samples:
            sent = [time.monotonic()]
            self._endpoint.send(QUEUE, sample_bodies(1, seed=1, bad_share=0))
            self._await(samples, 1)
        return delays(sent, samples)[0]

    def _at_rate(self, a_second: int, seconds: float, idle_cpu_a_second: float) -> Rate:
        groups = schedule(a_second, seconds)
        bodies = list(sample_bodies(sum(count for _, count in groups), seed=a_second))
        sent: list[float] = []
        before = cpu_seconds(self._processes)
        with self._samples() as samples:
            began = time.monotonic()
            for offset, count in groups:
                time.sleep(max(0.0, began + offset - time.monotonic()))
                group = bodies[len(sent) : len(sent) + count]
                sent += [time.monotonic()] * count
                self._endpoint.send(QUEUE, group)
            self._await(samples, len(sent))
        used, lasted = cpu_seconds(self._processes) - before, time.monotonic() - began
        found = delays(sent, samples)
        return Rate(
            a_second=a_second,
            messages=len(sent),
            last_sent_after=sent[-1] - began,
            p50_seconds=quantile(found, 0.5),
            p99_seconds=quantile(found, 0.99),
            worst_seconds=max(found),
            cpu_us_a_message=cpu_us_a_message(used, idle_cpu_a_second, lasted, len(sent)),
        )

    @contextmanager
    def _samples(self) -> Iterator[list[Sample]]:
        """Sample the number of messages stored since the start of the context, until it ends."""
        samples: list[Sample] = []
        stop = threading.Event()
        with closing(psycopg2.connect(self._database_url)) as connection:
            connection.autocommit = True
            before = _stored(connection)

            def sample() -> None:
                while not stop.wait(_SAMPLE_SECONDS):
                    stored = _stored(connection) - before
                    samples.append(Sample(time.monotonic(), stored))

            thread = threading.Thread(target=sample, name="samples")
            thread.start()
            try:
                yield samples
            finally:
                stop.set()
                thread.join()

    def _await(self, samples: Sequence[Sample], messages: int) -> None:
        eventually(
            lambda: samples and samples[-1].stored >= messages, seconds=300, what=f"{messages} messages are stored"
        )

    def _last_event(self) -> int:
        return self._figure(_LAST_EVENT)

    def _steady_events_since(self, event: int) -> int:
        """Count the later events that do not come with every run: progress lines, and events of other jobs."""
        return self._figure(f"SELECT count(*) FROM event_logs WHERE id > {event} AND NOT ({_OF_A_RUN})")  # noqa: S608

    def _figure(self, query: str) -> int:
        ((figure,),) = rows(self._dagster_url, query)
        return int(figure)

    def _say(self, line: str) -> None:
        self._console.log(line, highlight=False)


def _stored(connection: Any) -> int:
    with connection.cursor() as cursor:
        cursor.execute(_POLL)
        ((stored,),) = cursor.fetchall()
    return int(stored)


def dagster_processes() -> list[psutil.Process]:
    """Return the child processes that `dg dev` started, except the web server.

    They are the daemon, and the code server, whose children are the runs.
    """
    (dev,) = [process for process in psutil.Process().children(recursive=True) if _has(process, "dev", "--workspace")]
    return [process for process in dev.children() if not _has(process, "dagster_webserver")]


def _has(process: psutil.Process, *arguments: str) -> bool:
    command = _asked(process.cmdline) or []
    return any(tuple(command[place : place + len(arguments)]) == arguments for place in range(len(command)))


def cpu_seconds(roots: Sequence[psutil.Process]) -> float:
    """Return the user and system CPU seconds of processes and all their descendants so far, including ended ones."""
    seconds = 0.0
    for process in (one for root in roots for one in (root, *root.children(recursive=True))):
        times = _asked(process.cpu_times)
        if times is not None:
            seconds += times.user + times.system + times.children_user + times.children_system
    return seconds


def _asked(question: Callable[[], Any]) -> Any:
    """Return the answer of a process, or None if it has ended since."""
    try:
        return question()
    except psutil.NoSuchProcess:
        return None


if __name__ == "__main__":
    main()
