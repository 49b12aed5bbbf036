"""The brake: a run whose first messages are nearly all rejected ends before it rejects more. Pure.

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
    """Counts the outcomes of a run until it has accepted `ENOUGH_LOGINS`."""

    def __init__(self, *, queue: str, on: bool = True) -> None:
        """Count nothing yet.

        Args:
            queue: its name, for the error.
            on: whether to end a run at all.
        """
        self._queue = queue
        self._on = on
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
        self._reasons += reasons

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
            f"{self._rejected:,} of the first {seen:,} messages were rejected ({reasons}), so the run has ended and "
            f"the others return to queue {self._queue!r}: look at them with `loginpipe check --count 100`, then "
            "correct the setting or the sender, or set LOGINPIPE_BRAKE=off to reject them; "
            f"see {runbook('the-brake')}"
        )
