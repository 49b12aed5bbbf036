"""Run the demonstration: embedded services, sample events, one run, and its result on a terminal."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console
from rich.table import Table

from loginpipe.common.errors import LoginpipeError
from loginpipe.local.environment import prepare, sqs_client
from loginpipe.local.sample_events import sample_bodies
from loginpipe.local.stack import LocalStack, running_stack
from loginpipe.postgres.connections import connect, transaction
from loginpipe.sqs.client import Queue, batched, read_depth
from loginpipe.sqs.deliveries import redrive_attributes
from loginpipe.sqs.sending import send_again, send_bodies

SEED = 2026
BAD_SHARE = 0.03

# Number of messages whose ids are kept: enough to include an invalid address.
_FOLLOWED = 200
_AGAIN = 10

Step = Callable[[str], AbstractContextManager[Any]]
"""Returns a context manager for the duration of a step, given its description."""

# The beginning identifies a token, and the columns must fit a terminal of 80 characters.
_LONG = 20
_SHOWN = 12

_STORED = """
    SELECT user_id, masked_ip, masked_device_id, app_version, device_type, locale, create_date
    FROM user_logins WHERE user_id = %s
    """

_REJECTED = """
    SELECT message_id::text, fields[1], reasons[1] FROM loginpipe.rejected_messages
    WHERE message_id = ANY(%s::uuid[])
    ORDER BY reasons[1] = 'invalid_address' DESC, message_id LIMIT 1
    """

_NEWEST_BATCH = """
    SELECT received, duplicates, inserted FROM loginpipe.batches ORDER BY recorded_at DESC LIMIT 1
    """

_QUERIES = {
    "first rows of user_logins, without device_type": """
        SELECT left(user_id, 7) || '…' AS user_id, masked_ip, masked_device_id, locale,
            loginpipe.app_version_text(app_version) AS app_version, create_date
        FROM user_logins ORDER BY user_logins.user_id LIMIT 3
        """,
    "devices seen more than once": """
        SELECT masked_device_id, count(*) AS logins, count(DISTINCT user_id) AS users
        FROM user_logins WHERE masked_device_id NOT IN (SELECT token FROM loginpipe.placeholder_tokens)
        GROUP BY masked_device_id HAVING count(*) > 1 ORDER BY logins DESC, masked_device_id LIMIT 3
        """,
    "addresses seen more than once": """
        SELECT masked_ip, count(*) AS logins, count(DISTINCT user_id) AS users
        FROM user_logins WHERE masked_ip NOT IN (SELECT token FROM loginpipe.placeholder_tokens)
        GROUP BY masked_ip HAVING count(*) > 1 ORDER BY logins DESC, masked_ip LIMIT 3
        """,
}


@dataclass(frozen=True)
class Rows:
    """A result to show: column names and rows."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


@dataclass(frozen=True)
class DemoResult:
    """The result of the demonstration.

    Attributes:
        counts: messages sent, received, accepted, rejected, inserted, duplicates, deleted.
        reasons: rejected messages by reason code. A message with two reasons counts twice.
        tables: results by title. The first one shows an invented login in clear.
        run_seconds: duration of the run until the last delete.
    """

    counts: dict[str, int]
    reasons: dict[str, int]
    tables: dict[str, Rows]
    run_seconds: float


def run_demo(count: int, step: Step) -> DemoResult:
    """Send sample events, including invalid ones, through the whole chain, on services that are deleted afterwards.

    Raises:
        LoginpipeError: a service does not start, or the run failed.
    """
    with ExitStack() as services:
        with step("start Postgres and an SQS endpoint"):
            stack = services.enter_context(running_stack())
        with step("create keys, tables and queue"):
            os.environ.update(prepare(stack))
        with step(f"send {count:,} login events"):
            client, name = sqs_client(stack), os.environ["LOGINPIPE_QUEUE"]
            queue = Queue(name, client.get_queue_url(QueueName=name)["QueueUrl"], client)
            bodies = list(sample_bodies(count, seed=SEED, bad_share=BAD_SHARE))
            sent_ms = time.time_ns() // 1_000_000
            followed = _send_and_follow(queue, bodies[:_FOLLOWED])
            send_bodies(queue, bodies[_FOLLOWED:])
        with step("receive, validate, mask, load, delete"):
            began = time.monotonic()
            _run_job()
            # A run ends when the queue seems empty or its time is over, so the rest needs another run.
            while read_depth(queue).visible:
                _run_job()
            run_seconds = time.monotonic() - began
        result = _result(stack, bodies, followed, run_seconds)
        with step(f"deliver {min(_AGAIN, len(followed))} of these messages again"):
            again = _delivered_again(stack, queue, followed, sent_ms)
        with step("recover one device id, as a custodian"):
            recovered = _recovered(stack)
        return replace(result, tables={**result.tables, **again, **recovered})


def show_demo(console: Console, result: DemoResult) -> None:
    """Print counts, reject reasons, masked rows, repeated devices and addresses, and what to do next."""
    _print(console, "messages", ("", ""), list(result.counts.items()))
    _print(console, "rejected, by reason", ("", ""), list(result.reasons.items()))
    for title, rows in result.tables.items():
        _print(console, title, rows.columns, rows.rows)
    console.print(
        f"\nThe run took {result.run_seconds:.1f} s. The services are stopped and their data is deleted.\n"
        "To keep them running, with the Dagster UI at http://127.0.0.1:3000 :\n\n    make dev\n"
    )


def _run_job() -> None:
    from loginpipe.definitions import build_definitions
    from loginpipe.defs.ingest.job import run_in_process

    if not run_in_process(build_definitions()):
        raise LoginpipeError("the run failed: see the error above")


def _result(stack: LocalStack, bodies: Sequence[str], followed: Mapping[str, str], run_seconds: float) -> DemoResult:
    tables = {
        "one login, as it was sent and as it is stored": _sent_and_stored(stack, json.loads(bodies[0])),
        **_one_device(stack, bodies),
        **_one_rejected(stack, followed),
        **{title: _query(stack, query) for title, query in _QUERIES.items()},
    }
    counts = _query(
        stack,
        "SELECT sum(received), sum(accepted), sum(rejected), sum(inserted), sum(duplicates), sum(deleted) "
        "FROM loginpipe.batches",
    )
    reasons = _query(
        stack,
        "SELECT reason, count(DISTINCT message_id) FROM loginpipe.rejected_messages, unnest(reasons) AS reason "
        "GROUP BY reason ORDER BY 2 DESC, 1",
    )
    names = ("received", "accepted", "rejected", "inserted", "duplicates", "deleted")
    return DemoResult(
        counts={"sent": len(bodies), **{name: int(count) for name, count in zip(names, counts.rows[0], strict=True)}},
        reasons=dict(reasons.rows),
        tables=tables,
        run_seconds=run_seconds,
    )


def _sent_and_stored(stack: LocalStack, event: dict[str, Any]) -> Rows:
    """Return an invented login in clear next to its row."""
    (row,) = _query(stack, _STORED, event["user_id"]).rows
    fields = ("user_id", "ip", "device_id", "app_version", "device_type", "locale")
    sent = [*((field, event[field]) for field in fields), ("create_date", "")]
    # All values as text, so that the version is neither grouped nor aligned as a number.
    stored = [value if value is None else str(value) for value in row]
    return Rows(("field", "sent", "stored"), [(*pair, value) for pair, value in zip(sent, stored, strict=True)])


def _one_device(stack: LocalStack, bodies: Sequence[str]) -> dict[str, Rows]:
    """Return two logins of the first device with its token, or nothing if it has only one login."""
    device = json.loads(bodies[0])["device_id"]
    users = [json.loads(body)["user_id"] for body in bodies if f'"device_id": "{device}"}}' in body][:2]
    if len(set(users)) == 1:
        return {}
    rows = [(user, device, _query(stack, _STORED, user).rows[0][2]) for user in users]
    return {"two logins from one device: one token": Rows(("user_id", "device_id, sent", "device_id, stored"), rows)}


def _send_and_follow(queue: Queue, bodies: Sequence[str]) -> dict[str, str]:
    """Send messages, and return their bodies by message id."""
    followed: dict[str, str] = {}
    for chunk in batched(bodies):
        entries: list[Any] = [{"Id": str(number), "MessageBody": body} for number, body in enumerate(chunk)]
        answer = queue.client.send_message_batch(QueueUrl=queue.url, Entries=entries)
        followed |= {sent["MessageId"]: chunk[int(sent["Id"])] for sent in answer["Successful"]}
    return followed


def _one_rejected(stack: LocalStack, followed: Mapping[str, str]) -> dict[str, Rows]:
    """Return a rejected, invented message with its reason, or nothing if no followed message was rejected."""
    found = _query(stack, _REJECTED, list(followed))
    rows = [(field, _sent(followed[message_id], field), reason) for message_id, field, reason in found.rows]
    return {"one rejected message": Rows(("field", "sent", "reason"), rows)} if rows else {}


def _sent(body: str, field: str) -> str:
    """Return the field of a message, or the whole message if it lacks the field."""
    return str(json.loads(body)[field]) if f'"{field}"' in body else body


def _delivered_again(stack: LocalStack, queue: Queue, followed: Mapping[str, str], sent_ms: int) -> dict[str, Rows]:
    """Deliver messages again with their original ids and time, as a redrive does, and return what changed."""
    stored = "SELECT count(*) FROM user_logins"
    before = _query(stack, stored).rows[0][0]
    send_again(
        queue,
        {
            message_id: {
                "MessageBody": body,
                "MessageAttributes": redrive_attributes(
                    {"MessageId": message_id, "Attributes": {"SentTimestamp": str(sent_ms)}}
                ),
            }
            for message_id, body in list(followed.items())[:_AGAIN]
        },
    )
    _run_job()
    (counts,) = _query(stack, _NEWEST_BATCH).rows
    after = _query(stack, stored).rows[0][0]
    rows = [(*counts, before, after)]
    columns = ("received", "duplicates", "inserted", "rows before", "rows after")
    return {"the same messages, delivered again: nothing changes": Rows(columns, rows)}


def _recovered(stack: LocalStack) -> dict[str, Rows]:
    """Recover the most frequent device id with the custodians' command, and return it with its access log."""
    found = _query(stack, _QUERIES["devices seen more than once"])
    if not found.rows:
        return {}
    token = found.rows[0][0]
    why = ("--purpose", "show how a value is recovered", "--ticket", "DEMO-1")
    recovered = _command("pii", "recover", token, *why, "--show", "--json")
    log = _command("pii", "audit", "list", "--json")
    return {
        "the first of these devices, recovered by a custodian": Rows(
            ("masked_device_id", "value"), [(each["token"], each["value"]) for each in recovered["values"]]
        ),
        "its entries in the access log": Rows(
            ("entry", "actor", "action", "ticket"),
            [(str(each["seq"]), each["actor"], each["action"], each["ticket"] or "") for each in reversed(log)],
        ),
    }


def _command(*arguments: str) -> Any:
    """Run a command of loginpipe, and return its JSON output.

    Raises:
        LoginpipeError: it failed.
    """
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-c", "from loginpipe.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise LoginpipeError(f"loginpipe {arguments[0]} {arguments[1]} failed: {done.stderr.strip()}")
    return json.loads(done.stdout)


def _query(stack: LocalStack, query: str, *parameters: Any) -> Rows:
    connection = connect(stack.database_url)
    try:
        with transaction(connection) as cursor:
            cursor.execute(query, parameters or None)
            return Rows(tuple(column.name for column in cursor.description or ()), cursor.fetchall())
    finally:
        connection.close()


def _print(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    table = Table(box=None, header_style="dim", show_header=any(columns), padding=(0, 0, 0, 2))
    for number, column in enumerate(columns):
        counts = any(isinstance(row[number], int) for row in rows)
        table.add_column(column, overflow="ellipsis", no_wrap=True, justify="right" if counts else "left")
    for row in rows:
        table.add_row(*map(_cell, row))
    console.print(f"\n[bold]{title}[/]")
    console.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "[dim]NULL[/]"
    if isinstance(value, int):
        return f"{value:,}"
    text = str(value)
    return text if len(text) <= _LONG else f"{text[:_SHOWN]}…"
