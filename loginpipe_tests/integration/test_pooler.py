"""The pipeline behind a real PgBouncer in transaction mode, with one server connection for all clients."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, quote, urlsplit

import psycopg2
import pytest

from loginpipe.ingest import record
from loginpipe.ingest.record import record_batch
from loginpipe.local.stack import LocalStack
from loginpipe.postgres.batches import BatchRecord
from loginpipe.postgres.connections import Connection, connect, transaction
from loginpipe.postgres.migrate import HEAD, migrate
from loginpipe.postgres.session import Session
from loginpipe_tests.conftest import OWNER, PIPELINE, Pipeline, execute
from loginpipe_tests.wire import eventually, ingest, login

PGBOUNCER: Final = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
PORT: Final = 6432
"""Part of the socket's file name. The pooler listens on no other address."""
SETTINGS: Final = ("lock_timeout", "synchronous_commit", "TimeZone")
OURS: Final = ("10s", "on", "UTC")

pytestmark = pytest.mark.skipif(
    PGBOUNCER is None, reason="PgBouncer is not installed: Debian's package pgbouncer brings it"
)


@pytest.fixture(scope="module")
def sockets(stack: LocalStack) -> Iterator[Path]:
    """Yield the folder of a pooler's socket. The pooler runs as the user of the embedded server, never as root."""
    (server,) = parse_qs(urlsplit(stack.database_url).query)["host"]
    owner = Path(server).stat()
    folder = Path(tempfile.mkdtemp(prefix="loginpipe-pooler-"))
    (folder / "users.txt").write_text("".join(f'"{name}" ""\n' for name in ("postgres", OWNER, PIPELINE)))
    (folder / "pgbouncer.ini").write_text(
        f"""
        [databases]
        * = host={server} port=5432
        [pgbouncer]
        listen_addr =
        listen_port = {PORT}
        unix_socket_dir = {folder}
        auth_type = trust
        auth_file = {folder}/users.txt
        pool_mode = transaction
        default_pool_size = 1
        """.replace("        ", "")
    )
    as_owner: dict[str, Any] = {}
    if os.geteuid() == 0:
        shutil.chown(folder, owner.st_uid, owner.st_gid)
        as_owner = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(PGBOUNCER), folder / "pgbouncer.ini"],
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            **as_owner,
        )
    try:
        eventually(lambda: process.poll() is not None or (folder / f".s.PGSQL.{PORT}").exists(), "the pooler listens")
        assert process.poll() is None, log.read_text()
        yield folder
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        shutil.rmtree(folder)


def pooled(database_url: str, sockets: Path) -> str:
    """Return the URL of the same database and role through the pooler."""
    url = urlsplit(database_url)
    return f"postgresql://{url.username}:@{url.path}?host={quote(str(sockets))}&port={PORT}"


def effective(cursor: Any) -> tuple[str, ...]:
    """Return the settings in the transaction of a cursor, and the process id of the server."""
    cursor.execute(
        "SELECT current_setting(name) FROM unnest(%s) WITH ORDINALITY AS s (name, i) ORDER BY i", (list(SETTINGS),)
    )
    found = tuple(value for (value,) in cursor.fetchall())
    cursor.execute("SELECT pg_backend_pid()")
    ((process,),) = cursor.fetchall()
    return (*found, str(process))


def effective_of(connection: Connection) -> tuple[str, ...]:
    with transaction(connection) as cursor:
        return effective(cursor)


def test_what_one_client_sets_never_reaches_another_on_the_same_server_connection(
    pipeline_url: str, database_url: str, sockets: Path
) -> None:
    name = urlsplit(database_url).path[1:]
    execute(
        database_url,
        f"ALTER DATABASE {name} SET synchronous_commit = off",
        f"ALTER DATABASE {name} SET TimeZone = 'Asia/Tokyo'",
        f"ALTER DATABASE {name} SET lock_timeout = '7s'",
    )
    url = pooled(pipeline_url, sockets)
    session = Session(url)
    with (
        closing(psycopg2.connect(url)) as other,
        closing(connect(url, lock_timeout="3s")) as another,
        other.cursor() as cursor,
    ):
        process = session.run(effective_of)[-1]
        assert session.run(effective_of) == (*OURS, process)
        assert effective(cursor) == ("7s", "off", "Asia/Tokyo", process), (
            "as the database has them: nothing is left behind"
        )
        other.commit()
        assert effective_of(another) == ("3s", "on", "UTC", process)
        # Session settings of another application stay on the server connection, but do not affect ours.
        cursor.execute("SET lock_timeout = '1ms'; SET synchronous_commit = off; SET TimeZone = 'America/New_York'")
        other.commit()
        assert session.run(effective_of) == (*OURS, process)
        assert effective_of(another) == ("3s", "on", "UTC", process)
        assert effective(cursor)[1] == "off"
    session.close()


def test_a_run_through_the_pooler_stores_every_message_once_and_commits_to_disk(
    pipeline: Pipeline, pipeline_url: str, sockets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, url = urlsplit(pipeline.database_url).path[1:], pooled(pipeline_url, sockets)
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", url)
    execute(
        pipeline.database_url,
        f"ALTER DATABASE {name} SET synchronous_commit = off",
        "CREATE TABLE public.at_commit (batch_id uuid, synchronous_commit text)",
        f"GRANT INSERT ON public.at_commit TO {PIPELINE}",
        """
        CREATE FUNCTION public.note_commit() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO public.at_commit VALUES (NEW.batch_id, current_setting('synchronous_commit'));
            RETURN NULL;
        END $$
        """,
        # Deferred, so that it runs in the commit.
        "CREATE CONSTRAINT TRIGGER note_commit AFTER INSERT ON loginpipe.batches DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION public.note_commit()",
    )
    with closing(psycopg2.connect(url)) as other:
        other.autocommit = True

        def record_after_another_client(connection: Connection, **batch: Any) -> BatchRecord:
            """Record a batch on the server connection for which another client has just set its own settings."""
            other.cursor().execute("SET synchronous_commit = off; SET lock_timeout = '1ms'")
            return record_batch(connection, **batch)

        monkeypatch.setattr(record, "record_batch", record_after_another_client)
        for first in (0, 20):
            ingest(pipeline, *(login(user_id=f"user-{number}") for number in range(first, first + 20)), "no login")
        with other.cursor() as cursor:
            cursor.execute(
                "SELECT oid::regclass::text FROM pg_class WHERE relnamespace = pg_my_temp_schema() AND relkind = 'r'"
            )
            held = {table: 0 for (table,) in cursor.fetchall()}
            for table in held:
                cursor.execute(f"SELECT count(*) FROM {table}")
                ((held[table],),) = cursor.fetchall()
        # On the same server connection that the run used.
        names = ("logins", "rejects", "extras", "sealed", "data_keys")
        assert held == dict.fromkeys((f"incoming_{name}" for name in names), 0)
    assert pipeline.rows("SELECT count(*), count(DISTINCT user_id) FROM user_logins") == [(40, 40)]
    assert pipeline.rows("SELECT count(*) FROM loginpipe.rejected_messages") == [(2,)]
    assert pipeline.rows("SELECT sum(received), sum(inserted), sum(duplicates) FROM loginpipe.batches") == [(42, 40, 0)]
    assert pipeline.depth() == (0, 0)
    batches = pipeline.rows("SELECT count(*) FROM loginpipe.batches")
    assert pipeline.rows("SELECT count(*) FROM public.at_commit WHERE synchronous_commit = 'on'") == batches


def test_a_database_is_migrated_through_the_pooler(empty_database_url: str, sockets: Path) -> None:
    assert migrate(pooled(empty_database_url, sockets)).after == HEAD
    assert migrate(pooled(empty_database_url, sockets)).before == HEAD
