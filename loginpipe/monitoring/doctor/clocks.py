"""What `doctor` looks at of clocks: whether this machine, the database and SQS have the same time."""

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from loginpipe.common.errors import LoginpipeError
from loginpipe.common.settings import Settings
from loginpipe.monitoring.doctor.warehouse import warehouse
from loginpipe.postgres.connections import transaction
from loginpipe.sqs.client import open_queue, queue_errors

# AWS refuses requests that are signed five minutes off; delays and partitions are judged by these clocks.
_MOST = timedelta(seconds=30)


def clocks(settings: Settings) -> str:
    """Compare this machine's clock with the others'."""
    offs = {"the database": _of_database(settings), "SQS": _of_queue(settings)}
    wrong = [f"{who} by {_words(off)}" for who, off in offs.items() if off is not None and abs(off) > _MOST]
    if wrong:
        raise LoginpipeError(f"this machine's clock differs from that of {' and '.join(wrong)}: set both by NTP")
    known = [who for who, off in offs.items() if off is not None]
    return f"this machine's is within {_MOST.seconds} s of that of {' and of '.join(known)}"


def _of_database(settings: Settings) -> timedelta:
    with warehouse(settings) as connection, transaction(connection) as cursor:
        before = datetime.now(UTC)
        cursor.execute("SELECT clock_timestamp()")
        ((there,),) = cursor.fetchall()
        after = datetime.now(UTC)
    off: timedelta = there - (before + (after - before) / 2)
    return off


def _of_queue(settings: Settings) -> timedelta | None:
    queue = open_queue(settings.queue, settings, connections=1)
    with queue_errors(queue.name):
        answer = queue.client.get_queue_attributes(QueueUrl=queue.url, AttributeNames=["QueueArn"])
        stamp = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        # In whole seconds, which is exact enough.
        return parsedate_to_datetime(stamp) - datetime.now(UTC) if stamp else None


def _words(off: timedelta) -> str:
    return f"{abs(off.total_seconds()):,.0f} s"
