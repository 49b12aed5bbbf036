"""Helpers of the batch tests: process messages without a database, and record outcomes."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from uuid import uuid4

from loginpipe.ingest.process import Masking, Outcome, process_batch
from loginpipe.logins.messages import Message
from loginpipe.masking.key_files import read_seal_key, read_token_keys
from loginpipe.postgres.erasures import Erased
from loginpipe_tests.conftest import KeyFiles
from loginpipe_tests.wire import delivered

NOBODY = Erased({}, 0)
"""No user was erased."""


def masking_of(key_files: KeyFiles) -> Masking:
    """Return the masking with the keys of the tests, with sealing."""
    return Masking(read_token_keys(key_files.token_keys), (read_seal_key(key_files.seal_public),))


def received(bodies: Iterable[str]) -> list[Message]:
    """Return messages with these bodies, as received."""
    return [delivered(body) for body in bodies]


def processed(
    messages: Sequence[Message], masking: Masking, *, known: Collection[str] = (), erased: Erased = NOBODY
) -> Outcome:
    """Process a batch. The vault has the tokens in ``known``."""
    return process_batch(messages, masking, erased, frozenset(known).intersection)


def again(outcome: Outcome) -> Outcome:
    """Return the same messages as another batch, as if they were delivered again."""
    return replace(outcome, batch_id=str(uuid4()))
