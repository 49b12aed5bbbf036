"""Check whether everything is ready for a run: queues, warehouse, keys, archive, clocks and alerts.

A check is a function that returns a message if all is well, and otherwise raises an error that names the fix.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from operator import attrgetter
from typing import TypeAlias

from loginpipe.archive.store import Stores
from loginpipe.common.errors import LoginpipeError
from loginpipe.common.logins_table import logins_table
from loginpipe.common.secrets import alert_webhook_url, database_url
from loginpipe.common.settings import Settings
from loginpipe.logins.extras import UnknownFields, personal_warning
from loginpipe.masking.keys import SEAL_OFF, load_compat, load_seal_keys, load_token_keys
from loginpipe.monitoring.alert_delivery import channels
from loginpipe.postgres.archive import archive_gap
from loginpipe.postgres.batches import batches_without_run
from loginpipe.postgres.connections import Connection, connect, place, transaction
from loginpipe.postgres.contract import examine_table, read_row_forms, replication_problem, why_read_only
from loginpipe.postgres.grants import WRITER, grant_differences, role_status
from loginpipe.postgres.load import lock_holders
from loginpipe.postgres.migrate import HEAD, require_migrated
from loginpipe.postgres.partitions import EXTRAS, LEDGER, coming, days_are_found, partitioning, stray_rows
from loginpipe.postgres.token_keys import newest_key_version, require_known_keys
from loginpipe.postgres.vault import unopenable_values
from loginpipe.sqs.client import IN_FLIGHT_LIMIT_REACHED, Queue, open_queue, queue_errors, read_depth
from loginpipe.sqs.dead_letters import read_dead_letters, redrive_policy
from loginpipe.sqs.deliveries import try_receiving

Check: TypeAlias = Callable[[Settings], str]


@dataclass(frozen=True)
class Finding:
    """The result and message of a check."""

    what: str
    ok: bool
    message: str

    @property
    def warns(self) -> bool:
        """True if the check passed with a warning."""
        return self.ok and self.message.startswith("warning: ")


# With fewer, two failed runs in a row would send good messages to the dead-letter queue.
_MIN_RECEIVES = 3
# SQS's longest MessageRetentionPeriod, in seconds.
_MAX_RETENTION = 14 * 86_400
# AWS refuses requests whose signature is five minutes off. Delays and partitions depend on these clocks too.
_MAX_OFF = timedelta(seconds=30)
# Erasure and maintenance hold their locks for less time.
_LOCK_SECONDS = 1


@contextmanager
def warehouse(settings: Settings) -> Iterator[Connection]:
    """Connect to the migrated warehouse."""
    with closing(connect(database_url(settings))) as connection:
        require_migrated(connection)
        yield connection


def queue(settings: Settings) -> str:
    """Read the queue's depth, and check that messages from an endpoint other than AWS can be parsed."""
    queue = open_queue(settings.queue, settings, connections=1)
    depth = read_depth(queue)
    if depth.at_in_flight_limit:
        raise LoginpipeError(f"queue {queue.name!r}: {depth}; {IN_FLIGHT_LIMIT_REACHED}")
    # AWS needs no such test, and each receive brings a message closer to the dead-letter queue.
    if depth.visible and not queue.of_aws:
        try_receiving(queue, settings.visibility_seconds)
    return f"{queue.name!r}: {depth}"


def dead_letters(settings: Settings) -> str:
    """Check that a dead-letter queue exists, its maxReceiveCount and retention, and that it holds none of ours."""
    queue = open_queue(settings.queue, settings, connections=1)
    policy = redrive_policy(queue)
    if policy is None:
        raise LoginpipeError(
            f"queue {queue.name!r} has no dead-letter queue: give it a redrive policy with maxReceiveCount 5"
        )
    if policy.max_receives < _MIN_RECEIVES:
        raise LoginpipeError(
            f"maxReceiveCount of queue {queue.name!r} is {policy.max_receives}: raise it to {_MIN_RECEIVES} or more, "
            "because every failed run counts as a receive"
        )
    retention = _retention(queue)
    if _retention(policy.dead_letters) <= retention:
        fix = (
            f"raise its MessageRetentionPeriod above {retention:,} s"
            if retention < _MAX_RETENTION
            else f"lower that of {queue.name!r}, which is SQS's maximum"
        )
        raise LoginpipeError(
            f"queue {policy.dead_letters.name!r} keeps messages no longer than {queue.name!r} does: {fix}, because "
            "a message keeps its age when it moves"
        )
    found = read_dead_letters(queue)
    if found and found.ours:
        raise LoginpipeError(
            f"{policy.dead_letters.name!r} holds messages: {found}; find the cause, then run `loginpipe dlq redrive`"
        )
    holds = str(found) if found and found.total else "empty"
    return f"{policy.dead_letters.name!r}: {holds}; messages move there after {policy.max_receives} receives"


def clocks(settings: Settings) -> str:
    """Compare this machine's clock with those of the database and SQS."""
    offs = {"the database": _of_database(settings), "SQS": _of_queue(settings)}
    known = {who: off for who, off in offs.items() if off is not None}
    wrong = [f"{who} by {abs(off.total_seconds()):,.0f} s" for who, off in known.items() if abs(off) > _MAX_OFF]
    if wrong:
        raise LoginpipeError(
            f"this machine's clock differs from that of {' and '.join(wrong)}: synchronize both with NTP"
        )
    return f"this machine's clock is within {_MAX_OFF.seconds} s of that of {' and of '.join(known)}"


def alerts(settings: Settings) -> str:
    """Return the destinations of alerts. Their addresses are validated with the settings, or when looked up."""
    alert_webhook_url(settings)
    places = [channel.place for channel in channels(settings)]
    if not places:
        return "off: neither LOGINPIPE_ALERT_WEBHOOK_URL nor LOGINPIPE_ALERT_SNS_TOPIC is set"
    return f"{' and '.join(places)}; send a test alert with `loginpipe alerts test`"


def _retention(queue: Queue) -> int:
    with queue_errors(queue.name):
        answer = queue.client.get_queue_attributes(QueueUrl=queue.url, AttributeNames=["MessageRetentionPeriod"])
        return int(answer["Attributes"]["MessageRetentionPeriod"])


def _of_database(settings: Settings) -> timedelta:
    with warehouse(settings) as connection, transaction(connection) as cursor:
        before = datetime.now(UTC)
        cursor.execute("SELECT clock_timestamp()")
        there: datetime = cursor.fetchall()[0][0]
        return there - (before + (datetime.now(UTC) - before) / 2)


def _of_queue(settings: Settings) -> timedelta | None:
    queue = open_queue(settings.queue, settings, connections=1)
    with queue_errors(queue.name):
        answer = queue.client.get_queue_attributes(QueueUrl=queue.url, AttributeNames=["QueueArn"])
        stamp = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        # The header has whole seconds, which is exact enough.
        return parsedate_to_datetime(stamp) - datetime.now(UTC) if stamp else None


def database(settings: Settings) -> str:
    """Check that the warehouse is migrated for the configured table, accepts writes, and can replicate."""
    with warehouse(settings) as connection, transaction(connection) as cursor:
        if read_only := why_read_only(cursor):
            raise LoginpipeError(f"{place(connection)} {read_only}")
        if unreplicable := replication_problem(cursor):
            raise LoginpipeError(unreplicable)
    return f"migrated to {HEAD}"


def table(settings: Settings) -> str:
    """Check the table for anything that keeps out all logins, or that refuses, changes or loses some."""
    today = datetime.now(UTC).date()
    with warehouse(settings) as connection, transaction(connection) as cursor:
        found = examine_table(connection)
        notes = [*found.notes, *partitioning(cursor, logins_table()).notes(today)]
    if found.obstacles:
        raise LoginpipeError(f"{logins_table()} is not as expected: {'; '.join(found.obstacles)}")
    return f"warning: {logins_table()}: {'; '.join(notes)}" if notes else f"{logins_table()} accepts every login"


def grants(settings: Settings) -> str:
    """Compare the grants with the plan, and check whether the connected role has more than it needs."""
    with warehouse(settings) as connection:
        differences = grant_differences(connection)
        role = role_status(connection)
    if differences:
        raise LoginpipeError("; ".join(differences))
    if not role.writes:
        raise LoginpipeError(
            f"{role.role} may not load logins: run `GRANT {WRITER} TO {role.role}`, or connect as another role"
        )
    if not role.beyond:
        return f"correct; {role.role} has the grants that the pipeline needs, and no more"
    beyond = f"{role.role} {' and '.join(role.beyond)}, more than the pipeline needs"
    if settings.production:
        raise LoginpipeError(f"{beyond}: connect as a separate role, which you create with `{role.fix}`")
    return f"correct; {beyond}"


def locks(settings: Settings) -> str:
    """Check whether a session holds a lock that blocks loads for a second or longer."""
    with warehouse(settings) as connection:
        holders = lock_holders(connection)
        if holders:
            time.sleep(_LOCK_SECONDS)
            holders &= lock_holders(connection)
    if not holders:
        return "no load is blocked"
    held = "; ".join(
        f"{f'{holder.table} is locked by' if holder.table else 'a load waits for'} {holder.role} "
        f"({holder.application or 'no application name'}, process {holder.pid})"
        for holder in sorted(holders, key=attrgetter("pid"))
    )
    first = min(holder.pid for holder in holders)
    raise LoginpipeError(
        f"loads are blocked: {held}: end that transaction, or ask an administrator to run `SELECT "
        f"pg_terminate_backend({first})`"
    )


def partitions(settings: Settings) -> str:
    """Check that future partitions exist, and that default partitions hold no rows that belong to another one."""
    today = datetime.now(UTC).date()
    with warehouse(settings) as connection:
        with transaction(connection) as cursor:
            ledger, extras, logins = (partitioning(cursor, table) for table in (LEDGER, EXTRAS, logins_table()))
            found = days_are_found(cursor)
        strays = stray_rows(connection, today)
    # The plan of yesterday, because today's maintenance may still have to run.
    planned = [p for p in coming(today - timedelta(days=1)) if not (logins.not_ours and p.table == logins.table)]
    there = [*ledger.partitions, *extras.partitions, *logins.partitions]
    missing = [
        piece
        for partition in planned
        for piece in partition.uncovered(p for p in there if p.table == partition.table)
        if piece.end > today
    ]
    if missing:
        first = min(missing, key=lambda partition: (partition.start, partition.name))
        raise LoginpipeError(
            f"{len(missing)} partitions that were due yesterday are missing, the first one {first} for "
            f"{first.days}: run the job maintain_partitions, and check why its schedule did not"
        )
    unmanaged = logins.unmanaged(today)
    soon = any(gap.start <= today + timedelta(days=1) for gap in logins.uncovered(today))
    if unmanaged and soon and not logins.has_default:
        raise LoginpipeError(f"{logins.table}: {unmanaged}")
    held = [f"{number:,} rows of {table}" for table, number in strays.items() if number]
    if held:
        raise LoginpipeError(
            f"default partitions hold {' and '.join(held)}: run the job maintain_partitions; rows that stay "
            "there have dates far from today"
        )
    not_ours = unmanaged or logins.not_ours
    ahead = "loginpipe does not manage those of user_logins: " + not_ours if not_ours else "so do those of user_logins"
    says = f"those of the ledger reach a week ahead; {ahead}; default partitions are empty"
    if found:
        return says
    return (
        f"warning: {says}; {logins.table} has no index on create_date, so each query for a day reads all of it: run "
        f"`CREATE INDEX CONCURRENTLY ON {logins.table} USING brin (create_date)`"
    )


def token_keys(settings: Settings) -> str:
    """Read the token keys, and compare them with those that made the database's tokens."""
    keys = load_token_keys(settings.required("token_keys"), production=settings.production)
    with warehouse(settings) as connection:
        require_known_keys(connection, keys)
        newest = newest_key_version(connection)
    used = "in use" if newest == keys.current else f"not used yet; the newest in use is {newest}" if newest else "new"
    return f"version {keys.current}, {used}" + ("; for development only" if keys.development else "")


def seal_key(settings: Settings) -> str:
    """Read the public seal keys."""
    uri = settings.required("seal_key")
    keys = load_seal_keys(uri, fingerprint=settings.seal_key_fingerprint, production=settings.production)
    if not keys:
        return "off: neither masked values nor rejected bodies can be recovered, and unknown fields are dropped"
    pinned = "pinned" if settings.seal_key_fingerprint else "not pinned"
    return f"fingerprint {' and '.join(f'{key.fingerprint[:16]}…' for key in keys)}, {pinned}"


def vault(settings: Settings) -> str:
    """Check for sealed values that no key can open. This reads the whole vault."""
    with warehouse(settings) as connection:
        unopenable = unopenable_values(connection)
    if unopenable:
        raise LoginpipeError(
            f"{unopenable:,} sealed values have no data key, or are too short to be real: someone with the "
            "pipeline's login may have inserted them; see docs/security.md"
        )
    return "every sealed value has its data key; `loginpipe pii drill --sample` opens some"


def masking(settings: Settings) -> str:
    """Return how values are masked, with a warning for an older scheme."""
    compat = load_compat(settings.masking, settings.compat_salt, production=settings.production)
    return f"warning: {compat.warning}" if compat else f"{settings.masking}: tokens"


def unknown_fields(settings: Settings) -> str:
    """Return what happens to unknown fields, and warn of names that look like personal data."""
    sealing = settings.required("seal_key") != SEAL_OFF
    unknown = UnknownFields(settings.clear_fields, keep=settings.unknown_fields == "seal")
    warning = personal_warning(unknown.clear)
    return unknown.fate(sealing=sealing) + (f"; warning: {warning}" if warning else "")


def rows(settings: Settings) -> str:
    """Check whether the rows of an adopted table mean the same as new rows."""
    with warehouse(settings) as connection:
        forms = read_row_forms(connection)
    findings = list(forms.findings(settings.masking))
    if findings:
        return f"warning: {'; '.join(findings)}"
    return f"{forms.rows:,} rows were checked, and mean the same as new ones"


def lambda_batches(settings: Settings) -> str:
    """Return when AWS Lambda recorded its newest batch. None is no error, because the queue may be empty."""
    with warehouse(settings) as connection:
        found = batches_without_run(connection, settings.queue_name, None, first_seconds=86_400, settled_seconds=0)
    if found.newest is None:
        return (
            "no batch in the last 24 hours: if messages were sent, check the event source mapping and the function's "
            "log"
        )
    return (
        f"{found.batches:,} batches in the last 24 hours, the newest recorded at {found.newest:%Y-%m-%d %H:%M:%S} UTC; "
        f"{found.received:,} messages, {found.inserted:,} logins"
    )


def archive(settings: Settings) -> str:
    """Check that the archive is reachable and complete, and that retention can rely on it."""
    if settings.archive_url is None:
        if settings.retention_days is not None:
            raise LoginpipeError(
                "LOGINPIPE_RETENTION_DAYS is set and LOGINPIPE_ARCHIVE_URL is not, so nothing is ever dropped: set both"
            )
        return "off: days stay in the table"
    if find_spec("pyarrow") is None:
        raise LoginpipeError("pyarrow is not installed: run `pip install 'loginpipe[archive]'`")
    store = Stores(settings).current
    store.require_usable()
    with warehouse(settings) as connection:
        days, dropped, missing = archive_gap(connection, today=datetime.now(UTC).date())
    if missing:
        raise LoginpipeError(
            f"{missing} is complete but not archived: check the newest run of archive_logins, and that the schedule "
            "archive_closed_days is on"
        )
    return f"{store.url}: {days:,} days archived, {dropped:,} of them dropped from user_logins"


def examine(settings: Settings, of_dagster: Mapping[str, Check]) -> Iterator[Finding]:
    """Yield a finding per check, in the order in which a run would meet the problems.

    `of_dagster` has the checks of Dagster's own state, which are defined next to the definitions.
    """
    checks: dict[str, Check] = {
        "queue": queue,
        "dead-letter queue": dead_letters,
        "database": database,
        "table": table,
        "grants": grants,
        "locks": locks,
        "partitions": partitions,
        "token keys": token_keys,
        "seal key": seal_key,
        "vault": vault,
        "masking": masking,
        "unknown fields": unknown_fields,
        "rows": rows,
        "archive": archive,
        **({} if settings.consumer == "dagster" else {"AWS Lambda": lambda_batches}),
        "clocks": clocks,
        **of_dagster,
        "alerts": alerts,
    }
    for what, check in checks.items():
        try:
            yield Finding(what, True, check(settings))
        except LoginpipeError as error:
            yield Finding(what, False, str(error))
