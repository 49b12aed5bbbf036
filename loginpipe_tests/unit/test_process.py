"""One batch processed without a database: the same outcome each time, one query of the vault, nothing clear shown."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loginpipe.common.errors import ClearValueError
from loginpipe.ingest import process
from loginpipe.ingest.process import Masking, Outcome, process_batch, reject_message, require_tokens
from loginpipe.local.sample_events import sample_bodies
from loginpipe.logins.extras import UnknownFields
from loginpipe.logins.messages import Message
from loginpipe.logins.rejects import Reason
from loginpipe.masking.compat import CompatMasking
from loginpipe.masking.key_files import read_seal_key
from loginpipe.masking.mask import MaskedLogins, mask_logins
from loginpipe.postgres.erasures import Erased
from loginpipe_tests.batches import NOBODY, processed
from loginpipe_tests.conftest import KeyFiles
from loginpipe_tests.custody import token_keys
from loginpipe_tests.wire import SENT_MS, delivered, login

KEYS = token_keys(1, 2)
SENT_AT = datetime.fromtimestamp(SENT_MS / 1000, UTC)
CLEAR_IP, CLEAR_DEVICE = "199.172.111.135", "593-47-5928"
BAD = '{"ip": "199.172.111.135", "device_id": "593-47-5928"}'


@pytest.fixture(scope="module")
def masking(key_files: KeyFiles) -> Masking:
    return Masking(KEYS, (read_seal_key(key_files.seal_public),))


def plain(outcome: Outcome) -> dict[str, Any]:
    """Return what is the same each time: all except ids and the results of sealing, of which only the subjects are."""
    return {
        "received": outcome.received,
        "logins": outcome.logins,
        "sealed": [(value.subject, value.field_name) for value in outcome.sealed.values],
        "rejected": list(outcome.rejected),
        "bodies": [value.subject for value in outcome.bodies.values],
        "erasures": outcome.erasures,
        "times": (outcome.started_at_ms, outcome.sent_ms),
        "unknown_fields": outcome.unknown_fields,
        "seen_before": outcome.seen_before,
    }


@settings(max_examples=20, deadline=None, print_blob=True)
@given(st.integers(0, 1000), st.integers(1, 30))
def test_the_same_messages_have_the_same_outcome_but_for_ids(masking: Masking, seed: int, number: int) -> None:
    messages = [delivered(body) for body in sample_bodies(number, seed=seed, bad_share=0.3)]
    before = list(messages)
    first, second = processed(messages, masking), processed(messages, masking)
    assert plain(first) == plain(second)
    assert first.batch_id != second.batch_id
    assert messages == before
    assert len(first.logins) + len(first.rejected) == first.received == number
    assert {*first.logins.columns["message_id"], *(reject.message_id for reject in first.rejected)} == {
        message.message_id for message in messages
    }


def test_the_vault_is_asked_once_about_all_tokens_and_what_it_knows_is_not_sealed_again(masking: Masking) -> None:
    asked: list[Sequence[str]] = []

    def known_tokens(tokens: Sequence[str]) -> list[str]:
        asked.append(tokens)
        return [token for token in tokens if token.startswith("ip.")]

    messages = [delivered(login(device_id=device)) for device in ("one", "two", "one")]
    outcome = process_batch([*messages, delivered("{}")], masking, NOBODY, known_tokens)
    devices = list(dict.fromkeys(outcome.logins.columns["masked_device_id"]))
    assert [sorted(tokens) for tokens in asked] == [sorted({*outcome.logins.columns["masked_ip"], *devices})]
    assert [value.subject for value in outcome.sealed.values] == devices
    assert outcome.seen_before == {"ip": 1.0, "device_id": pytest.approx(1 / 3)}


@pytest.mark.parametrize("bodies", [["{}", "[]"], [login()]], ids=["no login", "sealing off"])
def test_the_vault_is_not_asked_where_there_is_nothing_to_seal(masking: Masking, bodies: list[str]) -> None:
    def known_tokens(_: object) -> list[str]:
        raise AssertionError("asked")

    off = masking if len(bodies) == 2 else replace(masking, recipients=())
    outcome = process_batch([delivered(body) for body in bodies], off, NOBODY, known_tokens)
    assert len(outcome.sealed) == 0
    assert len(outcome.bodies) == (2 if off.recipients else 0)


def test_bodies_of_rejects_are_sealed_by_message_whatever_they_hold(masking: Masking) -> None:
    bodies = ["{}", "", "\ud800", "\x00", "\u00e9"]
    messages = [delivered(body) for body in bodies]
    outcome = processed(messages, masking)
    assert [value.subject for value in outcome.bodies.values] == [reject.message_id for reject in outcome.rejected]
    assert len(outcome.bodies) == len(bodies)
    assert {value.field_name for value in outcome.bodies.values} == {"body"}


def test_logins_of_erased_users_are_rejected_and_nothing_of_them_is_kept(masking: Masking) -> None:
    tombstone = KEYS.tombstones("gone")[2]
    erased = Erased({tombstone: SENT_AT + timedelta(seconds=1)}, 7)
    messages = [delivered(login(user_id=user, device_id=f"of {user}", x=1, y=2)) for user in ("gone", "stays")]
    unknown = UnknownFields(frozenset({"x"}))
    outcome = processed(messages, replace(masking, unknown_fields=unknown), erased=erased)
    assert outcome.erasures == 7
    assert list(outcome.logins.columns["user_id"]) == ["stays"]
    assert [reject.reasons for reject in outcome.rejected] == [["user_erased"]]
    assert len(outcome.bodies) == 0
    assert len(outcome.sealed) == 2
    stays = messages[1].message_id
    assert outcome.clear_extras == {stays: '{"x":1}'}
    assert [value.subject for value in outcome.sealed_extras.values] == [stays]


def test_where_sealing_is_off_fields_that_are_not_named_are_dropped(masking: Masking) -> None:
    unknown = UnknownFields(frozenset({"x"}))
    outcome = processed([delivered(login(x=1, y="geheim"))], replace(masking, recipients=(), unknown_fields=unknown))
    assert list(outcome.clear_extras.values()) == ['{"x":1}']
    assert len(outcome.sealed_extras) == 0
    assert "geheim" not in repr(outcome)


def test_nothing_clear_is_in_what_an_outcome_shows(masking: Masking) -> None:
    outcome = processed([delivered(login()), delivered(BAD), delivered("593-47-5928")], masking)
    shown = f"{outcome!r} {outcome} {list(outcome.rejected)!r} {outcome.bodies!r} {outcome.logins!r}"
    assert not [value for value in (CLEAR_IP, CLEAR_DEVICE) if value in shown]
    assert not [value for value in json.loads(login()).values() if len(str(value)) > 5 and str(value) in shown]
    stored = b"".join(value.ciphertext for value in [*outcome.sealed.values, *outcome.bodies.values])
    assert CLEAR_IP.encode() not in stored
    assert CLEAR_DEVICE.encode() not in stored


def test_the_times_of_a_batch_are_those_of_its_messages(masking: Masking) -> None:
    messages = [
        delivered(login(), sent_ms=2_000, received_ms=9_000),
        delivered("{}", sent_ms=1_000, received_ms=8_000),
        delivered("{}", sent_ms=5_000, received_ms=10_000),
    ]
    outcome = processed(messages, masking)
    assert (outcome.started_at_ms, outcome.sent_ms) == (8_000, (1_000, 5_000))


def test_a_message_that_is_rejected_for_what_is_not_in_it_keeps_its_body_sealed(masking: Masking) -> None:
    message = delivered(login(), received_ms=9_000)
    outcome = reject_message(message, Reason.REFUSED_BY_DATABASE, "a constraint", masking, Erased({}, 3))
    assert plain(outcome) | {"logins": len(outcome.logins)} == {
        "received": 1,
        "logins": 0,
        "sealed": [],
        "rejected": [(message.message_id, message.body, SENT_MS, 9_000, ["refused_by_database"], ["a constraint"])],
        "bodies": [message.message_id],
        "erasures": 3,
        "times": (9_000, (SENT_MS, SENT_MS)),
        "unknown_fields": {},
        "seen_before": {},
    }
    assert CLEAR_IP not in repr(outcome)


# --- the check on tokens ----------------------------------------------------------------------------------------------


def leaky(column: str, *cells: object) -> Any:
    """Return a masking that leaves the first cells of a column as given."""

    def mask(*given: Any) -> MaskedLogins:
        masked = mask_logins(*given)
        return replace(masked, columns={**masked.columns, column: [*cells, *masked.columns[column][len(cells) :]]})

    return mask


@pytest.mark.parametrize("compat", [None, CompatMasking("compat-md5")], ids=["tokens", "older scheme"])
@pytest.mark.parametrize(
    ("column", "cells", "words"),
    [
        ("masked_ip", [CLEAR_IP], "(1 of masked_ip)"),
        ("masked_device_id", [CLEAR_DEVICE, None], "(2 of masked_device_id)"),
    ],
)
def test_a_cell_that_is_no_token_raises_without_naming_it_before_the_vault_is_asked(
    masking: Masking,
    monkeypatch: pytest.MonkeyPatch,
    *,
    compat: CompatMasking | None,
    column: str,
    cells: list[object],
    words: str,
) -> None:
    def known_tokens(_: object) -> list[str]:
        raise AssertionError("asked")

    monkeypatch.setattr(process, "mask_logins", leaky(column, *cells))
    messages: list[Message] = [delivered(login(user_id=f"user-{i}")) for i in range(500)]
    with pytest.raises(ClearValueError) as caught:
        process_batch(messages, replace(masking, compat=compat), NOBODY, known_tokens)
    said = str(caught.value)
    assert words in said
    assert not [value for value in (CLEAR_IP, CLEAR_DEVICE) if value in said]
    assert caught.value.__context__ is None


def test_tokens_alone_pass_the_wall(masking: Masking) -> None:
    require_tokens(processed([delivered(login())], masking).logins)
    require_tokens(processed([delivered("{}")], masking).logins)
