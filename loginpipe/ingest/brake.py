"""The brake: it ends a run, and refuses Lambda's batches, if nearly all of the first messages are rejected. Pure.

Otherwise a wrong setting or a changed producer would turn a whole backlog into rejects overnight.
"""

from collections import Counter
from dataclasses import dataclass, field

from loginpipe.common.errors import BrakeError, runbook
from loginpipe.ingest.process import Outcome
from loginpipe.logins.rejects import Reason
from loginpipe.logins.splitting import count_reasons

FIRST_MESSAGES = 100
"""The number of messages that decide. A batch has no more until the brake is off, so that few messages are rejected."""

MAX_RATE = 0.9
"""The share of rejected messages at which a run ends."""

ENOUGH_LOGINS = 50
"""The number of accepted logins after which the brake is off for the rest of the run."""


@dataclass(kw_only=True)
class Brake:
    """Counts the outcomes of a run or of an execution environment until `ENOUGH_LOGINS` are accepted.

    The error names ``queue`` and says with ``then`` what happens to the messages. If ``on`` is False, no run ends.
    """

    queue: str
    on: bool = True
    then: str = "the run has ended and the others return"
    _accepted: int = 0
    _rejected: int = 0
    _reasons: Counter[str] = field(default_factory=Counter)

    @property
    def batch_limit(self) -> int | None:
        """Return the maximum number of messages of the next batch; None if the brake sets no limit."""
        return FIRST_MESSAGES if self.on and self._accepted < ENOUGH_LOGINS else None

    def add(self, outcome: Outcome) -> None:
        """Add the recorded outcome of a batch. Logins of erased users do not count, because they were good."""
        if self.batch_limit is None:
            return
        reasons = count_reasons(outcome.rejected)
        erased = reasons.pop(Reason.USER_ERASED, 0)
        self._accepted += len(outcome.logins)
        self._rejected += len(outcome.rejected) - erased
        # A new object, because `check_before_recording` keeps the old counts.
        self._reasons = self._reasons + reasons

    def check_before_recording(self, outcome: Outcome) -> None:
        """Raise the error of `check` if this outcome would end a run. Call `add` when it is recorded.

        A refused outcome counts too. Otherwise, after many bad messages, small batches of good ones would stay refused.
        """
        before = self._accepted, self._rejected, self._reasons
        self.add(outcome)
        self.check()
        self._accepted, self._rejected, self._reasons = before

    def check(self) -> None:
        """Raise a `BrakeError` if at least 100 messages were processed and at least 90 % of them were rejected."""
        seen = self._accepted + self._rejected
        if self.batch_limit is None or seen < FIRST_MESSAGES or self._rejected < MAX_RATE * seen:
            return
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in self._reasons.most_common())
        raise BrakeError(
            f"{self._rejected:,} of the first {seen:,} messages were rejected ({reasons}), so {self.then} to queue "
            f"{self.queue!r}: look at them with `loginpipe check --count 100`, then correct the setting or the "
            f"sender, or set LOGINPIPE_BRAKE=off to reject them; see {runbook('the-brake')}"
        )
