"""The totals of a run over its batches. They hold counts, names and times only, and their size is bounded."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import date

from loginpipe.ingest.record import Recorded
from loginpipe.logins.delays import DELAY_BOUNDS
from loginpipe.logins.extras import MAX_NAMES, OTHER_NAMES
from loginpipe.logins.splitting import count_reasons
from loginpipe.sqs.deletion import Deletion
from loginpipe.sqs.receiver import Received

_MINUTE_MS = 60_000
# A week of minutes. If messages come from more minutes, the oldest are left out of the plot.
_MAX_MINUTES = 7 * 24 * 60


@dataclass
class RunTotals:
    """Sums over the batches of a run.

    Attributes:
        rejected: messages that are invalid, of an erased user, or refused by the database.
        recorded_rejects: those of them whose rejection this run recorded; the others were recorded before.
        bad: `rejected` without the logins of erased users.
        minutes: minute since 1970 → messages sent in it.
        seen_before: field → logins whose value came before.
        rows_by_day: UTC date → rows inserted.
        delays: rows by their delay from sent to stored: `loginpipe.logins.delays`.
        sent_ms: the oldest and the newest SentTimestamp; None if nothing was received.
    """

    batches: int = 0
    received: int = 0
    redelivered: int = 0
    accepted: int = 0
    rejected: int = 0
    recorded_rejects: int = 0
    bad: int = 0
    inserted: int = 0
    duplicates: int = 0
    sealed: int = 0
    null_locales: int = 0
    aliases: int = 0
    deleted: int = 0
    delete_failures: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    unknown_fields: Counter[str] = field(default_factory=Counter)
    seen_before: Counter[str] = field(default_factory=Counter)
    rows_by_day: Counter[date] = field(default_factory=Counter)
    minutes: Counter[int] = field(default_factory=Counter)
    delays: list[int] = field(default_factory=lambda: [0] * (len(DELAY_BOUNDS) + 1))
    sent_ms: tuple[int, int] | None = None

    def add_received(self, batch: Received) -> None:
        """Add what is known of a batch before it is processed."""
        self.redelivered += batch.redelivered

    def add(self, recorded: Recorded) -> None:
        """Add a batch that was recorded."""
        outcome, record = recorded.outcome, recorded.record
        self.batches += 1
        self.received += record.received
        self.accepted += record.accepted
        self.rejected += len(outcome.rejected)
        self.recorded_rejects += record.rejected
        reasons = count_reasons(outcome.rejected)
        self.bad += len(outcome.rejected) - reasons["user_erased"]
        self.reasons += reasons
        self.inserted += record.inserted
        self.duplicates += record.duplicates
        self.sealed += record.sealed
        self.null_locales += outcome.logins.columns["locale"].count(None)
        self.aliases += len(outcome.logins.aliases)
        for name, messages in outcome.unknown_fields.items():
            shown = name if name in self.unknown_fields or len(self.unknown_fields) < MAX_NAMES else OTHER_NAMES
            self.unknown_fields[shown] += messages
        for name, share in outcome.seen_before.items():
            self.seen_before[name] += round(share * len(outcome.logins))
        self.rows_by_day.update(record.rows_by_day)
        self.delays = list(map(sum, zip(self.delays, record.delays, strict=True)))
        oldest, newest = outcome.sent_ms
        self.sent_ms = (min(oldest, self.sent_ms[0]), max(newest, self.sent_ms[1])) if self.sent_ms else outcome.sent_ms
        self.minutes.update(message.sent_ms // _MINUTE_MS for message in recorded.messages)
        if len(self.minutes) > _MAX_MINUTES:
            for minute in sorted(self.minutes)[:-_MAX_MINUTES]:
                del self.minutes[minute]

    def add_deletion(self, deletion: Deletion) -> None:
        """Add the results of the deletes of a batch."""
        self.deleted += deletion.deleted
        self.delete_failures += deletion.failures
