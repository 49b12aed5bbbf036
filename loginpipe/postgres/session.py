"""A database session that retries work on a new connection after a transient error."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import inf
from threading import Event, Thread
from typing import TypeVar

import psycopg2
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from loginpipe.common.errors import DatabaseError, runbook
from loginpipe.postgres.connections import Connection, connect

T = TypeVar("T")

RETRY_SECONDS = 60
"""Longer than a restart or failover of a managed Postgres. The leases of the messages are extended during that time."""

_LONGEST_PAUSE_SECONDS = 5
_LOCK_WAIT = "10s"
# Read-only because a failover made this server a replica; ended by the server because it was idle.
_NEEDS_ANOTHER_CONNECTION = frozenset({"25006", "25P03", "57P05"})

# Serialisation failure, deadlock, lock not available; the server shuts down, crashed, or starts up; too many
# connections; and class 08, connection exceptions.
_PASSING = frozenset({"40001", "40P01", "55P03", "57P01", "57P02", "57P03", "53300"})

_CANCELED = "57014"
# A statement that starts just after a cancel request is cancelled by the next one.
_CANCEL_SECONDS = 0.1

_log = logging.getLogger(__name__)


class OutOfTimeError(DatabaseError):
    """The time was up, so the work was not done or was rolled back."""


def is_passing(error: BaseException) -> bool:
    """Return True if an error may be transient, by its SQLSTATE."""
    # Not its subclasses.
    if not isinstance(error, DatabaseError) or type(error) is not DatabaseError:
        return False
    state = error.sqlstate
    return state is None or state.startswith("08") or state in _PASSING | _NEEDS_ANOTHER_CONNECTION


class Session:
    """One connection at a time. The first is opened at once, so that an unusable database is noticed first."""

    def __init__(
        self,
        database_url: str | Callable[[], str],
        *,
        retry_seconds: float = RETRY_SECONDS,
        give_up: Callable[[], bool] = lambda: False,
    ) -> None:
        """Connect, and raise as `connect`.

        If ``database_url`` is a function, it is called for each connection, because a password may change. Work with
        transient errors is retried for ``retry_seconds``, or until ``give_up`` returns True.
        """
        self._url = database_url
        self._retry_seconds = retry_seconds
        self._deadline = inf
        self.give_up = give_up
        self._connection = self._connected()

    def run(self, work: Callable[[Connection], T]) -> T:
        """Do work in its own transactions. Retry it after a transient error, on a new connection if needed.

        The work must have the same effect if repeated, because a commit may have succeeded without a response.

        Raises:
            OutOfTimeError: within `until`: the work was not started, or its transaction was rolled back.
            DatabaseError: permanent, or still failing after the retry time of this session.
        """
        if time.monotonic() >= self._deadline:
            raise OutOfTimeError("the time was up before the database was asked: run again")
        for attempt in Retrying(
            retry=retry_if_exception(is_passing),
            stop=self._is_enough,
            wait=wait_random_exponential(multiplier=0.2, max=_LONGEST_PAUSE_SECONDS),
            before_sleep=_log_pause,
            reraise=True,
        ):
            with attempt:
                if self._connection.closed:
                    self._connection = self._connected()
                return self._attempt(work)
        raise AssertionError  # the last attempt returned or raised

    @contextmanager
    def until(self, deadline: float) -> Iterator[None]:
        """Within this context, start no work after the deadline, and cancel a statement that runs then.

        The deadline is a time of `time.monotonic`.
        """
        ended = Event()
        thread = Thread(target=self._cancel_from, args=(deadline, ended), name="deadline", daemon=True)
        self._deadline = deadline
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self._deadline = inf

    def _cancel_from(self, deadline: float, ended: Event) -> None:
        pause = deadline - time.monotonic()
        while not ended.wait(max(pause, 0)):
            with suppress(psycopg2.Error):  # the connection may be closed
                self._connection.cancel()
            pause = _CANCEL_SECONDS

    def _connected(self) -> Connection:
        # A signal is handled only between statements, so no statement may wait long for a lock. It is retried.
        url = self._url if isinstance(self._url, str) else self._url()
        return connect(url, lock_timeout=_LOCK_WAIT)

    def _attempt(self, work: Callable[[Connection], T]) -> T:
        try:
            return work(self._connection)
        except DatabaseError as error:
            if error.sqlstate in _NEEDS_ANOTHER_CONNECTION:
                self._connection.close()
            if error.sqlstate == _CANCELED and time.monotonic() >= self._deadline:
                raise OutOfTimeError("the time was up while the database worked: run again", _CANCELED) from None
            raise

    def _is_enough(self, state: RetryCallState) -> bool:
        too_late = time.monotonic() + state.upcoming_sleep >= self._deadline
        return too_late or self.give_up() or stop_after_delay(self._retry_seconds)(state)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _log_pause(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    pause = state.next_action.sleep if state.next_action else 0
    _log.warning("%s; trying again in %.1f s; see %s", error, pause, runbook("source-down"))
