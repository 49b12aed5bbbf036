"""Token keys as a document: the result of a rotation, and of two stages of a secret together.

``test_key_files.py`` tests malformed documents.
"""

import json
from base64 import b64encode

import pytest

from loginpipe.common.errors import KeyFileError
from loginpipe.masking.tokens import (
    MAX_VERSION,
    TokenKeyDocument,
    derive_field_keys,
    new_document,
    parse_document,
    rotated,
    united,
)

A, B, C = (bytes([number]) * 32 for number in range(3))


def test_a_document_is_read_back_as_it_was_written() -> None:
    document = TokenKeyDocument(2, {2: B, 1: A, 10: C}, development=True)
    assert parse_document(document.text(), "x") == document
    assert parse_document(document.text().encode(), "x") == document
    assert list(json.loads(document.text())["keys"]) == ["1", "2", "10"]


def test_the_derived_keys_are_those_of_every_version() -> None:
    keys = TokenKeyDocument(2, {1: A, 2: B}, development=True).derived()
    assert (keys.current, keys.development) == (2, True)
    assert keys.field_keys == {1: derive_field_keys(A), 2: derive_field_keys(B)}


@pytest.mark.parametrize("development", [True, False])
def test_a_rotation_adds_a_key_makes_it_current_and_keeps_the_others(development: bool) -> None:
    before = TokenKeyDocument(1, {1: A}, development)
    after = rotated(before, "x")
    assert (after.current, after.development, set(after.keys)) == (2, development, {1, 2})
    assert after.keys[1] == A
    assert len(after.keys[2]) == 32
    assert after.keys[2] != rotated(before, "x").keys[2]


def test_the_new_version_is_above_all_that_were_ever_held() -> None:
    assert rotated(TokenKeyDocument(3, {3: A, 7: B}), "x").current == 8


def test_after_the_last_version_there_is_none() -> None:
    with pytest.raises(KeyFileError, match=f"x holds the last version that there can be, {MAX_VERSION}"):
        rotated(TokenKeyDocument(1, {1: A, MAX_VERSION: B}), "x")


def test_a_new_document_holds_version_1() -> None:
    document = new_document(development=False)
    assert (document.current, set(document.keys)) == (1, {1})


@pytest.mark.parametrize(
    ("current", "previous", "held"),
    [
        ({2: B}, {1: A}, {1: A, 2: B}),
        ({1: A, 2: B}, {1: A}, {1: A, 2: B}),
        ({2: B}, {1: A, 2: B}, {1: A, 2: B}),
        ({1: A}, {1: A, 2: B}, {1: A, 2: B}),
        ({1: A}, {1: A}, {1: A}),
    ],
    ids=["one key each", "all in current", "taken out of current", "rolled back", "put twice"],
)
def test_two_stages_make_all_their_versions_and_the_first_says_which_is_current(
    current: dict[int, bytes], previous: dict[int, bytes], held: dict[int, bytes]
) -> None:
    both = united(TokenKeyDocument(max(current), current), TokenKeyDocument(max(previous), previous), "x")
    assert (both.current, both.keys) == (max(current), held)


def test_two_keys_under_one_version_are_refused_and_neither_is_shown() -> None:
    with pytest.raises(KeyFileError) as caught:
        united(TokenKeyDocument(2, {1: A, 2: B}), TokenKeyDocument(2, {1: A, 2: C}), "the secret x")
    assert str(caught.value).startswith("the secret x: AWSCURRENT and AWSPREVIOUS hold two keys under version 2: ")
    assert b64encode(B).decode() not in str(caught.value)


@pytest.mark.parametrize("which", [0, 1])
def test_a_development_key_in_either_stage_is_one(which: int) -> None:
    documents = [TokenKeyDocument(i + 1, {i + 1: A}, development=i == which) for i in range(2)]
    assert united(documents[1], documents[0], "x").development


def test_the_repr_of_a_document_shows_no_key() -> None:
    assert repr(TokenKeyDocument(1, {1: b"geheim" * 8})) == "TokenKeyDocument(current=1, development=False)"
