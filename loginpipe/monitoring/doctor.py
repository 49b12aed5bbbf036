"""Check whether everything is ready for a run: queues, clocks, alerts, and the warehouse by `doctor_warehouse`.

A check is a function that returns a message if all is well, and otherwise raises an error that names the fix.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TypeAlias

from loginpipe.common.errors import LoginpipeError
from loginpipe.common.secrets import alert_webhook_url
from loginpipe.common.settings import Settings
from loginpipe.monitoring import doctor_warehouse
from loginpipe.monitoring.alert_delivery import channels
from loginpipe.monitoring.doctor_warehouse import warehouse
from loginpipe.postgres.connections import transaction
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
_MOST = timedelta(seconds=30)


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
    wrong = [f"{who} by {abs(off.total_seconds()):,.0f} s" for who, off in known.items() if abs(off) > _MOST]
    if wrong:
        raise LoginpipeError(
            f"this machine's clock differs from that of {' and '.join(wrong)}: synchronize both with NTP"
        )
    return f"this machine's clock is within {_MOST.seconds} s of that of {' and of '.join(known)}"


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


def examine(settings: Settings, of_dagster: Mapping[str, Check]) -> Iterator[Finding]:
    """Yield a finding per check, in the order in which a run would meet the problems.

    `of_dagster` has the checks of Dagster's own state, which are defined next to the definitions.
    """
    checks: dict[str, Check] = {
        "queue": queue,
        "dead-letter queue": dead_letters,
        "database": doctor_warehouse.database,
        "table": doctor_warehouse.table,
        "grants": doctor_warehouse.grants,
        "locks": doctor_warehouse.locks,
        "partitions": doctor_warehouse.partitions,
        "token keys": doctor_warehouse.token_keys,
        "seal key": doctor_warehouse.seal_key,
        "vault": doctor_warehouse.vault,
        "masking": doctor_warehouse.masking,
        "unknown fields": doctor_warehouse.unknown_fields,
        "rows": doctor_warehouse.rows,
        "archive": doctor_warehouse.archive,
        **({} if settings.consumer == "dagster" else {"AWS Lambda": doctor_warehouse.lambda_batches}),
        "clocks": clocks,
        **of_dagster,
        "alerts": alerts,
    }
    for what, check in checks.items():
        try:
            yield Finding(what, True, check(settings))
        except LoginpipeError as error:
            yield Finding(what, False, str(error))
