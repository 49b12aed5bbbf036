"""Logins of erased users are rejected, with nothing kept, if they were sent before the erasure; all others pass."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from loginpipe.logins.messages import Message
from loginpipe.logins.rejects import Reason
from loginpipe.logins.schema import VALIDATED_LOGINS_SCHEMA
from loginpipe.logins.splitting import Reject, SplitBatch, count_reasons, split_batch
from loginpipe.masking.mask import reject_erased
from loginpipe_tests.custody import token_keys
from loginpipe_tests.wire import SENT_MS, delivered, login

KEYS = token_keys(1, 2)
SENT_AT = datetime.fromtimestamp(SENT_MS / 1000, UTC)


def batch(*bodies: str, **known: Any) -> list[Message]:
    return [delivered(body, **known) for body in bodies]


def erased(*users: str, at: datetime = SENT_AT, version: int = 2) -> dict[bytes, datetime]:
    return {KEYS.tombstones(user)[version]: at for user in users}


def aside(messages: list[Message], erased_at: dict[bytes, datetime]) -> SplitBatch:
    split = reject_erased(split_batch(messages), messages, KEYS, erased_at)
    VALIDATED_LOGINS_SCHEMA.validate(split.accepted)
    ids = [*split.accepted["message_id"], *(reject.message_id for reject in split.rejected)]
    assert sorted(ids) == sorted(message.message_id for message in messages)
    return split


def test_a_login_from_before_the_erasure_becomes_a_reject_that_keeps_nothing() -> None:
    messages = batch(login(user_id="gone"), login(user_id="stays"))
    split = aside(messages, erased("gone"))
    assert list(split.accepted["user_id"]) == ["stays"]
    (reject,), gone = split.rejected, messages[0]
    assert reject == Reject(
        gone.message_id, None, gone.sent_ms, gone.received_ms, reasons=[Reason.USER_ERASED], fields=["user_id"]
    )
    assert count_reasons(split.rejected) == {"user_erased": 1}


@pytest.mark.parametrize(
    ("after_sending", "kept"),
    [(timedelta(milliseconds=-1), 1), (timedelta(0), 0), (timedelta(days=400), 0)],
    ids=["sent after the erasure", "sent at that moment", "sent long before"],
)
def test_a_login_of_a_later_time_is_a_new_one(after_sending: timedelta, kept: int) -> None:
    split = aside(batch(login(user_id="gone")), erased("gone", at=SENT_AT + after_sending))
    assert (len(split.accepted), len(split.rejected)) == (kept, 1 - kept)


def test_of_a_user_who_was_erased_under_two_versions_the_later_time_counts() -> None:
    early, late = SENT_AT - timedelta(days=1), SENT_AT + timedelta(days=1)
    for one, other in ((early, late), (late, early)):
        tombstones = erased("gone", at=one, version=1) | erased("gone", at=other, version=2)
        assert len(aside(batch(login(user_id="gone")), tombstones).rejected) == 1


@pytest.mark.parametrize("spelling", ["gone", " gone ", "gone\t"])
@pytest.mark.parametrize("version", [1, 2])
def test_every_spelling_counts_and_every_version_that_is_held(spelling: str, version: int) -> None:
    assert len(aside(batch(login(user_id=spelling)), erased("gone", version=version)).rejected) == 1


def test_the_two_forms_of_an_accent_are_one_user() -> None:
    assert len(aside(batch(login(user_id="e\u0301lodie")), erased("\u00e9lodie")).rejected) == 1


def test_other_rejects_stay_as_they_are_and_come_first() -> None:
    bodies = ["nonsense", login(user_id="gone"), login(user_id="gone", ip="none"), login(user_id="stays")]
    split = aside(batch(*bodies), erased("gone"))
    assert [(reject.reasons, reject.body) for reject in split.rejected] == [
        (["not_json"], "nonsense"),
        (["invalid_address"], bodies[2]),
        (["user_erased"], None),
    ]


def test_a_batch_of_erased_users_alone_leaves_an_empty_frame_of_the_right_columns() -> None:
    split = aside(batch(login(user_id="gone"), login(user_id="gone")), erased("gone"))
    assert len(split.accepted) == 0
    assert list(split.accepted.columns) == list(VALIDATED_LOGINS_SCHEMA.columns)


@pytest.mark.parametrize("messages", [batch(), batch(login(), "nonsense")], ids=["no messages", "some"])
@pytest.mark.parametrize("erased_at", [{}, erased("someone else")], ids=["nobody erased", "someone else"])
def test_where_no_one_of_the_batch_was_erased_the_batch_is_the_same_object(
    messages: list[Message], erased_at: dict[bytes, datetime]
) -> None:
    split = split_batch(messages)
    assert reject_erased(split, messages, KEYS, erased_at) is split
