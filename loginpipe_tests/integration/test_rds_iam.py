"""LOGINPIPE_DATABASE_AUTH=rds-iam, with a server that accepts tokens as RDS does: signed for it, for 15 minutes."""

import hmac
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import botocore.auth
import pytest
from psycopg2.extensions import parse_dsn

from loginpipe.backup.backups import DUMP, run
from loginpipe.common import aws
from loginpipe.common.errors import DatabaseError, LoginpipeError, SettingError
from loginpipe.defs.instance import Storage
from loginpipe.postgres import connections
from loginpipe.postgres.connections import Connection, connect, transaction
from loginpipe.postgres.session import Session
from loginpipe_tests.conftest import PIPELINE, as_role
from loginpipe_tests.front import Certificates, Front, as_in_a_new_process

REGION = "eu-central-1"
SECRET = "secret"
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


class Rds:
    """RDS's check of a password.

    Attributes:
        host: with its port.
        role: the role that may connect with a token.
        now: the time on its clock.
    """

    def __init__(self) -> None:
        self.host = ""
        self.role = PIPELINE
        self.now = NOON

    def accepts(self, role: str, password: str) -> bool:
        url = urlsplit(f"https://{password}")
        query = dict(parse_qsl(url.query))
        signature = query.pop("X-Amz-Signature", "")
        key, *scope = query.get("X-Amz-Credential", "").split("/")
        made = datetime.strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        fresh = timedelta(0) <= self.now - made < timedelta(seconds=int(query["X-Amz-Expires"]))
        for_this = (url.netloc, query["DBUser"], query["Action"], key) == (self.host, role, "connect", "test")
        scoped = scope == [f"{made:%Y%m%d}", REGION, "rds-db", "aws4_request"]
        canonical = "&".join(f"{quote(name)}={quote(value, safe='')}" for name, value in sorted(query.items()))
        request = f"GET\n/\n{canonical}\nhost:{url.netloc}\n\nhost\n{sha256(b'').hexdigest()}"
        words = f"AWS4-HMAC-SHA256\n{query['X-Amz-Date']}\n{'/'.join(scope)}\n{sha256(request.encode()).hexdigest()}"
        signing = f"AWS4{SECRET}".encode()
        for part in scope:
            signing = hmac.digest(signing, part.encode(), "sha256")
        signed = hmac.compare_digest(hmac.digest(signing, words.encode(), "sha256").hex(), signature)
        return fresh and for_this and scoped and signed and role == self.role


@pytest.fixture
def rds(monkeypatch: pytest.MonkeyPatch) -> Rds:
    """Return the check, with credentials and a region for the client, which uses the same clock."""
    aws._session_of_tokens.cache_clear()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": REGION,
        "LOGINPIPE_DATABASE_AUTH": "rds-iam",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    rds = Rds()
    clock_of_the_client(monkeypatch, lambda: rds.now)
    return rds


def clock_of_the_client(monkeypatch: pytest.MonkeyPatch, now: Callable[[], datetime]) -> None:
    def naive(*_: Any, **__: Any) -> datetime:
        return now().replace(tzinfo=None)

    monkeypatch.setattr(botocore.auth, "get_current_datetime", naive, raising=False)
    # For older versions of botocore.
    old = SimpleNamespace(datetime=SimpleNamespace(utcnow=naive))
    monkeypatch.setattr(botocore.auth, "datetime", old, raising=False)


@pytest.fixture
def front(rds: Rds, empty_database_url: str, tmp_path: Path) -> Iterator[Front]:
    certificates = Certificates(tmp_path, "localhost")
    url = as_role(empty_database_url, PIPELINE)
    with Front(url, certificates=certificates, accepts=rds.accepts) as front:
        front.url += f"?sslmode=verify-full&sslrootcert={certificates.authority}"
        rds.host = f"localhost:{front.port}"
        yield front
    aws._session_of_tokens.cache_clear()


def ask(connection: Connection) -> int:
    with transaction(connection) as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        ((pid,),) = cursor.fetchall()
    return int(pid)


def test_each_connection_has_a_token_of_its_own_and_one_is_good_for_15_minutes(
    front: Front, rds: Rds, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(front.url, retry_seconds=10)
    first = session.run(ask)
    rds.now += timedelta(minutes=16)
    # Expiry concerns only new connections.
    assert session.run(ask) == first
    end = f"SELECT pg_terminate_backend({first})"
    owner = connect_as_before(empty_database_url, monkeypatch)
    with transaction(owner) as cursor:
        cursor.execute(end)
    owner.close()
    assert session.run(ask) != first
    session.close()
    assert len(set(front.passwords)) == len(front.passwords) == 2
    assert not rds.accepts(PIPELINE, front.passwords[0])
    assert rds.accepts(PIPELINE, front.passwords[1])

    clock_of_the_client(monkeypatch, lambda: rds.now - timedelta(minutes=16))
    with pytest.raises(DatabaseError, match="authentication was refused") as refusal:
        connect(front.url)
    assert "X-Amz" not in str(refusal.value)


def connect_as_before(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Connection:
    with monkeypatch.context() as patch:
        patch.delenv("LOGINPIPE_DATABASE_AUTH")
        return connect(database_url)


def test_dagsters_storage_connects_by_tokens_too(front: Front, rds: Rds) -> None:
    as_in_a_new_process()
    url = front.url.replace("postgresql", "postgresql+psycopg2")
    storage = Storage.from_config_value(None, {"postgres_url": url, "should_autocreate_tables": False})
    for _ in range(2):
        rds.now += timedelta(minutes=16)
        with storage.run_storage.connect() as connection:  # type: ignore[attr-defined]
            assert connection.exec_driver_sql("SELECT current_user").scalar() == PIPELINE
    assert [rds.accepts(PIPELINE, password) for password in front.passwords] == [False, True]


def test_a_backup_connects_by_a_token_too(
    front: Front, rds: Rds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / DUMP
    program.write_text('#!/bin/sh\nprintf %s "$PGPASSWORD"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert rds.accepts(PIPELINE, run(DUMP, [], front.url))


def test_a_token_is_sent_over_verified_tls_to_one_host_and_never_beside_a_password(
    front: Front, rds: Rds, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(url: str, error: type[LoginpipeError], said: str) -> None:
        with pytest.raises(error, match=said) as refusal:
            connect(url)
        assert "X-Amz" not in str(refusal.value)
        assert "geheim" not in str(refusal.value)

    there = parse_dsn(front.url)
    needed = "must name one host, a user and no password"
    refused(front.url.replace("@", ":geheim@"), SettingError, needed)
    refused(front.url.replace("localhost", "localhost,localhost", 1), SettingError, needed)
    monkeypatch.delenv("PGUSER", raising=False)
    refused(front.url.replace(f"{PIPELINE}@", "", 1), SettingError, needed)
    refused(as_role(empty_database_url, PIPELINE), SettingError, needed)
    refused(f"postgresql://{PIPELINE}@db.example.com/logins", DatabaseError, "rds-iam demands verified TLS to the data")
    with monkeypatch.context() as patch, Front(as_role(empty_database_url, PIPELINE)) as plain:
        # As if the host were on another machine after all.
        patch.setattr(connections, "is_loopback", lambda _: False)
        refused(plain.url, DatabaseError, "rds-iam demands verified TLS to the data")
    monkeypatch.delenv("AWS_REGION")
    refused(front.url, DatabaseError, "no AWS region is set: set AWS_REGION")
    assert front.passwords == []

    monkeypatch.setenv("AWS_REGION", "us-east-1")
    refused(front.url, DatabaseError, "authentication was refused")
    monkeypatch.setenv("AWS_REGION", REGION)
    for name in ("host", "port", "user", "dbname"):
        monkeypatch.setenv({"dbname": "PGDATABASE"}.get(name, f"PG{name.upper()}"), there[name])
    connect(f"postgresql://?sslmode=verify-full&sslrootcert={there['sslrootcert']}").close()
