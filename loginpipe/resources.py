"""Dagster resources: thin faces of the packages below. In-process, each is one object for the whole run.

All of them are opened before the first asset runs, so a wrong setting, an absent queue, an unreachable or unmigrated
database and an unreadable key end a run before it has received a message.
"""

from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from math import ceil

import dagster as dg
import pandas as pd
from pydantic import Field, PrivateAttr

from loginpipe.logins.splitting import SplitBatch
from loginpipe.masking.compat import HMAC, CompatMasking
from loginpipe.masking.compat_salt import load_compat
from loginpipe.masking.keys import load_seal_keys, load_token_keys
from loginpipe.masking.mask import MaskedLogins, mask_logins, seal_originals
from loginpipe.masking.sealing import Sealed, SealKey, seal
from loginpipe.masking.tokens import TokenKeys
from loginpipe.postgres.connections import Connection, require_verified_tls, transaction
from loginpipe.postgres.contract import user_logins_columns
from loginpipe.postgres.erasures import Erased, read_erased
from loginpipe.postgres.insights import (
    DuplicatesOfDay,
    LoginsOfDay,
    days_touched,
    refresh_daily_logins,
    refresh_duplicates,
)
from loginpipe.postgres.load import LoadCounts, load_logins
from loginpipe.postgres.migrate import require_migrated
from loginpipe.postgres.partitions import MaintenanceResult, maintain
from loginpipe.postgres.rejects import record_rejects
from loginpipe.postgres.runs import Arrival, RunCounts, close_run, run_counts
from loginpipe.postgres.session import Session
from loginpipe.postgres.token_key_checks import check_token_keys
from loginpipe.postgres.vault import known_tokens
from loginpipe.settings import Settings, load_settings, required
from loginpipe.sqs.client import BATCH_MOST, Queue, open_queue
from loginpipe.sqs.dead_letters import redrive_policy
from loginpipe.sqs.deletion import Deletion, delete_messages
from loginpipe.sqs.depth import Depth, read_depth
from loginpipe.sqs.leases import LeaseKeeper
from loginpipe.sqs.receiver import Received, receive_batch

_CALLS_AT_ONCE = 8
"""Deletes and lease extensions under way at once, each of up to ten messages, for a batch of the usual size."""

_CALL_SECONDS = 0.2
"""How long a call is reckoned to take: ten times what it does within a region."""


class SqsResource(dg.ConfigurableResource["SqsResource"]):
    """The SQS queue, with the leases of what this run has received. Region, endpoint and credentials are boto3's."""

    queue: str = Field(description="Name or URL of the queue.")
    batch_messages: int = Field(description="Most messages in one run.")
    batch_seconds: float = Field(description="Longest time of receiving in one run, in seconds.")
    visibility_seconds: int = Field(description="Visibility timeout asked for with each receive, in seconds.")
    receivers: int = Field(description="Long polls at once.")

    _queue: Queue = PrivateAttr()
    _leases: LeaseKeeper = PrivateAttr()
    _delivery_ids: Mapping[str, set[str]] = PrivateAttr(default_factory=dict)
    _deleted: int = PrivateAttr(default=0)
    _failures: Counter[str] = PrivateAttr(default_factory=Counter)

    @property
    def _calls_at_once(self) -> int:
        """As many that the leases of a whole batch can be extended in a third of the visibility timeout."""
        calls = self.batch_messages / BATCH_MOST
        return max(_CALLS_AT_ONCE, ceil(calls * _CALL_SECONDS / (self.visibility_seconds / 3)))

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Generator["SqsResource", None, None]:
        """Look the queue up; at the end, in success or failure, hand back whatever was not deleted."""
        self._queue = open_queue(self.queue, connections=self.receivers + self._calls_at_once)
        self._leases = LeaseKeeper(
            self._queue, visibility_seconds=self.visibility_seconds, calls_at_once=self._calls_at_once
        )
        try:
            yield self
        finally:
            returned = self._leases.close()
            if returned and context.log:
                context.log.warning("%d messages were not deleted and went back to queue %r", returned, self.name)

    @property
    def name(self) -> str:
        """The queue's name."""
        return self._queue.name

    @property
    def deletion(self) -> Deletion:
        """What became of all deletes of this run so far."""
        return Deletion(self._deleted, self._failures)

    @property
    def leases_lost(self) -> int:
        """Leases of this run that ended before their message was deleted."""
        return self._leases.lost

    def depth(self) -> Depth:
        """Ask the queue for its depth."""
        return read_depth(self._queue)

    def dead_letters(self) -> Depth | None:
        """Ask the dead-letter queue for its depth; None where the queue has none."""
        policy = redrive_policy(self._queue)
        return read_depth(policy.dead_letters) if policy else None

    def receive(self) -> Received:
        """Take a bounded bite of the queue; its messages stay ours until deleted or handed back."""
        received = receive_batch(
            self._queue,
            self._leases,
            most=self.batch_messages,
            seconds=self.batch_seconds,
            visibility_seconds=self.visibility_seconds,
            receivers=self.receivers,
        )
        self._delivery_ids = received.delivery_ids
        return received

    def delete(self, message_ids: Iterable[str]) -> Deletion:
        """Delete messages whose outcome is committed."""
        deliveries = [delivery for i in message_ids for delivery in self._delivery_ids[i]]
        deletion = delete_messages(self._queue, self._leases, deliveries, calls_at_once=self._calls_at_once)
        self._deleted += deletion.deleted
        self._failures += deletion.failures
        return deletion


class PostgresResource(dg.ConfigurableResource["PostgresResource"]):
    """The Postgres database of ``user_logins``: one connection for the run."""

    database_url: str | None = Field(
        default=None,
        repr=False,
        description="Connection URL. Leave it out to use LOGINPIPE_DATABASE_URL: Dagster stores configuration.",
        json_schema_extra={"dagster__is_secret": True},
    )

    _session: Session = PrivateAttr()

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Generator["PostgresResource", None, None]:  # noqa: ARG002
        """Connect, and make sure that the database is migrated."""
        settings = load_settings()
        url = required("database_url", self.database_url or settings.database_url, "postgresql://user@host/database")
        if settings.production:
            require_verified_tls(url)
        self._session = Session(url)
        try:
            self._session.run(require_migrated)
            yield self
        finally:
            self._session.close()

    def check_token_keys(self, keys: TokenKeys) -> None:
        """Refuse token keys that are not the ones that this database's tokens were made with."""
        self._session.run(lambda connection: check_token_keys(connection, keys))

    def record_rejects(self, rejected: pd.DataFrame, sealed: Sealed, arrival: Arrival) -> int:
        """Record the rejects of a run and open its books; return how many this run recorded."""
        return self._session.run(lambda connection: record_rejects(connection, rejected, sealed, arrival))

    def known_tokens(self, tokens: Iterable[str]) -> frozenset[str]:
        """Return those of the tokens that the vault knows."""
        wanted = list(tokens)
        return self._session.run(lambda connection: known_tokens(connection, wanted))

    def erased(self) -> Erased:
        """Return which users were erased, by their tombstones."""
        return self._session.run(read_erased)

    def load(
        self,
        logins: pd.DataFrame,
        sealed: Sealed,
        run_id: str,
        *,
        aliases: Sequence[tuple[str, str]] = (),
        erasures: int | None = None,
    ) -> LoadCounts:
        """Write masked logins, ledger, vault, aliases and books in one transaction."""
        return self._session.run(
            lambda connection: load_logins(connection, logins, sealed, run_id, aliases=aliases, erasures=erasures)
        )

    def close_run(self, run_id: str, *, deletion: Deletion, leases_lost: int) -> None:
        """Close the books of a run."""
        deleted, failures = deletion.deleted, deletion.failures.total()
        self._session.run(
            lambda connection: close_run(
                connection, run_id, deleted=deleted, delete_failures=failures, leases_lost=leases_lost
            )
        )

    def run_counts(self, run_id: str) -> RunCounts | None:
        """Return the counts of a run, or of the newest finished one where it has none."""
        return self._session.run(lambda connection: run_counts(connection, run_id))

    def user_logins_columns(self) -> tuple[tuple[str, str], ...]:
        """Return name and type of each column of ``user_logins``, as the database has it now."""
        return self._session.run(_user_logins_columns)

    def refresh_duplicates(self, table: str, day: date) -> DuplicatesOfDay:
        """Compute one day of a table of duplicates anew."""
        return self._session.run(lambda connection: refresh_duplicates(connection, table, day))

    def refresh_daily_logins(self, day: date) -> LoginsOfDay:
        """Compute one day of ``daily_logins`` anew."""
        return self._session.run(lambda connection: refresh_daily_logins(connection, day))

    def days_touched(self, since: datetime, until: datetime) -> list[date]:
        """Return the UTC dates of which runs that ended in between have brought logins."""
        return self._session.run(lambda connection: days_touched(connection, since, until))

    def maintain_partitions(self, today: date) -> MaintenanceResult:
        """Create the partitions that are coming and drop the ledger's expired ones."""
        return self._session.run(lambda connection: maintain(connection, today))


def _user_logins_columns(connection: Connection) -> tuple[tuple[str, str], ...]:
    with transaction(connection):
        return user_logins_columns(connection)


class MaskingResource(dg.ConfigurableResource["MaskingResource"]):
    """The token keys, and the public keys that recoverable values are sealed for."""

    token_keys: str | None = Field(description="URI of the token keys, as in file:keys/token_keys.json.")
    seal_key: str | None = Field(description="URIs of the public seal keys, or off for tokens only.")
    seal_key_fingerprint: str | None = Field(description="SHA-256 of each public seal key, pinned.")
    masking: str = Field(default=HMAC, description="hmac-sha256 for tokens, or the older scheme to stay joinable with.")
    compat_salt: str | None = Field(default=None, description="URI of the salt of compat-sha256-salted.")
    production: bool = Field(description="Refuse development keys, seal keys not pinned, and AWS without https.")

    _token_keys: TokenKeys = PrivateAttr()
    _recipients: tuple[SealKey, ...] = PrivateAttr()
    _compat: CompatMasking | None = PrivateAttr()

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Load the keys, once for the run; say what is not as it should be in the long run."""
        token_keys = required(
            "token_keys", self.token_keys, "the URI of the token keys, as in file:keys/token_keys.json"
        )
        seal_key = required(
            "seal_key", self.seal_key, "the URI of the public seal key, as in file:keys/seal_public.pem, or off"
        )
        self._token_keys = load_token_keys(token_keys, production=self.production)
        self._recipients = load_seal_keys(seal_key, fingerprint=self.seal_key_fingerprint, production=self.production)
        self._compat = load_compat(self.masking, self.compat_salt, production=self.production)
        if not self._recipients and context.log:
            context.log.warning(
                "LOGINPIPE_SEAL_KEY is off: neither masked values nor the bodies of rejected messages can be recovered"
            )
        if self._compat and context.log:
            context.log.warning(self._compat.warning)

    @property
    def keys(self) -> TokenKeys:
        """The token keys."""
        return self._token_keys

    @property
    def sealing(self) -> bool:
        """Whether values are sealed at all."""
        return bool(self._recipients)

    @property
    def compat(self) -> CompatMasking | None:
        """The older scheme that is in force instead of tokens, if one is."""
        return self._compat

    def mask(self, validated: pd.DataFrame) -> MaskedLogins:
        """Replace ``ip`` and ``device_id`` by tokens."""
        return mask_logins(validated, self._token_keys, self._compat)

    def seal_originals(self, masked: MaskedLogins, known: frozenset[str]) -> Sealed:
        """Seal what the tokens stand for, leaving out the known ones."""
        return seal_originals(masked.originals, known, self._recipients)

    def seal_bodies(self, split: SplitBatch) -> Sealed:
        """Seal the bodies of rejected messages."""
        if not self._recipients:
            return Sealed()
        bodies = zip(split.rejected["message_id"], split.rejected["body"], strict=True)
        return seal([(i, body.encode("utf-8", "surrogatepass")) for i, body in bodies], "body", self._recipients)


def resources_from(settings: Settings) -> dict[str, object]:
    """Return the resources as the settings say, by the key that assets know them by."""
    return {
        "sqs": SqsResource(
            queue=settings.queue,
            batch_messages=settings.batch_messages,
            batch_seconds=settings.batch_seconds,
            visibility_seconds=settings.visibility_seconds,
            receivers=settings.receivers,
        ),
        "postgres": PostgresResource(),
        "masking": MaskingResource(
            token_keys=settings.token_keys,
            seal_key=settings.seal_key,
            seal_key_fingerprint=settings.seal_key_fingerprint,
            masking=settings.masking,
            compat_salt=settings.compat_salt,
            production=settings.production,
        ),
    }
