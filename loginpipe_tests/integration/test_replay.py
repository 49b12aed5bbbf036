"""Rejected messages replayed: one row each with the first date, however often they are sent; bad ones stay rejected."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg2
import pytest

from loginpipe.common.errors import AccessRefusedError, DatabaseError, OpeningError, QueueError
from loginpipe.common.settings import load_settings
from loginpipe.custody.opening import Opener, Problem
from loginpipe.custody.replay import ReplayCounts, replay
from loginpipe.local.stack import LocalStack
from loginpipe.logins.splitting import Reject
from loginpipe.masking.key_files import read_seal_key
from loginpipe.masking.sealing import Sealed, SealKey, seal
from loginpipe.postgres.connections import Connection, transaction
from loginpipe.postgres.ledger import RejectFilter, find_rejects
from loginpipe.postgres.load import insert_rejects
from loginpipe.postgres.partitions import maintain
from loginpipe.postgres.statements import statement
from loginpipe.sqs.client import Queue, open_queue, read_depth
from loginpipe.sqs.deliveries import identity, replay_id
from loginpipe_tests.commands import command_line
from loginpipe_tests.conftest import KeyFiles, Pipeline, as_role
from loginpipe_tests.custody import bulk, connected, new_private_key, opener_of
from loginpipe_tests.wire import Wire, failed_entries, login, logins, not_allowed, refusal, take

WHY = ("--purpose", "the rules were fixed", "--ticket", "TEST-1")
# Not long enough ago for an original to be too old.
SENT_AT = datetime.now(UTC).replace(hour=23, minute=59, second=59, microsecond=123000) - timedelta(days=61)


@dataclass(frozen=True)
class Rejects:
    """The rejects of a database, with the connections, the queue and the keys to replay them."""

    connection: Connection
    custodian: Connection
    queue: Queue
    opener: Opener
    recipient: SealKey

    def record(self, *bodies: str, sent_at: datetime = SENT_AT, sealed: bool = True, **other: Any) -> list[str]:
        """Record messages as if an older version had rejected them; return their ids."""
        ids = [str(uuid4()) for _ in bodies]
        reasons = other.get("reasons", ["invalid_version"])
        recipients = other.get("recipients", [self.recipient]) if sealed else []
        self._record(dict(zip(ids, bodies, strict=True)), int(sent_at.timestamp() * 1000), reasons, recipients)
        return ids

    def _record(
        self, bodies: Mapping[str, str], sent_ms: int, reasons: list[str], recipients: Sequence[SealKey]
    ) -> None:
        items = [(message_id, body.encode("utf-8", "surrogatepass")) for message_id, body in bodies.items()]
        kept = seal(items, "body", recipients) if recipients else Sealed()
        fields = ["app_version"] * len(reasons)
        rejected = [Reject(i, body, sent_ms, sent_ms + 5_000, reasons, fields) for i, body in bodies.items()]
        with transaction(self.connection) as cursor:
            cursor.execute(statement("begin_batch"), {"batch_id": str(uuid4())})
            assert insert_rejects(cursor, rejected, kept, str(uuid4())) == len(bodies)

    def replay(self, ids: Sequence[str], **options: Any) -> ReplayCounts:
        """Replay rejects as a custodian, under a bulk request."""
        queue, opener = options.pop("queue", self.queue), options.pop("opener", self.opener)
        found = {reject.message_id: reject for reject in find_rejects(self.custodian, RejectFilter(replayed=True))}
        under = bulk(self.custodian)
        return replay(self.custodian, queue, opener, [found[i] for i in ids], under, **options)

    def replayed(self) -> set[str]:
        found = find_rejects(self.connection, RejectFilter(replayed=True))
        return {reject.message_id for reject in found if reject.replayed_at is not None}

    def execute(self, statement: str) -> None:
        with self.connection, self.connection.cursor() as cursor:
            cursor.execute(statement)


@contextmanager
def opened(database_url: str, queue: Queue, key_files: KeyFiles) -> Iterator[Rejects]:
    with connected(database_url) as connection, connected(as_role(database_url, "custodian")) as custodian:
        opener, recipient = opener_of(key_files.seal_private), read_seal_key(key_files.seal_public)
        yield Rejects(connection, custodian, queue, opener, recipient)


@pytest.fixture
def rejects(pipeline: Pipeline, key_files: KeyFiles) -> Iterator[Rejects]:
    """Yield the rejects in a pipeline's database."""
    with opened(pipeline.database_url, pipeline.queue, key_files) as rejects:
        yield rejects


@pytest.fixture(scope="module")
def shared_database_url(stack: LocalStack, migrated_template: str) -> Iterator[str]:
    """Yield the URL of one database for all tests that only need rejects and a queue."""
    name = f"rejects_{uuid4().hex}"
    connection = psycopg2.connect(stack.database_url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name} TEMPLATE {migrated_template}")
        yield stack.database_url.replace("/loginpipe?", f"/{name}?")
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
    connection.close()


@pytest.fixture
def alone(shared_database_url: str, queue: Queue, key_files: KeyFiles) -> Iterator[Rejects]:
    """Yield rejects without a pipeline."""
    with opened(shared_database_url, queue, key_files) as rejects:
        rejects.execute("TRUNCATE loginpipe.rejected_messages, loginpipe.ingested_messages, vault.data_keys")
        yield rejects


@dataclass(frozen=True)
class Other:
    """Another private key."""

    recipient: SealKey
    opener: Opener


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Other:
    path = tmp_path_factory.mktemp("other") / "private.pem"
    return Other(new_private_key(path, 2048), opener_of(path))


def waiting(queue: Queue) -> list[Any]:
    """Return all messages that the queue delivers now."""
    found = []
    while answer := queue.client.receive_message(
        QueueUrl=queue.url,
        MaxNumberOfMessages=10,
        MessageSystemAttributeNames=["SentTimestamp"],
        MessageAttributeNames=["All"],
    ).get("Messages"):
        found += answer
    return found


def rows(pipeline: Pipeline) -> list[Any]:
    return pipeline.rows("SELECT user_id, create_date FROM user_logins ORDER BY user_id")


# --- through the whole chain ------------------------------------------------------------------------------------------


def test_a_reject_that_todays_rules_accept_becomes_one_row_of_its_first_day(
    pipeline: Pipeline, rejects: Rejects
) -> None:
    (message_id,) = rejects.record(login(user_id="again"))
    assert rejects.replay([message_id]) == ReplayCounts(sent=1)
    assert rejects.replayed() == {message_id}
    assert take(pipeline, 1).success
    assert rows(pipeline) == [("again", SENT_AT.date())]
    ledger = pipeline.rows(
        "SELECT message_id, sent_on FROM loginpipe.ingested_messages ORDER BY message_id = %s", message_id
    )
    assert ledger == [(str(replay_id(UUID(message_id))), SENT_AT.date()), (message_id, SENT_AT.date())]
    assert pipeline.depth() == (0, 0)
    assert pipeline.rows("SELECT count(*) FROM loginpipe.rejected_messages") == [(1,)], "the reject stays on record"


def test_a_replay_interrupted_before_it_was_marked_is_sent_again_and_is_still_one_row(
    pipeline: Pipeline, rejects: Rejects
) -> None:
    ids = rejects.record(*logins(2))
    rejects.execute("REVOKE UPDATE (replayed_at) ON loginpipe.rejected_messages FROM pii_custodian")
    with pytest.raises(DatabaseError):
        rejects.replay(ids)
    rejects.execute("GRANT UPDATE (replayed_at) ON loginpipe.rejected_messages TO pii_custodian")
    assert rejects.replayed() == set()
    assert take(pipeline, 2).success

    assert rejects.replay(ids) == ReplayCounts(sent=2)
    assert rejects.replayed() == set(ids)
    assert take(pipeline, 2).success
    assert rows(pipeline) == [("user-0", SENT_AT.date()), ("user-1", SENT_AT.date())]
    counts = pipeline.rows("SELECT inserted, duplicates FROM loginpipe.batches WHERE deleted > 0 ORDER BY inserted")
    assert counts == [(0, 2), (2, 0)]
    assert pipeline.depth() == (0, 0)


@pytest.mark.parametrize(
    ("age", "later"),
    [(40, 0), (29, 1)],
    ids=["older than any partition", "in the oldest partition, the day before its end"],
)
def test_an_old_reject_that_is_sent_twice_is_one_row_also_when_partitions_were_maintained_in_between(
    pipeline: Pipeline, rejects: Rejects, age: int, later: int
) -> None:
    """The ledger drops days older than any message on a queue. A replay has such a day, although its message is new."""
    now = datetime.now(UTC)
    maintain(rejects.connection, now.date())
    ids = rejects.record(login(user_id="again"), sent_at=now - timedelta(days=age))
    for _ in range(2):
        assert rejects.replay(ids).sent == 1
        assert take(pipeline, 1).success
        maintain(rejects.connection, (now + timedelta(days=later)).date())
    assert [user for user, _ in rows(pipeline)] == ["again"]


def test_a_replay_that_is_rejected_again_is_a_reject_of_its_own(pipeline: Pipeline, rejects: Rejects) -> None:
    (message_id,) = rejects.record("{}")
    attributes = {
        "loginpipe.replay_of": {"DataType": "String", "StringValue": message_id},
        "loginpipe.sent_ms": {"DataType": "String", "StringValue": str(int(SENT_AT.timestamp() * 1000))},
    }
    rejects.queue.client.send_message(
        QueueUrl=rejects.queue.url,
        MessageBody="{}",
        MessageAttributes=attributes,  # type: ignore[arg-type]
    )
    assert take(pipeline, 1).success
    found = {reject.message_id: reject.sent_at for reject in find_rejects(rejects.connection, RejectFilter())}
    assert found == {message_id: SENT_AT, str(replay_id(UUID(message_id))): SENT_AT}


@pytest.mark.parametrize(
    ("retention", "days", "rejected"), [("", 365, False), ("", 367, True), ("30", 31, True), ("400", 399, False)]
)
@pytest.mark.parametrize("name", ["replay_of", "redrive_of"])
def test_a_message_that_is_sent_with_a_date_from_before_what_is_kept_is_a_reject_of_its_own_day(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, name: str, retention: str, *, days: int, rejected: bool
) -> None:
    """Anyone who may send to the queue can set the attributes."""
    monkeypatch.setenv("LOGINPIPE_RETENTION_DAYS", retention)
    now, claimed = datetime.now(UTC), str(uuid4())
    sent_ms = int((now - timedelta(days=days)).timestamp() * 1000)
    attributes = {f"loginpipe.{name}": claimed, "loginpipe.sent_ms": str(sent_ms)}
    sent = pipeline.queue.client.send_message(
        QueueUrl=pipeline.queue.url,
        MessageBody=login(),
        MessageAttributes={key: {"DataType": "String", "StringValue": value} for key, value in attributes.items()},
    )
    assert take(pipeline, 1).success
    assert pipeline.depth() == (0, 0)
    found = pipeline.rows("SELECT message_id::text, reasons, fields, sent_at FROM loginpipe.rejected_messages")
    if rejected:
        ((message_id, reasons, fields, sent_at),) = found
        assert (message_id, reasons, fields) == (sent["MessageId"], ["date_too_old"], ["body"])
        assert now - timedelta(minutes=1) < sent_at < now + timedelta(minutes=1)
        assert rows(pipeline) == []
    else:
        assert found == []
        assert [day for _, day in rows(pipeline)] == [(now - timedelta(days=days)).date()]


def test_a_reject_that_is_too_old_for_a_run_is_not_sent_nor_opened(alone: Rejects) -> None:
    now = datetime.now(UTC)
    old, young = (alone.record(login(), sent_at=now - timedelta(days=days)) for days in (31, 29))
    assert alone.replay([*old, *young], resent_days=30) == ReplayCounts(sent=1, still_bad=1)
    assert alone.replayed() == set(young)


# --- what is sent -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        login(user_id="é😀\u2028"),
        json.dumps(json.loads(login(user_id="é😀")), ensure_ascii=False),
        f"  {login()}\n",
        login(extra="x" * 900_000),
    ],
    ids=["escaped", "not ASCII", "white space around it", "large"],
)
def test_a_body_is_sent_as_it_was_received(alone: Rejects, body: str) -> None:
    (message_id,) = alone.record(body)
    assert alone.replay([message_id]).sent == 1
    (message,) = waiting(alone.queue)
    assert message["Body"] == body
    known_as = identity(message)
    assert known_as.message_id == str(replay_id(UUID(message_id)))
    assert known_as.sent_ms == int(SENT_AT.timestamp() * 1000)


def test_what_is_still_bad_is_counted_and_stays(alone: Rejects) -> None:
    bad = alone.record("{}", "nonsense", login(ip="1.2.3"), "[1]")
    good = alone.record(*logins(2))
    assert alone.replay([*bad, *good]) == ReplayCounts(sent=2, still_bad=4)
    assert alone.replayed() == set(good)
    assert len(waiting(alone.queue)) == 2


@pytest.mark.parametrize("body", ['{"user_id": "\ud800"}', login().replace("android", "\udfff"), "\ud83d"])
def test_a_body_that_is_no_unicode_is_still_bad_and_holds_up_no_other(alone: Rejects, body: str) -> None:
    (message_id, good) = alone.record(body, login())
    assert alone.replay([message_id, good]) == ReplayCounts(sent=1, still_bad=1)
    assert alone.replayed() == {good}


def test_what_was_recorded_without_a_body_is_counted_and_stays(alone: Rejects) -> None:
    without = alone.record(*logins(2), sealed=False)
    (good,) = alone.record(login())
    assert alone.replay([*without, good]) == ReplayCounts(sent=1, without_body=2)
    assert alone.replayed() == {good}


def test_a_dry_run_counts_and_changes_nothing(alone: Rejects) -> None:
    ids = [*alone.record(*logins(2), "{}"), *alone.record("{}", sealed=False)]
    assert alone.replay(ids, dry_run=True) == ReplayCounts(sent=2, still_bad=1, without_body=1)
    assert alone.replayed() == set()
    assert read_depth(alone.queue).total == 0


def test_more_than_a_batch_is_sent_and_each_once(alone: Rejects) -> None:
    ids = alone.record(*logins(23))
    looked_at: list[int] = []
    assert alone.replay(ids, progress=looked_at.append) == ReplayCounts(sent=23)
    assert sum(looked_at) == 23
    assert {identity(message).message_id for message in waiting(alone.queue)} == {
        str(replay_id(UUID(message_id))) for message_id in ids
    }


def test_large_rejects_that_are_too_much_for_one_call_together_are_sent_all_the_same(alone: Rejects) -> None:
    ids = alone.record(*(login(user_id=str(number), extra="x" * 400_000) for number in range(5)))
    assert alone.replay(ids) == ReplayCounts(sent=5)
    assert alone.replayed() == set(ids)
    assert len(waiting(alone.queue)) == 5


def test_no_rejects_are_none_to_send(alone: Rejects) -> None:
    assert alone.replay([]) == ReplayCounts()


def test_a_value_sealed_for_two_is_opened_by_either(alone: Rejects, other: Other) -> None:
    ids = alone.record(login(), recipients=[other.recipient, alone.recipient])
    for opener in (other.opener, alone.opener):
        assert alone.replay(ids, opener=opener, dry_run=True) == ReplayCounts(sent=1)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_the_wrong_key_opens_nothing_and_nothing_is_sent(alone: Rejects, other: Other) -> None:
    ids = alone.record(*logins(3))
    with pytest.raises(OpeningError, match=r"^data key .* does not unwrap") as caught:
        alone.replay(ids, opener=other.opener)
    assert caught.value.problem == Problem.OTHER_RECIPIENT
    said = str(caught.value)
    assert "\n" not in said
    assert "user-" not in said
    assert alone.recipient.fingerprint[:16] in said, "it names the key that would open it"
    assert caught.value.__cause__ is None
    assert alone.replayed() == set()
    assert read_depth(alone.queue).total == 0


def test_a_body_that_was_changed_in_the_database_is_refused(alone: Rejects) -> None:
    ids = alone.record(login())
    alone.execute("UPDATE loginpipe.rejected_messages SET sealed_body = set_byte(sealed_body, 0, 7)")
    alone.execute("UPDATE loginpipe.rejected_messages SET sealed_body = set_byte(sealed_body, 1, 7)")
    with pytest.raises(OpeningError, match=rf"^the sealed body of {ids[0]} cannot be opened") as caught:
        alone.replay(ids)
    assert "\n" not in str(caught.value)
    assert read_depth(alone.queue).total == 0


def test_bodies_swapped_between_two_rejects_are_refused(alone: Rejects) -> None:
    ids = alone.record(login(user_id="a"), login(user_id="b"))
    alone.execute(
        """
        UPDATE loginpipe.rejected_messages AS this
        SET sealed_body = other.sealed_body, position = other.position
        FROM loginpipe.rejected_messages AS other
        WHERE other.message_id <> this.message_id
        """
    )
    with pytest.raises(OpeningError) as caught:
        alone.replay(ids)
    assert caught.value.problem == Problem.CHANGED
    assert read_depth(alone.queue).total == 0


def test_what_another_role_requested_is_not_replayed_under(alone: Rejects) -> None:
    ids = alone.record(*logins(2))
    rejects = find_rejects(alone.custodian, RejectFilter())
    under = bulk(alone.connection)
    with pytest.raises(AccessRefusedError) as caught:
        replay(alone.custodian, alone.queue, alone.opener, rejects, under)
    assert caught.value.code == "unusable_parent"
    assert alone.replayed() == set()
    assert len(ids) == len(rejects)


def test_every_body_that_was_opened_is_on_record_also_of_a_dry_run(alone: Rejects) -> None:
    ids = alone.record(*logins(40))
    alone.replay(ids, dry_run=True)
    with alone.connection, alone.connection.cursor() as cursor:
        cursor.execute(
            "SELECT array_agg(subject), count(DISTINCT seq) FROM vault.access_log, unnest(subjects) AS subject "
            "WHERE action = 'release' AND subject = ANY (%s)",
            (ids,),
        )
        ((released, releases),) = cursor.fetchall()
    assert sorted(released) == sorted(ids)
    assert releases == 2, "bodies can be large, so not all of them come in one release"


@pytest.fixture
def wire(alone: Rejects, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    with Wire(alone.queue.client.meta.endpoint_url) as wire:
        monkeypatch.setenv("AWS_ENDPOINT_URL", wire.url)
        yield wire


def test_a_replay_makes_no_call_that_the_custodians_policy_does_not_allow(alone: Rejects, wire: Wire) -> None:
    ids = alone.record(*logins(2))
    assert alone.replay(ids, queue=open_queue(alone.queue.name, load_settings(), connections=1)).sent == 2
    assert not_allowed(wire.calls, "custodian") == set()


def test_what_the_queue_refuses_is_not_marked_and_the_others_are(alone: Rejects, wire: Wire) -> None:
    ids = alone.record(*logins(3))
    wire.on(
        "SendMessageBatch",
        failed_entries(
            "InvalidMessageContents", sender_fault=True, which=lambda entry: "user-1" in entry["MessageBody"]
        ),
    )
    counts = alone.replay(ids, queue=open_queue(alone.queue.name, load_settings(), connections=1))
    assert counts == ReplayCounts(sent=2, refused=Counter(InvalidMessageContents=1))
    assert alone.replayed() == {ids[0], ids[2]}


def test_a_body_that_leaves_no_room_for_our_attributes_is_refused_and_holds_up_no_other(alone: Rejects) -> None:
    long = login(padding="x" * (2**20 - len(login(padding=""))))
    ids = alone.record(long, *logins(2))
    assert alone.replay(ids) == ReplayCounts(sent=2, refused=Counter(MessageTooLong=1))
    assert alone.replayed() == set(ids[1:])


def test_the_command_says_what_was_refused_by_code_and_exits_with_1(
    rejects: Rejects,
    key_files: KeyFiles,
    custodian_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rejects.record(login(padding="x" * (2**20 - len(login(padding="")))), login())
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", custodian_url)
    loginpipe = command_line(monkeypatch, capsys)
    replaying = ("rejects", "replay", *WHY, "--private-key", key_files.seal_private)
    for arguments, said in (
        (
            ["--json"],
            {"sent": 1, "still_bad": 0, "without_body": 0, "refused": {"MessageTooLong": 1}, "dry_run": False},
        ),
        ([], f"0 sent to queue '{rejects.queue.name}'; 0 are still invalid and stay rejected\n"),
    ):
        done = loginpipe(*replaying, *arguments)
        assert done.code == 1
        assert (json.loads(done.out) if arguments else done.out) == said
        assert done.err == (
            f"error: queue '{rejects.queue.name}' refused messages (1 MessageTooLong), which stay rejected: see "
            "docs/operations.md#what-is-refused\n"
        )


def test_a_queue_that_takes_nothing_ends_the_replay_in_one_line_and_nothing_is_marked(
    alone: Rejects, wire: Wire
) -> None:
    ids = alone.record(*logins(3))
    wire.on("SendMessageBatch", lambda _call, _forward: refusal("AccessDenied", 403))
    with pytest.raises(QueueError) as caught:
        alone.replay(ids, queue=open_queue(alone.queue.name, load_settings(), connections=1))
    assert str(caught.value) == (
        f"queue '{alone.queue.name}' takes no messages (AccessDenied): they stay where they are; fix that and start "
        "again"
    )
    assert alone.replayed() == set()


def test_a_replay_interrupted_between_two_batches_has_marked_what_it_sent(alone: Rejects) -> None:
    ids = alone.record(*logins(15))

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        alone.replay(ids, progress=interrupt)
    marked = alone.replayed()
    assert {identity(message).message_id for message in waiting(alone.queue)} == {
        str(replay_id(UUID(message_id))) for message_id in marked
    }
    assert 0 < len(marked) < 15
