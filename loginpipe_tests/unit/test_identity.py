"""The identity of a delivery: a message of SQS, one moved back from the dead-letter queue, or a replayed reject."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loginpipe.sqs.deliveries import Identity, identity, redrive_attributes, replay_attributes, replay_id

OWN_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
OWN_MS = int(datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp() * 1000)
FIRST_ID = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
DAY_MS = 86_400_000
FIRST_MS = OWN_MS - 5 * DAY_MS
OWN = Identity(OWN_ID, OWN_MS)

moderate = settings(max_examples=300, deadline=None, print_blob=True)


def text(value: str) -> dict[str, Any]:
    return {"DataType": "String", "StringValue": value}


def delivery(attributes: dict[str, Any] | None = None, *, message_id: str = OWN_ID, sent_ms: int = OWN_MS) -> Any:
    """Return a delivery as boto3 gives it. Without attributes, it has no entry for them."""
    message: dict[str, Any] = {
        "MessageId": message_id,
        "Body": "{}",
        "ReceiptHandle": "handle",
        "Attributes": {"SentTimestamp": str(sent_ms), "ApproximateReceiveCount": "1"},
    }
    return message if attributes is None else {**message, "MessageAttributes": attributes}


def carrying(**carried: str) -> Any:
    """Return a delivery with attributes of ours, given without their prefix."""
    return delivery({f"loginpipe.{name}": text(value) for name, value in carried.items()})


def sent_again(message: Any, *, sent_ms: int = OWN_MS + 60_000) -> Any:
    """Return the delivery of a redriven dead letter, to which SQS gives a new id and a new time."""
    return delivery(dict(redrive_attributes(message)), message_id=str(uuid4()), sent_ms=sent_ms)


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attributes", [None, {}, {"trace": text("1-2-3")}, {"redrive_of": text(FIRST_ID)}])
def test_a_plain_delivery_is_the_message_that_sqs_numbered(attributes: dict[str, Any] | None) -> None:
    assert identity(delivery(attributes)) == OWN


def test_a_dead_letter_that_was_moved_back_keeps_its_first_id_and_time() -> None:
    assert identity(carrying(redrive_of=FIRST_ID, sent_ms=str(FIRST_MS))) == Identity(FIRST_ID, FIRST_MS)


def test_a_reject_that_is_tried_again_keeps_its_first_time_under_an_id_of_its_own() -> None:
    replayed = identity(carrying(replay_of=FIRST_ID, sent_ms=str(FIRST_MS)))
    assert replayed.sent_ms == FIRST_MS
    assert replayed.message_id not in {FIRST_ID, OWN_ID}
    assert replayed == identity(delivery(dict(replay_attributes(UUID(FIRST_ID), FIRST_MS)), message_id=str(uuid4())))


def test_the_id_of_a_replay_is_the_same_in_every_version() -> None:
    """Another id would make a second row of a replay that is in progress during an upgrade of loginpipe."""
    assert str(replay_id(UUID(FIRST_ID))) == "33afad4a-142e-50e3-85d6-514432d85371"


def test_the_replay_of_a_rejected_replay_is_another_message() -> None:
    once = replay_id(UUID(FIRST_ID))
    assert len({UUID(FIRST_ID), once, replay_id(once), replay_id(replay_id(once))}) == 4


@pytest.mark.parametrize(
    "spelling",
    [FIRST_ID.upper(), f"{{{FIRST_ID}}}", f"urn:uuid:{FIRST_ID}", FIRST_ID.replace("-", "")],
    ids=["upper case", "braces", "urn", "no hyphens"],
)
@pytest.mark.parametrize("name", ["redrive_of", "replay_of"])
def test_an_id_is_the_same_however_it_is_spelt(name: str, spelling: str) -> None:
    canonical = carrying(**{name: FIRST_ID, "sent_ms": str(FIRST_MS)})
    assert identity(carrying(**{name: spelling, "sent_ms": str(FIRST_MS)})) == identity(canonical)


@pytest.mark.parametrize("name", ["redrive_of", "replay_of"])
@pytest.mark.parametrize(
    "carried",
    [
        {"id": "not-a-uuid", "sent_ms": str(FIRST_MS)},
        {"id": "", "sent_ms": str(FIRST_MS)},
        {"id": FIRST_ID[:-1], "sent_ms": str(FIRST_MS)},
        {"id": f"{FIRST_ID}\n", "sent_ms": str(FIRST_MS)},
        {"id": "\ud800", "sent_ms": str(FIRST_MS)},
        {"id": FIRST_ID},
        {"id": FIRST_ID, "sent_ms": ""},
        {"id": FIRST_ID, "sent_ms": "yesterday"},
        {"id": FIRST_ID, "sent_ms": "1.7e12"},
        {"id": FIRST_ID, "sent_ms": "9" * 5000},
        {"sent_ms": str(FIRST_MS)},
    ],
    ids=[
        "no UUID", "empty id", "short id", "id and line feed", "surrogate", "no time", "empty time", "words for a time",
        "float for a time", "a time of 5,000 digits", "a time alone",
    ],
)  # fmt: skip
def test_attributes_that_are_not_of_our_form_are_as_none(name: str, carried: dict[str, str]) -> None:
    named = {name if key == "id" else key: value for key, value in carried.items()}
    assert identity(carrying(**named)) == OWN


@pytest.mark.parametrize("sent_ms", [OWN_MS + 1, OWN_MS + 10**9, 253_402_300_800_000, 10**30])
def test_a_time_to_come_is_replaced_by_sqs_own(sent_ms: int) -> None:
    assert identity(carrying(redrive_of=FIRST_ID, sent_ms=str(sent_ms))) == Identity(FIRST_ID, OWN_MS)


@pytest.mark.parametrize("sent_ms", [1, 0, -1, -(10**30)])
def test_a_time_long_past_stays_one_for_the_receiver_to_reject(sent_ms: int) -> None:
    assert identity(carrying(redrive_of=FIRST_ID, sent_ms=str(sent_ms))) == Identity(FIRST_ID, 1)


@pytest.mark.parametrize("sent_ms", [OWN_MS - 28 * 86_400_000, FIRST_MS, OWN_MS])
def test_a_time_up_to_that_of_the_delivery_is_taken(sent_ms: int) -> None:
    assert identity(carrying(redrive_of=FIRST_ID, sent_ms=str(sent_ms))).sent_ms == sent_ms


def test_a_redrive_goes_before_a_replay() -> None:
    both = carrying(redrive_of=FIRST_ID, replay_of=OWN_ID, sent_ms=str(FIRST_MS))
    assert identity(both).message_id == FIRST_ID


@pytest.mark.parametrize("empty", [{"DataType": "Binary", "BinaryValue": b"\x00"}, text("")], ids=["binary", "empty"])
def test_a_redrive_attribute_that_says_nothing_leaves_a_replay_a_replay(empty: dict[str, Any]) -> None:
    """With the id of the rejected message, it would count as known and be deleted without a row."""
    attributes = {**replay_attributes(UUID(FIRST_ID), FIRST_MS), "loginpipe.redrive_of": empty}
    assert identity(delivery(attributes)) == Identity(str(replay_id(UUID(FIRST_ID))), FIRST_MS)


# --- sending again ----------------------------------------------------------------------------------------------------


def test_a_plain_dead_letter_moved_back_is_still_itself() -> None:
    assert identity(sent_again(delivery())) == OWN


def test_a_dead_letter_moved_back_time_and_again_is_still_itself() -> None:
    message = delivery()
    for times in range(1, 4):
        message = sent_again(message, sent_ms=OWN_MS + times * DAY_MS)
        assert identity(message) == OWN


def test_a_replay_that_became_a_dead_letter_is_still_that_replay_when_moved_back() -> None:
    replayed = delivery(dict(replay_attributes(UUID(FIRST_ID), FIRST_MS)))
    assert identity(sent_again(replayed)) == identity(replayed) == Identity(str(replay_id(UUID(FIRST_ID))), FIRST_MS)


def test_attributes_of_the_producer_go_along_as_they_are() -> None:
    own = {
        "trace": text("1-2-3"),
        "attempt": {"DataType": "Number", "StringValue": "7"},
        "blob": {"DataType": "Binary.gzip", "BinaryValue": b"\x00\xff"},
    }
    message = delivery(dict(own))
    again = dict(redrive_attributes(message))
    assert {name: again[name] for name in own} == own
    assert message["MessageAttributes"] == own, "the delivery itself is left as it was"


@pytest.mark.parametrize(
    "forged",
    [
        {"redrive_of": "not-a-uuid", "sent_ms": str(FIRST_MS)},
        {"redrive_of": FIRST_ID},
        {"replay_of": "not-a-uuid", "sent_ms": str(FIRST_MS)},
        {"replay_of": FIRST_ID, "sent_ms": "yesterday"},
        {"redrive_of": FIRST_ID, "sent_ms": str(OWN_MS + 10**6)},
    ],
    ids=["no UUID to redrive", "no time", "no UUID to replay", "words for a time", "a time to come"],
)
def test_a_dead_letter_with_attributes_not_of_our_form_keeps_its_identity_all_the_same(forged: dict[str, str]) -> None:
    message = carrying(**forged)
    assert identity(sent_again(message, sent_ms=OWN_MS + 10**7)) == identity(message)


# --- any attributes ---------------------------------------------------------------------------------------------------

ids = st.one_of(st.uuids().map(str), st.text(max_size=40), st.just(""))
# Within the last 14 days, at an impossible time, or no time at all.
times = st.one_of(
    st.integers(OWN_MS - 14 * DAY_MS, OWN_MS).map(str),
    st.integers(-(10**20), OWN_MS - 60 * DAY_MS).map(str),
    st.integers(OWN_MS, 10**20).map(str),
    st.text(),
)
values = st.one_of(
    st.one_of(ids, times).map(text),
    st.binary(max_size=8).map(lambda value: {"DataType": "Binary", "BinaryValue": value}),
    st.just({"DataType": "String"}),
)
names = st.sampled_from(["loginpipe.redrive_of", "loginpipe.replay_of", "loginpipe.sent_ms", "trace"])
carried_attributes = st.dictionaries(names, values)


@moderate
@given(attributes=carried_attributes)
def test_whatever_attributes_a_message_carries_it_has_an_id_that_is_a_uuid_and_a_time_that_was(
    attributes: dict[str, Any],
) -> None:
    found = identity(delivery(attributes))
    assert str(UUID(found.message_id)) == found.message_id
    assert 0 < found.sent_ms <= OWN_MS


@moderate
@given(attributes=carried_attributes, later_ms=st.integers(0, 14 * DAY_MS))
def test_whatever_attributes_a_dead_letter_carries_it_is_the_same_message_when_moved_back(
    attributes: dict[str, Any], later_ms: int
) -> None:
    message = delivery(attributes)
    assert identity(sent_again(message, sent_ms=OWN_MS + later_ms)) == identity(message)
