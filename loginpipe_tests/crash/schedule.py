"""A random schedule of failures: of the endpoint, of the runs, of Postgres, and leases that end early.

The same seed makes the same decisions. Their effects depend on the speed of the machine.
"""

import signal
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from random import Random
from threading import Event, Thread
from typing import Any, Final

import psycopg2

from loginpipe_tests.crash.place import VISIBILITY_SECONDS, FastPlace
from loginpipe_tests.crash.points import Point
from loginpipe_tests.crash.postgres import Postgres
from loginpipe_tests.crash.reconciliation import balance
from loginpipe_tests.crash.runs import Run

RECEIVE, EXTEND, DELETE = "ReceiveMessage", "ChangeMessageVisibilityBatch", "DeleteMessageBatch"

FAULTS: Final[tuple[dict[str, Any], ...]] = (
    {"kind": "throttle", "probability": 0.03},
    {"kind": "internal_error", "probability": 0.03},
    {"kind": "unavailable", "probability": 0.03},
    {"kind": "drop", "probability": 0.03},
    {"kind": "delay", "probability": 0.03, "seconds": 0.3},
    {"kind": "drop", "action": RECEIVE, "probability": 0.05, "effect": True},
    {"kind": "duplicate", "action": RECEIVE, "probability": 0.1},
    {"kind": "tamper", "action": RECEIVE, "probability": 0.01},
    {"kind": "drop", "action": DELETE, "probability": 0.1, "effect": True},
    {"kind": "error", "action": DELETE, "probability": 0.1, "effect": True},
    {"kind": "fail_entry", "action": DELETE, "probability": 0.1},
    {"kind": "fail_entry", "action": DELETE, "probability": 0.1, "effect": True},
    {
        "kind": "fail_entry",
        "action": DELETE,
        "probability": 0.05,
        "code": "ReceiptHandleIsInvalid",
        "sender_fault": True,
    },
    {"kind": "undelete", "action": DELETE, "probability": 0.05, "seconds": 1},
    {"kind": "fail_entry", "action": EXTEND, "probability": 0.3},
)

_HOWS: Final = ("kill", "kill", "term", "interrupt")
_UNHARMED_SHARE: Final = 0.4
_MAX_ROUNDS: Final = 200
_DONE_SHARE: Final = 0.02

KILLED: Final = "runs that were killed"
POSTGRES: Final = ("postgres restarted", "postgres crashed", "connections cut")
ENDPOINT: Final = "endpoint: "
"""Prefix of the names of the endpoint's injected errors."""

_Misfortune = tuple[float, str, Callable[[], object]]
"""A delay in seconds, a name, and the action."""


@dataclass
class Schedule:
    """Rounds of runs and failures on one queue until nearly all messages are processed, then an end without failures.

    Attributes:
        batch: average number of messages in a batch; a run takes several batches.
        happened: how often each failure happened, and how the runs ended.
    """

    place: FastPlace
    postgres: Postgres
    rng: Random
    batch: int
    happened: Counter[str] = field(default_factory=Counter)

    def broken(self) -> dict[str, int]:
        """Return the number of failures of each kind: killed runs, errors of the endpoint, failures of Postgres."""
        return {
            KILLED: self.happened[KILLED],
            ENDPOINT: sum(times for what, times in self.happened.items() if what.startswith(ENDPOINT)),
            "postgres": sum(self.happened[what] for what in POSTGRES),
        }

    def carry_out(self) -> None:
        """Break things, reconcile after each round, then let runs without failures process the rest."""
        for _ in range(_MAX_ROUNDS):
            self._round()
            balance(self.place)
            self.place.endpoint.advance(VISIBILITY_SECONDS + 1)
            # The other messages have an outcome or are dead letters, which are redriven at the end.
            if self.place.waiting() < len(self.place.sent) * _DONE_SHARE:
                break
        self.place.finish()

    def _round(self) -> None:
        self.happened["rounds"] += 1
        self.place.endpoint.seed(self.rng.randrange(1 << 30))
        for fault in self.rng.sample(FAULTS, self.rng.randint(1, 4)):
            self.place.endpoint.add_fault(**{"queue": self.place.queue.name, **fault})
        with ExitStack() as stack:
            runs = [stack.enter_context(self._started()) for _ in range(self.rng.randint(1, 4))]
            over = Event()
            thread = Thread(target=self._go_wrong, args=(self._misfortunes(runs), over))
            thread.start()
            for run in runs:
                self.happened[_end(run.wait(300))] += 1
            over.set()
            thread.join()
        for fault in self.place.endpoint.clear_faults():
            what = f"{ENDPOINT}{fault['action']} {fault['kind']}{' with effect' * fault['effect']}"
            self.happened[what] += fault["fired"]

    def _started(self) -> Run:
        batch = max(1, int(self.batch * self.rng.uniform(0.3, 1.7)))
        if self.rng.random() < _UNHARMED_SHARE:
            return self.place.start(batch_messages=batch)
        point, how, of = self.rng.choice(list(Point)), self.rng.choice(_HOWS), self.rng.randint(1, 3)
        return self.place.start(point, how, of, batch_messages=batch)

    def _misfortunes(self, runs: list[Run]) -> list[_Misfortune]:
        # Chosen here, because the choice must not depend on the speed of the machine, unlike whether it is used.
        victim = self.rng.choice(runs)
        kinds: list[tuple[str, Callable[[], object]]] = [
            *zip(POSTGRES, (self.postgres.restart, self.postgres.crash, self._cut), strict=True),
            ("leases ended early", lambda: self.place.endpoint.advance(VISIBILITY_SECONDS + 1)),
            ("killed at any time", lambda: _kill(victim)),
        ]
        return [(self.rng.uniform(0.2, 1.5), *kind) for kind in self.rng.choices(kinds, k=self.rng.randint(0, 2))]

    def _go_wrong(self, misfortunes: list[_Misfortune], over: Event) -> None:
        for pause, name, do in misfortunes:
            if over.wait(pause):
                return
            do()
            self.happened[name] += 1

    def _cut(self) -> None:
        with suppress(psycopg2.Error):
            self.place.rows(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND application_name = 'loginpipe'"
            )


def _kill(run: Run) -> None:
    with suppress(ProcessLookupError):
        run.signal(signal.SIGKILL)


def _end(code: int) -> str:
    return {0: "runs that succeeded", -signal.SIGKILL: KILLED}.get(code, "runs that failed")
