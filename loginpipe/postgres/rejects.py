"""Find rejected messages and their reasons, without their bodies."""

from dataclasses import asdict, dataclass
from datetime import datetime

from loginpipe.postgres.connections import Connection, fetch, statement


@dataclass(frozen=True)
class RejectFilter:
    """Which rejects to find. A criterion that is None does not apply.

    Attributes:
        since, until: by the time they were sent, ``until`` excluded.
        replayed: True to include those already replayed.
    """

    message_id: str | None = None
    reason: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    replayed: bool = False
    limit: int | None = None


@dataclass(frozen=True)
class Reject:
    """A rejected message without its body. Each reason belongs to the field at the same position."""

    message_id: str
    sent_at: datetime
    received_at: datetime
    reasons: list[str]
    fields: list[str]
    replayed_at: datetime | None

    @property
    def violations(self) -> str:
        """Return each violation as ``field: reason``."""
        return ", ".join(f"{field}: {reason}" for reason, field in zip(self.reasons, self.fields, strict=True))


def find_rejects(connection: Connection, wanted: RejectFilter) -> list[Reject]:
    """Return rejects, the newest first."""
    return [Reject(*row) for row in fetch(connection, statement("rejected_messages"), asdict(wanted))]
