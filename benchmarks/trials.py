"""Run one baseline at one size: prepare, measure, check that the work was done."""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.baselines.plain import TABLE, row
from benchmarks.catalogue import growth, read_catalogue
from benchmarks.comparison import Trial
from benchmarks.ground import MIGRATED, Ground, LoginQueue, execute, rows
from benchmarks.measuring import MeasuringError, Used, measured
from benchmarks.plan import OURS_NEW, SMALL_BATCH_MESSAGES, SMALL_BATCHES, Baseline, Sizes, Start, baselines
from benchmarks.workload import distinct_bodies


@dataclass
class Trials:
    """Runs trials on a ground. Workloads share no values, except where a baseline needs known values."""

    ground: Ground
    sizes: Sizes
    _next: int = 1
    _known: dict[int, tuple[str, list[str]]] = field(default_factory=dict)
    _plain: str | None = None

    def trial(self, baseline: Baseline, messages: int, repeat: int) -> Trial:
        """Measure a baseline once at a size.

        Raises:
            MeasuringError: it failed or did not finish its work.
        """
        template, bodies = self._beginning(baseline.start, messages)
        with (
            self.ground.database(template) as database_url,
            self.ground.queue() as queue,
            rows_file(bodies if "{rows}" in baseline.command else []) as file,
        ):
            before, catalogue = _count(database_url, baseline), read_catalogue(database_url)
            first, *others = _parts(bodies if baseline.receives else [], baseline.in_turn)
            self.ground.send(queue, first)
            endpoint, postgres = self.ground.endpoint_cpu_seconds(), self.ground.postgres_cpu_seconds()
            used = self._work(baseline, queue, database_url, file, others)
            trial = Trial(
                baseline.name,
                messages,
                repeat,
                used.wall_seconds,
                used.cpu_seconds,
                used.peak_bytes,
                self.ground.endpoint_cpu_seconds() - endpoint,
                self.ground.postgres_cpu_seconds() - postgres,
                growth(catalogue, read_catalogue(database_url)) if baseline.name == SMALL_BATCHES else {},
            )
            self._check(baseline, queue, database_url, _count(database_url, baseline) - before, messages)
        return trial

    def warm_up(self) -> None:
        """Run the pipeline once without measuring, so that Dagster creates its tables and Python its bytecode."""
        (ours,) = [baseline for baseline in baselines(self.sizes) if baseline.name == OURS_NEW]
        self.trial(ours, 10, 0)

    def bodies(self, count: int) -> list[str]:
        """Return message bodies with values that were not used before."""
        first, self._next = self._next, self._next + count
        return list(distinct_bodies(first, count))

    def _beginning(self, start: Start, messages: int) -> tuple[str, list[str]]:
        """Return the database to copy and the bodies to send."""
        if start is Start.KNOWN:
            if messages not in self._known:
                self._known[messages] = self._made_known(messages)
            return self._known[messages]
        if start is Start.PLAIN and self._plain is None:
            self._plain = self.ground.create_database("plain", "template1")
            execute(self.ground.url(self._plain), TABLE)
        return (self._plain if start is Start.PLAIN and self._plain else MIGRATED), self.bodies(messages)

    def _made_known(self, messages: int) -> tuple[str, list[str]]:
        """Run the pipeline without measuring; return the database that contains the values, and the bodies."""
        bodies = self.bodies(messages)
        name = self.ground.create_database(f"known_{messages}", MIGRATED)
        (ours,) = [baseline for baseline in baselines(self.sizes) if baseline.name == OURS_NEW]
        with self.ground.queue(bodies) as queue:
            self._work(ours, queue, self.ground.url(name), Path())
            self._check(ours, queue, self.ground.url(name), _count(self.ground.url(name), ours), messages)
        return name, bodies

    def _work(
        self,
        baseline: Baseline,
        queue: LoginQueue,
        database_url: str,
        file: Path,
        others: Sequence[Sequence[str]] = (),
    ) -> Used:
        """Run the processes of a baseline on the messages of the queue, then on each further part of the messages."""
        command = [part.format(queue_url=queue.url, rows=file) for part in baseline.command]
        variables = {**self.ground.variables(queue.name, database_url), **baseline.variables}
        turns = [self._together(baseline.at_once, command, variables)]
        for part in others:
            self.ground.send(queue, part)
            turns.append(self._together(baseline.at_once, command, variables))
        return Used(
            sum(turn.wall_seconds for turn in turns),
            sum(turn.cpu_seconds for turn in turns),
            max(turn.peak_bytes for turn in turns),
        )

    def _together(self, count: int, command: Sequence[str], variables: Mapping[str, str]) -> Used:
        began = time.monotonic()
        with ExitStack() as stack:
            running = [stack.enter_context(measured(command, variables, self.ground.folder)) for _ in range(count)]
            used = [process.used() for process in running]
        return Used(
            # A single process measures its own wall time.
            used[0].wall_seconds if count == 1 else time.monotonic() - began,
            sum(process.cpu_seconds for process in used),
            max(process.peak_bytes for process in used),
        )

    def _check(self, baseline: Baseline, queue: LoginQueue, database_url: str, written: int, messages: int) -> None:
        if baseline.start is not Start.NOTHING and written != messages:
            raise MeasuringError(f"{baseline.name}: {written} rows of {messages} messages")
        if baseline.receives and self.ground.deleted(queue.name) != messages:
            raise MeasuringError(f"{baseline.name}: of {messages} messages some are still on the queue")
        if baseline.start in (Start.MIGRATED, Start.KNOWN):
            ledger = {str(i) for (i,) in rows(database_url, "SELECT message_id FROM loginpipe.ingested_messages")}
            if not ledger.issuperset(queue.ids):
                raise MeasuringError(f"{baseline.name}: the ledger does not know every message")
            # One address and one device per message, sealed by this trial or by an earlier one.
            ((sealed,),) = rows(database_url, "SELECT count(*) FROM vault.sealed_values")
            if sealed != 2 * messages:
                raise MeasuringError(f"{baseline.name}: {sealed} values of {messages} messages are in the vault")
        if baseline.name == SMALL_BATCHES:
            ((batches,),) = rows(database_url, "SELECT count(*) FROM loginpipe.batches")
            if batches != messages // SMALL_BATCH_MESSAGES:
                raise MeasuringError(f"{baseline.name}: {messages} messages came in {batches} batches")
        if baseline.start is Start.MIGRATED:
            ((distinct,),) = rows(database_url, "SELECT count(DISTINCT user_id) FROM user_logins")
            if distinct != messages:
                raise MeasuringError(f"{baseline.name}: not every login is in the table once")


def _parts(bodies: Sequence[str], count: int) -> list[Sequence[str]]:
    """Split bodies into the given number of parts; the last part also gets the remainder."""
    size = len(bodies) // count
    return [bodies[place * size : (place + 1) * size if place + 1 < count else None] for place in range(count)]


@contextmanager
def rows_file(bodies: Sequence[str]) -> Iterator[Path]:
    """Write rows in the format that `benchmarks.baselines.copy_alone` reads."""
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    with tempfile.NamedTemporaryFile("w", prefix="loginpipe-rows-", suffix=".copy") as file:
        for arrival, body in enumerate(bodies):
            cells = (arrival, now_ms, f"{arrival:032x}", *row(body))
            file.write("\t".join("\\N" if cell is None else str(cell) for cell in cells) + "\n")
        file.flush()
        yield Path(file.name)


def _count(database_url: str, baseline: Baseline) -> int:
    if baseline.start is Start.NOTHING:
        return 0
    ((there,),) = rows(database_url, f"SELECT to_regclass('{baseline.table}')")
    if there is None:
        return 0
    ((count,),) = rows(database_url, f"SELECT count(*) FROM {baseline.table}")  # noqa: S608 - a name of our own
    return int(count)
