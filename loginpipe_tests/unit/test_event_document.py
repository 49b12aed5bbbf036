"""docs/event.md: the code turns each of its examples into what the document shows."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from loginpipe.logins.canonical import PLACEHOLDERS
from loginpipe.logins.messages import Message
from loginpipe.logins.parsing import LOGIN_FIELDS
from loginpipe.logins.rejects import Reason
from loginpipe.logins.splitting import split_batch
from loginpipe.masking.mask import mask_logins
from loginpipe.masking.tokens import TokenKeys, derive_field_keys, placeholder_tokens
from loginpipe_tests.wire import login

DOCUMENT = (Path(__file__).parents[2] / "docs" / "event.md").read_text()
KEYS = TokenKeys(1, {1: derive_field_keys(bytes(range(32)))})
MARKED = {(each.field, each.token) for each in placeholder_tokens((), KEYS)}
MESSAGE = "The message"


class Example(NamedTuple):
    """A row of a table. ``of`` is the field, or `MESSAGE`; ``sent`` is JSON, or None if nothing is sent."""

    of: str
    sent: str | None
    becomes: str


def examples() -> Iterator[Example]:
    for section in re.split(r"^##+ ", DOCUMENT, flags=re.MULTILINE)[1:]:
        name = section.split("\n", 1)[0].strip("`")
        if name in {*LOGIN_FIELDS, MESSAGE}:
            for sent, becomes in re.findall(r"^\| (`.+?`|nothing) \| (.+?) \|$", section, re.MULTILINE):
                yield Example(name, None if sent == "nothing" else sent[1:-1], becomes)


EXAMPLES = list(examples())


def body_of(example: Example) -> str:
    if example.of == MESSAGE:
        return example.sent or ""
    event = json.loads(login())
    event.pop(example.of, None)
    if example.sent is None:
        return json.dumps(event)
    # The text is inserted unparsed, because parsing would change 1e3 or a large integer.
    return json.dumps({**event, example.of: "@"}).replace('"@"', example.sent)


def becomes(example: Example) -> str:
    """Return the result for a message of this example, in the notation of the document."""
    message = Message("message", "delivery", "handle", body_of(example), 0, 0, 1, body_intact=True)
    split = split_batch([message])
    if split.rejected:
        ((*_, reasons, fields),) = split.rejected
        assert fields == [example.of if example.of != MESSAGE else "body"]
        return f"rejected: `{' '.join(reasons)}`"
    masked = mask_logins(split.accepted, KEYS)
    if example.of == MESSAGE:
        return "a login"
    if example.of in masked.originals:
        ((token, value),) = masked.originals[example.of].items()
        return f"`{value.decode()}`" + (", a [placeholder](#placeholders)" if (example.of, token) in MARKED else "")
    cell: Any = masked.columns[example.of][0]
    return "NULL" if cell is None else f"`{cell}`"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: ascii(f"{example.of} {example.sent}"))
def test_an_example_becomes_what_the_document_says(example: Example) -> None:
    assert becomes(example) == example.becomes


def test_every_field_has_examples_that_are_accepted_and_rejected_and_every_reason_has_one() -> None:
    for name in LOGIN_FIELDS:
        kinds = {example.becomes.startswith("rejected: ") for example in EXAMPLES if example.of == name}
        assert kinds == {True, False}, name
    shown = {reason for example in EXAMPLES for reason in re.findall(r"rejected: `(\w+)`", example.becomes)}
    # These do not depend on the content of the body, need a setting, or cannot be written in a document.
    others = {
        Reason.ENVELOPE_WITHOUT_OBJECT,
        Reason.BODY_DAMAGED,
        Reason.NOT_UNICODE,
        Reason.DATE_TOO_OLD,
        Reason.REFUSED_BY_DATABASE,
        Reason.USER_ERASED,
    }
    assert shown == {reason.value for reason in Reason if reason not in others}


def test_every_placeholder_that_is_a_word_is_named() -> None:
    section = DOCUMENT.split("## Placeholders")[1].split("\n## ")[0]
    assert [text for text in PLACEHOLDERS if not re.fullmatch(r"[0f-]{14,}", text) and f"`{text}`" not in section] == []
