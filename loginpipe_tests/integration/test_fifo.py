"""FIFO queues: ingest, return and redrive keep the order within each message group."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any
from uuid import UUID, uuid4

import boto3
import pytest

from loginpipe import cli
from loginpipe.common.settings import load_settings
from loginpipe.custody.replay import replay
from loginpipe.postgres.connections import connect, transaction
from loginpipe.postgres.ledger import RejectFilter, find_rejects, recorded
from loginpipe.sqs import dead_letters
from loginpipe.sqs.client import Queue, open_queue, read_depth
from loginpipe.sqs.dead_letters import RedriveCounts, redrive, redrive_policy
from loginpipe.sqs.deliveries import identity, replay_id
from loginpipe_tests.conftest import KeyFiles, Pipeline, execute
from loginpipe_tests.custody import bulk, opener_of
from loginpipe_tests.wire import Wire, eventually, failed_entries, login, metadata, take

GROUPS = ("a", "b", "c")


@pytest.fixture
def queue(aws: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Queue]:
    """Yield a FIFO queue of this test, with its FIFO dead-letter queue."""
    monkeypatch.setattr(dead_letters, "_DELETE_PAUSES", ())
    client = boto3.client("sqs")
    name = f"logins-{uuid4().hex}"
    dead = client.create_queue(QueueName=f"{name}-dlq.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"]
    arn = client.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": "3"})
    client.create_queue(QueueName=f"{name}.fifo", Attributes={"FifoQueue": "true", "RedrivePolicy": policy})
    queue = open_queue(f"{name}.fifo", load_settings(), connections=4)
    monkeypatch.setenv("LOGINPIPE_QUEUE", queue.name)
    monkeypatch.setenv("LOGINPIPE_RECEIVERS", "2")
    yield queue
    client.delete_queue(QueueUrl=queue.url)
    client.delete_queue(QueueUrl=dead)


@pytest.fixture
def dead(queue: Queue) -> Queue:
    policy = redrive_policy(queue)
    assert policy is not None
    return policy.dead_letters


def send(queue: Queue, messages: Iterable[tuple[str, str]]) -> list[str]:
    """Send messages, each a group and a body, in this order; return their ids."""
    return [
        queue.client.send_message(
            QueueUrl=queue.url, MessageBody=body, MessageGroupId=group, MessageDeduplicationId=uuid4().hex
        )["MessageId"]
        for group, body in messages
    ]


def in_turn(number: int) -> list[tuple[str, str]]:
    """Return ``number`` logins for each group, in turn; the user contains the group and the number."""
    return [(group, login(user_id=f"{group}-{place:02}")) for place in range(number) for group in GROUPS]


def rows_by_group(pipeline: Pipeline) -> dict[str, list[str]]:
    """Return the users of each group in the order in which they were written."""
    users = sorted(
        (user for (user,) in pipeline.rows("SELECT user_id FROM user_logins ORDER BY tableoid, ctid")),
        key=lambda user: user.partition("-")[0],
    )
    return {group: list(found) for group, found in groupby(users, key=lambda user: user.partition("-")[0])}


def expected(number: int) -> dict[str, list[str]]:
    return {group: [f"{group}-{place:02}" for place in range(number)] for group in GROUPS}


def kill(queue: Queue, dead: Queue, messages: list[tuple[str, str]]) -> list[str]:
    """Send messages and receive them until they are dead letters; return their ids."""
    ids = send(queue, messages)

    def received_once_more() -> bool:
        queue.client.receive_message(QueueUrl=queue.url, MaxNumberOfMessages=10, VisibilityTimeout=0)
        return read_depth(dead).visible == len(messages)

    eventually(received_once_more, "dead letters")
    return ids


def received(queue: Queue) -> list[Any]:
    """Receive and delete all messages of a FIFO queue in order. Without the deletes, their groups would stay locked."""
    found = []
    while answer := queue.client.receive_message(
        QueueUrl=queue.url,
        MaxNumberOfMessages=10,
        MessageSystemAttributeNames=["SentTimestamp", "MessageGroupId"],
        MessageAttributeNames=["All"],
    ).get("Messages"):
        found += answer
        for message in answer:
            queue.client.delete_message(QueueUrl=queue.url, ReceiptHandle=message["ReceiptHandle"])
    return found


def bodies_by_group(messages: Iterable[Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for message in messages:
        found.setdefault(message["Attributes"]["MessageGroupId"], []).append(json.loads(message["Body"])["user_id"])
    return found


@pytest.mark.parametrize("batch_messages", [4, 100])
def test_a_run_works_a_fifo_queue_off_and_keeps_the_order_of_each_group(
    pipeline: Pipeline, batch_messages: int
) -> None:
    """A group delivers more only after its messages are deleted, so a run may find the queue empty before that."""
    send(pipeline.queue, in_turn(6))
    runs = 0
    while pipeline.depth() != (0, 0):
        assert take(pipeline, batch_messages).success
        runs += 1
        assert runs <= 10
    assert rows_by_group(pipeline) == expected(6)
    ((inserted, deleted),) = pipeline.rows("SELECT sum(inserted), sum(deleted) FROM loginpipe.batches")
    assert (inserted, deleted) == (18, 18)


def test_bad_messages_in_between_hold_up_no_group(pipeline: Pipeline) -> None:
    send(
        pipeline.queue,
        [
            ("a", login(user_id="a-00")),
            ("a", "nonsense"),
            ("a", login(user_id="a-01")),
            ("b", "{}"),
            ("b", login(user_id="b-00")),
        ],
    )
    assert take(pipeline, 5).success
    assert rows_by_group(pipeline) == {"a": ["a-00", "a-01"], "b": ["b-00"]}
    assert pipeline.rows("SELECT count(*) FROM loginpipe.rejected_messages") == [(2,)]
    assert pipeline.depth() == (0, 0)


def test_a_group_handed_back_by_a_failed_run_comes_again_in_its_order(
    pipeline: Pipeline,
) -> None:
    """Each message of a group becomes visible at its own time, but never before the messages that precede it."""
    send(pipeline.queue, in_turn(3))
    execute(pipeline.database_url, "ALTER TABLE user_logins RENAME TO away")
    assert not take(pipeline, 9).success
    assert sum(pipeline.depth()) == 9
    execute(pipeline.database_url, "ALTER TABLE away RENAME TO user_logins")
    runs = redelivered = 0
    while pipeline.depth() != (0, 0):
        eventually(lambda: pipeline.depth()[0] > 0, "messages returned")
        result = pipeline.run()
        assert result.success
        redelivered += metadata(result)["raw_sqs_messages"]["redelivered"]
        runs += 1
        assert runs <= 20
    assert redelivered > 0
    assert rows_by_group(pipeline) == expected(3)


def test_dead_letters_go_back_in_the_order_of_their_groups_and_keep_their_ids(queue: Queue, dead: Queue) -> None:
    ids = kill(queue, dead, in_turn(5))
    assert redrive(queue, dead, recorded=lambda _: []) == RedriveCounts(moved=15)
    assert read_depth(dead).total == 0
    back = received(queue)
    assert bodies_by_group(back) == expected(5)
    assert sorted(identity(message).message_id for message in back) == sorted(ids)


def test_more_dead_letters_of_one_group_than_a_batch_go_back_in_their_order(queue: Queue, dead: Queue) -> None:
    kill(queue, dead, [("a", login(user_id=f"a-{place:02}")) for place in range(13)])
    assert redrive(queue, dead, recorded=lambda _: []).moved == 13
    assert bodies_by_group(received(queue)) == {"a": [f"a-{place:02}" for place in range(13)]}


def test_a_redrive_interrupted_between_send_and_delete_and_begun_again_doubles_nothing(
    pipeline: Pipeline, dead: Queue
) -> None:
    kill(pipeline.queue, dead, in_turn(2))
    with Wire(pipeline.queue.client.meta.endpoint_url) as wire:
        through = replace(dead, client=_by_way_of(wire))
        wire.on("DeleteMessageBatch", failed_entries("InternalError", sender_fault=False))
        redrive(pipeline.queue, through, recorded=lambda _: [])
    assert read_depth(dead).visible == 6
    assert redrive(pipeline.queue, dead, recorded=lambda _: []).moved == 6
    assert take(pipeline, 6).success
    assert rows_by_group(pipeline) == expected(2)
    assert pipeline.depth() == (0, 0)
    assert read_depth(dead).total == 0


def test_an_outcome_is_found_although_sqs_dates_a_dead_letter_of_a_fifo_queue_again(
    pipeline: Pipeline, dead: Queue
) -> None:
    """SQS dates it to when it became a dead letter. The ledger has its first day, from a run that did not delete it."""
    ids = kill(pipeline.queue, dead, in_turn(2))
    connection = connect(pipeline.database_url)
    with transaction(connection) as cursor:
        cursor.executemany(
            "INSERT INTO loginpipe.ingested_messages VALUES (%s, current_date - %s, gen_random_uuid())",
            [(message_id, days) for days, message_id in enumerate(ids[:-1], start=1)],
        )
    known = redrive(pipeline.queue, dead, recorded=lambda found: recorded(connection, [i.message_id for i in found]))
    connection.close()
    assert known == RedriveCounts(dropped=5, moved=1)
    assert [identity(message).message_id for message in received(pipeline.queue)] == ids[-1:]


def _by_way_of(wire: Wire) -> Any:
    return boto3.client("sqs", endpoint_url=wire.url)


def test_a_dry_run_leaves_the_dead_letters_in_their_order(queue: Queue, dead: Queue) -> None:
    kill(queue, dead, in_turn(3))
    assert redrive(queue, dead, recorded=lambda _: [], dry_run=True).moved == 9
    assert read_depth(queue).total == 0
    assert bodies_by_group(received(dead)) == expected(3)


def test_a_reject_is_replayed_to_a_fifo_queue_and_sent_twice_is_there_once(
    pipeline: Pipeline, key_files: KeyFiles
) -> None:
    # A good login that the table refused for some time.
    pipeline.execute("ALTER TABLE user_logins ADD CONSTRAINT refuses CHECK (user_id IS NULL) NOT VALID")
    send(pipeline.queue, [("a", login())])
    assert take(pipeline, 1).success
    ((message_id,),) = pipeline.rows("SELECT message_id::text FROM loginpipe.rejected_messages")
    connection = connect(pipeline.database_url)
    under = bulk(connection)
    for _ in range(2):
        rejects = find_rejects(connection, RejectFilter(message_id=message_id, replayed=True))
        assert replay(connection, pipeline.queue, opener_of(key_files.seal_private), rejects, under).sent == 1
    connection.close()
    (message,) = received(pipeline.queue)
    assert identity(message).message_id == str(replay_id(UUID(message_id)))
    assert message["Attributes"]["MessageGroupId"] == message_id


def test_events_are_sent_to_a_fifo_queue_too(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["loginpipe", "send", "--count", "12", "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert json.loads(capsys.readouterr().out) == {"queue": queue.name, "sent": 12}
    assert len(received(queue)) == 12
