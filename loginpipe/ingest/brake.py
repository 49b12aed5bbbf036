"""The brake: where the first messages are nearly all rejected, a run ends, and AWS Lambda records none of them. Pure.

A wrong setting or a changed producer would otherwise turn a whole backlog into rejects overnight.
"""

from collections import Counter

from loginpipe.common.errors import BrakeError
from loginpipe.common.runbook import runbook
from loginpipe.ingest.process import Outcome
from loginpipe.logins.rejects import Reason
from loginpipe.logins.splitting import count_reasons

FIRST_MESSAGES = 100
"""So many messages decide; batches have no more until the brake is off, so that no more are rejected than it takes."""

MAX_RATE = 0.9
"""The share of rejected messages from which on a run ends."""

ENOUGH_LOGINS = 50
"""After so many accepted logins the brake is off for the rest of the run."""


class Brake:
    """Counts the outcomes of a run, or of an execution environment, until it has accepted `ENOUGH_LOGINS`."""

    def __init__(self, *, queue: str, on: bool = True, then: str = "the run has ended and the others return") -> None:
        """Count nothing yet.

        Args:
            queue: its name, for the error.
            on: whether to end a run at all.
            then: what becomes of the run or the messages, for the error.
        """
        self._queue = queue
        self._on = on
        self._then = then
        self._accepted = 0
        self._rejected = 0
        self._reasons: Counter[str] = Counter()

    @property
    def batch_limit(self) -> int | None:
        """How many messages the next batch may have; None where the brake sets no limit."""
        return FIRST_MESSAGES if self._on and self._accepted < ENOUGH_LOGINS else None

    def add(self, outcome: Outcome) -> None:
        """Add what was recorded of a batch. Logins of erased users were good ones: they do not count."""
        if self.batch_limit is None:
            return
        reasons = count_reasons(outcome.rejected)
        erased = reasons.pop(Reason.USER_ERASED, 0)
        self._accepted += len(outcome.logins)
        self._rejected += len(outcome.rejected) - erased
        # Not in place: `check_before_recording` keeps what was counted before.
        self._reasons = self._reasons + reasons

    def check_before_recording(self, outcome: Outcome) -> None:
        """Refuse an outcome with which `check` would end a run. Call `add` once it is recorded.

        A refused outcome counts: otherwise small batches of good messages could not end what large bad ones began.

        Raises:
            BrakeError: as `check`.
        """
        before = self._accepted, self._rejected, self._reasons
        self.add(outcome)
        self.check()
        self._accepted, self._rejected, self._reasons = before

    def check(self) -> None:
        """End the run where at least 100 messages were processed, and at least 90 % of them rejected.

        Raises:
            BrakeError: names the reasons with their counts.
        """
        seen = self._accepted + self._rejected
        if self.batch_limit is None or seen < FIRST_MESSAGES or self._rejected < MAX_RATE * seen:
            return
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in self._reasons.most_common())
        raise BrakeError(
            f"{self._rejected:,} of the first {seen:,} messages were rejected ({reasons}), so {self._then} to queue "
            f"{self._queue!r}: look at them with `loginpipe check --count 100`, then correct the setting or the "
            f"sender, or set LOGINPIPE_BRAKE=off to reject them; see {runbook('the-brake')}"
        )
