"""One contender at one size: prepare, measure, check that the work was done."""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.comparison import Trial
from benchmarks.contenders.plain import TABLE, row
from benchmarks.ground import MIGRATED, Ground, LoginQueue, execute, rows
from benchmarks.measuring import MeasuringError, Used, measured
from benchmarks.plan import OURS_NEW, Contender, Sizes, Start, contenders
from benchmarks.workload import distinct_bodies

_MORE_RUNS_MOST = 4


@dataclass
class Trials:
    """Makes trials on a ground. No two workloads share a value, unless they are to."""

    ground: Ground
    sizes: Sizes
    _next: int = 1
    _known: dict[int, tuple[str, list[str]]] = field(default_factory=dict)
    _plain: str | None = None

    def trial(self, contender: Contender, messages: int, repeat: int) -> Trial:
        """Measure a contender at a size, once.

        Raises:
            MeasuringError: it failed, or left work undone.
        """
        template, bodies = self._beginning(contender.start, messages)
        with (
            self.ground.database(template) as database_url,
            self.ground.queue(bodies if contender.receives else []) as queue,
            rows_file(bodies if "{rows}" in contender.command else []) as file,
        ):
            before = _count(database_url, contender)
            endpoint, postgres = self.ground.endpoint_cpu_seconds(), self.ground.postgres_cpu_seconds()
            used = self._work(contender, queue, database_url, file)
            trial = Trial(
                contender.name,
                messages,
                repeat,
                used.wall_seconds,
                used.cpu_seconds,
                used.peak_bytes,
                self.ground.endpoint_cpu_seconds() - endpoint,
                self.ground.postgres_cpu_seconds() - postgres,
            )
            self._check(contender, queue, database_url, _count(database_url, contender) - before, messages)
        return trial

    def warm_up(self) -> None:
        """Run the pipeline once, unmeasured: Dagster makes its tables, Python its byte code."""
        (ours,) = [contender for contender in contenders(self.sizes) if contender.name == OURS_NEW]
        self.trial(ours, 10, 0)

    def bodies(self, count: int) -> list[str]:
        """Return bodies whose values no earlier ones had."""
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
        """Run the pipeline on bodies, unmeasured; return the database that knows their values, and the bodies."""
        bodies = self.bodies(messages)
        name = self.ground.create_database(f"known_{messages}", MIGRATED)
        (ours,) = [contender for contender in contenders(self.sizes) if contender.name == OURS_NEW]
        with self.ground.queue(bodies) as queue:
            self._work(ours, queue, self.ground.url(name), Path())
            self._check(ours, queue, self.ground.url(name), _count(self.ground.url(name), ours), messages)
        return name, bodies

    def _work(self, contender: Contender, queue: LoginQueue, database_url: str, file: Path) -> Used:
        """Run its processes; where the queue still holds messages when they are done, more of them, in turn."""
        runs = contender.in_turn * contender.at_once
        command = [part.format(queue_url=queue.url, rows=file) for part in contender.command]
        variables = {
            **self.ground.variables(queue.name, database_url),
            **contender.variables,
            # Rounded up. At least one, as the queue may be empty.
            "LOGINPIPE_BATCH_MESSAGES": str(max(1, -(-len(queue.ids) // runs))),
        }
        began = time.monotonic()
        used = [one for _ in range(contender.in_turn) for one in self._together(contender.at_once, command, variables)]
        # Of several, one may find the queue empty for a moment, and end before its batch is full.
        while runs > 1 and len(used) < runs + _MORE_RUNS_MOST and self.ground.waiting(queue.name):
            used += self._together(1, command, variables)
        wall = used[0].wall_seconds if len(used) == 1 else time.monotonic() - began
        return Used(wall, sum(u.cpu_seconds for u in used), max(u.peak_bytes for u in used))

    def _together(self, count: int, command: Sequence[str], variables: Mapping[str, str]) -> list[Used]:
        with ExitStack() as stack:
            running = [stack.enter_context(measured(command, variables, self.ground.folder)) for _ in range(count)]
            return [process.used() for process in running]

    def _check(self, contender: Contender, queue: LoginQueue, database_url: str, written: int, messages: int) -> None:
        if contender.start is not Start.NOTHING and written != messages:
            raise MeasuringError(f"{contender.name}: {written} rows of {messages} messages")
        if contender.receives and self.ground.deleted(queue.name) != messages:
            raise MeasuringError(f"{contender.name}: of {messages} messages some are still on the queue")
        if contender.start in (Start.MIGRATED, Start.KNOWN):
            ledger = {str(i) for (i,) in rows(database_url, "SELECT message_id FROM loginpipe.ingested_messages")}
            if not ledger.issuperset(queue.ids):
                raise MeasuringError(f"{contender.name}: the ledger does not know every message")
            # An address and a device a message, whether this trial or the one before it sealed them.
            ((sealed,),) = rows(database_url, "SELECT count(*) FROM vault.sealed_values")
            if sealed != 2 * messages:
                raise MeasuringError(f"{contender.name}: {sealed} values of {messages} messages are in the vault")
        if contender.start is Start.MIGRATED:
            ((distinct,),) = rows(database_url, "SELECT count(DISTINCT user_id) FROM user_logins")
            if distinct != messages:
                raise MeasuringError(f"{contender.name}: not every login is in the table once")


@contextmanager
def rows_file(bodies: Sequence[str]) -> Iterator[Path]:
    """Write rows as `benchmarks.contenders.copy_alone` copies them."""
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    with tempfile.NamedTemporaryFile("w", prefix="loginpipe-rows-", suffix=".copy") as file:
        for arrival, body in enumerate(bodies):
            cells = (arrival, now_ms, f"{arrival:032x}", *row(body))
            file.write("\t".join("\\N" if cell is None else str(cell) for cell in cells) + "\n")
        file.flush()
        yield Path(file.name)


def _count(database_url: str, contender: Contender) -> int:
    if contender.start is Start.NOTHING:
        return 0
    ((there,),) = rows(database_url, f"SELECT to_regclass('{contender.table}')")
    if there is None:
        return 0
    ((count,),) = rows(database_url, f"SELECT count(*) FROM {contender.table}")  # noqa: S608 - a name of our own
    return int(count)
