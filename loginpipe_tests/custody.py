"""Helpers of the custody tests: store logins as the pipeline does, and change the vault."""

from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import psycopg2
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from loginpipe.custody.access import Bulk, BulkKind, Reason, request_bulk
from loginpipe.custody.erasure import Erasure, erase, request_erasure
from loginpipe.custody.opening import Opener
from loginpipe.custody.private_keys import load_opener
from loginpipe.ingest.process import Masking, Outcome, process_batch
from loginpipe.ingest.record import record_batch
from loginpipe.logins.extras import SEALED, UnknownFields
from loginpipe.masking.compat import CompatMasking
from loginpipe.masking.sealing import SealKey, seal
from loginpipe.masking.tokens import TokenKeyDocument, TokenKeys, derive_field_keys
from loginpipe.postgres.connections import Connection, connect, transaction
from loginpipe.postgres.erasures import Erased, read_erased
from loginpipe.postgres.token_keys import check_token_keys
from loginpipe.postgres.vault import insert_sealed, known_tokens
from loginpipe_tests.conftest import PIPELINE, as_role
from loginpipe_tests.wire import delivered

SENT_AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
REASON = Reason("a test of recovery", "TEST-1")


def made_up_token(prefix: str, name: str) -> str:
    """Return a token that stands for no value, always the same for a name: ``made_up_token("ip.v1", "sole")``."""
    return f"{prefix}.{urlsafe_b64encode(sha256(name.encode()).digest()).decode()[:43]}"


def token_keys(*versions: int) -> TokenKeys:
    """Return token keys of these versions, the last one current. They are the same in every call."""
    return TokenKeys(versions[-1], {version: derive_field_keys(bytes([version]) * 32) for version in versions})


def write_token_keys(path: Path, *versions: int) -> None:
    """Write the keys that `token_keys` returns to a file."""
    keys = {version: bytes([version]) * 32 for version in versions}
    path.touch(mode=0o600)
    path.write_text(TokenKeyDocument(versions[-1], keys, development=True).text())


@dataclass(frozen=True)
class Store:
    """A migrated database in which logins are stored as the pipeline's role."""

    database_url: str
    keys: TokenKeys
    recipients: tuple[SealKey, ...]
    compat: CompatMasking | None = None
    unknown_fields: UnknownFields = SEALED

    @property
    def masking(self) -> Masking:
        """Return the masking of the pipeline, with sealing."""
        return Masking(self.keys, self.recipients, self.compat, self.unknown_fields)

    def with_keys(self, *versions: int) -> "Store":
        """Return the same store with other token keys."""
        return replace(self, keys=token_keys(*versions))

    def lose_token_key(self) -> None:
        """Allow the next version to be recorded without the newest key, as the owner does after a loss."""
        self.execute("UPDATE loginpipe.token_key_checks SET successor_hash = NULL")

    def load(self, *bodies: str, sent_at: datetime = SENT_AT) -> list[tuple[str, str]]:
        """Store logins; return the tokens of the address and the device of each."""
        outcome = self._record(bodies, sent_at)
        assert len(outcome.logins) == len(bodies)
        return list(zip(outcome.logins.columns["masked_ip"], outcome.logins.columns["masked_device_id"], strict=True))

    def reject(self, *bodies: str, sent_at: datetime = SENT_AT) -> list[str]:
        """Record rejected messages with their sealed bodies; return their ids."""
        outcome = self._record(bodies, sent_at)
        assert len(outcome.rejected) == len(bodies)
        return [reject.message_id for reject in outcome.rejected]

    def _record(self, bodies: Sequence[str], sent_at: datetime) -> Outcome:
        """Record a batch. No user counts as erased, so that logins of erased users are stored too."""
        messages = [delivered(body, sent_ms=int(sent_at.timestamp() * 1000)) for body in bodies]
        with self.connection() as connection:
            check_token_keys(connection, self.keys)
            nobody = Erased({}, read_erased(connection).count)
            outcome = process_batch(messages, self.masking, nobody, partial(known_tokens, connection))
            record_batch(connection, outcome, queue="queue")
        return outcome

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Yield a connection of the pipeline's role."""
        with connected(as_role(self.database_url, PIPELINE)) as connection:
            yield connection

    def execute(self, statement: str, *parameters: Any) -> None:
        """Execute a statement as a superuser."""
        with closing_psycopg2(self.database_url) as cursor:
            cursor.execute(statement, parameters or None)

    def rows(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query, as a superuser."""
        with closing_psycopg2(self.database_url) as cursor:
            cursor.execute(statement, parameters or None)
            return cursor.fetchall()

    def log(self) -> list[tuple[Any, ...]]:
        """Return actor, action and detail of each entry of the access log, in order."""
        return self.rows("SELECT actor, action, detail FROM vault.access_log ORDER BY seq")


def plant_sealed(store: Store, value: bytes, other: bytes) -> str:
    """Seal another device id under the token of this one, as the pipeline's role can; return the token."""
    (token,) = store.keys.tokens("device_id", [value])
    with store.connection() as connection, transaction(connection) as cursor:
        insert_sealed(cursor, seal([(token, other)], "device_id", store.recipients))
    return token


@contextmanager
def closing_psycopg2(database_url: str) -> Iterator[Any]:
    connection = psycopg2.connect(database_url)
    try:
        with connection, connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()


@contextmanager
def connected(database_url: str) -> Iterator[Connection]:
    connection = connect(database_url)
    try:
        yield connection
    finally:
        connection.close()


def bulk(connection: Connection, kind: BulkKind = "replay", most: int = 1_000) -> Bulk:
    """Request a bulk access, and return it."""
    return Bulk(request_bulk(connection, kind, most, REASON).request_id, REASON)


def no_opener() -> Opener:
    raise AssertionError("the private key was asked for")


def erased(
    connection: Connection,
    user: str,
    keys: TokenKeys,
    opener: Callable[[], Opener] = no_opener,
    reason: Reason = REASON,
) -> Erasure:
    """Erase a user in both steps."""
    return erase(connection, request_erasure(connection, user, keys.tombstones(user), reason).request_id, keys, opener)


def ask_no_passphrase(path: Path) -> str:
    raise AssertionError(f"asked for the passphrase of {path}")


def opener_of(*paths: Path) -> Opener:
    return load_opener([str(path) for path in paths], production=False, passphrase=ask_no_passphrase)


def new_private_key(path: Path, bits: int = 3072) -> SealKey:
    """Write a new private key to a file of mode 0600; return its public key."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    write_private_key(path, key)
    return SealKey(key.public_key())


def write_private_key(path: Path, key: Any, encryption: Any = None) -> None:
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(pem, pkcs8, encryption or serialization.NoEncryption()))
