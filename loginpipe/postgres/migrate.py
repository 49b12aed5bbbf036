"""Migrate the warehouse, and check that it is migrated. ``migrations/`` holds the schema.

The pipeline calls `require_migrated` at every start, so Alembic and SQLAlchemy are imported only where they run.
"""

import re
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, TypeVar, cast

import psycopg2

from loginpipe.common.errors import DatabaseError, SchemaError
from loginpipe.common.logins_table import logins_schema, logins_table
from loginpipe.postgres.connections import (
    READ_COMMITTED,
    Connection,
    Cursor,
    connect,
    place,
    rows_of,
    statement_error,
    transaction,
)
from loginpipe.postgres.contract import examine_table
from loginpipe.postgres.partitions import maintain, partitioning
from loginpipe.postgres.statements import statement

if TYPE_CHECKING:
    from collections.abc import Callable

    from alembic.config import Config
    from sqlalchemy.engine import Connection as SqlalchemyConnection

T = TypeVar("T")

HEAD = "0001"
"""The newest revision in ``migrations/``. Revisions are numbered in order, so that they compare as text."""

# The comment on Alembic's table tells older code which version it needs.
_MIGRATED_BY = re.compile(r"Migrated by loginpipe (\S+)\.")

_INSUFFICIENT_PRIVILEGE = "42501"
# The errors if a concurrent first migration made the object: unique key, schema, table.
_MADE_MEANWHILE = frozenset({"23505", "42P06", "42P07"})


@dataclass(frozen=True, slots=True)
class MigrationResult:
    """The result of `migrate`: the revision found (None if there was none) and the one now, which is `HEAD`.

    Attributes:
        adopted: True if this call took over an existing ``user_logins`` unchanged.
        findings: what in ``user_logins`` can refuse, change or lose logins, and the effect, one line each. Empty for a
            table that loginpipe made.
    """

    before: str | None
    after: str
    adopted: bool
    findings: tuple[str, ...] = ()


def migrate(database_url: str, *, today: date | None = None, table_is_named: bool = False) -> MigrationResult:
    """Migrate to `HEAD`, all or nothing, then create partitions. Safe to call concurrently and repeatedly.

    The role needs CREATE on the database and on the schema of `logins_table`. If the table is not named, by
    LOGINPIPE_TABLE, a ``user_logins`` in another schema is refused.

    Raises:
        SchemaError: ``user_logins`` accepts no logins, or may be another table; the database is newer than this
            version, or was migrated with another LOGINPIPE_TABLE.
    """
    upgrade = partial(_upgrade_in_transaction, table_is_named=table_is_named)
    before, adopted = _in_transaction(database_url, upgrade)
    today = today or datetime.now(UTC).date()
    with closing(connect(database_url)) as connection:
        maintain(connection, today)
        with transaction(connection) as cursor:
            found = examine_table(connection)
            findings = (*found.obstacles, *found.notes, *partitioning(cursor, logins_table()).notes(today))
    return MigrationResult(before, HEAD, adopted, findings)


def undo(database_url: str, revision: str) -> str:
    """Undo the migrations after a revision, the newest first, all or none; return the revision found before.

    Data written since into what they added is lost. Stop the pipeline first. The role is the one that migrated, or owns
    the objects.

    Raises:
        SchemaError: the database is not after that revision, or is newer than this version; or a migration refuses,
            because only its objects hold some data.
    """
    return _in_transaction(database_url, partial(_undo_in_transaction, revision=revision))


def require_migrated(connection: Connection) -> None:
    """Check that the database is at `HEAD`, for the table of `logins_table`.

    Raises:
        SchemaError: it is older or newer, or has its logins in another table; names the fix.
    """
    with transaction(connection) as cursor:
        found = revision_of(cursor)
        if found is not None:
            _refuse_newer(found, cursor)
            require_same_table(cursor)
    if found is None or found < HEAD:
        at = found or "none"
        raise SchemaError(f"{place(connection)} is not migrated (at {at}, needs {HEAD}): run `loginpipe migrate`")


def revision_of(cursor: Cursor) -> str | None:
    """Return the revision of a database's schema; None if it was never migrated."""
    if rows_of(cursor, "SELECT to_regclass('loginpipe.alembic_version')") == [(None,)]:
        return None
    ((revision,),) = rows_of(cursor, "SELECT max(version_num) FROM loginpipe.alembic_version")
    return cast("str | None", revision)


def require_same_table(cursor: Cursor) -> None:
    """Raise SchemaError if a migrated database has its logins in another table than this process."""
    ((recorded,),) = rows_of(cursor, "SELECT logins_table FROM loginpipe.installation")
    if recorded != logins_table():
        raise SchemaError(
            f"{place(cursor.connection)} has its logins in {recorded}, and LOGINPIPE_TABLE is {logins_table()}: set "
            f"LOGINPIPE_TABLE={recorded}, since a database keeps the table that it was first migrated for"
        )


def alembic_config() -> "Config":
    """Return the configuration, in place of an ``alembic.ini``. ``attributes["connection"]`` holds the connection."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "loginpipe.postgres:migrations")
    return config


def _in_transaction(database_url: str, work: "Callable[[SqlalchemyConnection], T]") -> T:
    from sqlalchemy import create_engine
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.pool import NullPool

    # With `creator`, libpq parses the URL, because SQLAlchemy supports fewer forms.
    engine = create_engine("postgresql+psycopg2://", creator=partial(connect, database_url), poolclass=NullPool)

    def attempt() -> T:
        try:
            with engine.begin() as bound:
                return work(bound)
        except (DBAPIError, psycopg2.Error) as error:
            raise _refusal(error.orig if isinstance(error, DBAPIError) else error) from None

    try:
        return attempt()
    except DatabaseError as error:
        if error.sqlstate not in _MADE_MEANWHILE:
            raise
    # The other migration has committed everything.
    return attempt()


def _upgrade_in_transaction(bound: "SqlalchemyConnection", *, table_is_named: bool) -> tuple[str | None, bool]:
    from alembic import command

    connection = cast("Connection", bound.connection.driver_connection)
    with connection.cursor() as cursor:
        cursor.execute(f"SET TRANSACTION ISOLATION LEVEL {READ_COMMITTED}; {connection.settings}")
        before = _revision_to_upgrade(cursor, table_is_named=table_is_named)
        if before == HEAD:
            return before, False
        _lock_others_out(cursor)
        before = _revision_to_upgrade(cursor, table_is_named=table_is_named)
        if before == HEAD:
            return before, False
    config = alembic_config()
    config.attributes["connection"] = bound
    command.upgrade(config, HEAD)
    with connection.cursor() as cursor:
        cursor.execute(f"COMMENT ON TABLE loginpipe.alembic_version IS 'Migrated by loginpipe {version('loginpipe')}.'")
    return before, bool(config.attributes.get("adopted"))


def _undo_in_transaction(bound: "SqlalchemyConnection", *, revision: str) -> str:
    from alembic import command

    connection = cast("Connection", bound.connection.driver_connection)
    with connection.cursor() as cursor:
        cursor.execute(f"SET TRANSACTION ISOLATION LEVEL {READ_COMMITTED}; {connection.settings}")
        if revision_of(cursor) is None:
            raise SchemaError(f"{place(connection)} was never migrated: there is nothing to undo")
        _lock_others_out(cursor)
        before = revision_of(cursor)
        if before is None:
            raise SchemaError(f"{place(connection)} was undone meanwhile: there is nothing to undo")
        _refuse_newer(before, cursor)
        require_same_table(cursor)
    if not "0001" <= revision < before or not re.fullmatch(r"\d{4}", revision):
        raise SchemaError(
            f"{place(connection)} is at {before} and cannot go back to {revision}: name a revision from 0001 on "
            "that is below; without --to it is migrated to the newest"
        )
    config = alembic_config()
    config.attributes["connection"] = bound
    command.downgrade(config, revision)
    return before


def _revision_to_upgrade(cursor: Cursor, *, table_is_named: bool) -> str | None:
    """Return the revision, and refuse a database that this code must not upgrade."""
    found = revision_of(cursor)
    if found is None:
        _require_schema(cursor)
        if not table_is_named:
            _refuse_another_table(cursor)
    else:
        _refuse_newer(found, cursor)
        require_same_table(cursor)
    return found


def _lock_others_out(cursor: Cursor) -> None:
    """Wait for a running migration, and block others until this transaction ends. Readers are not blocked.

    If two transactions create the schema or Alembic's table at once, the second waits for the first, then fails with an
    error of `_MADE_MEANWHILE`.
    """
    missing = "SELECT to_regnamespace('loginpipe') IS NULL, to_regclass('loginpipe.alembic_version') IS NULL"
    ((no_schema, no_table),) = rows_of(cursor, missing)
    if no_schema:  # CREATE SCHEMA IF NOT EXISTS needs the privilege even if the schema exists
        cursor.execute("CREATE SCHEMA loginpipe")
        cursor.execute("COMMENT ON SCHEMA loginpipe IS 'What the pipeline of user_logins keeps for itself.'")
    if no_table:
        # As Alembic creates it.
        cursor.execute(
            "CREATE TABLE loginpipe.alembic_version "
            "(version_num varchar(32) NOT NULL CONSTRAINT alembic_version_pkc PRIMARY KEY)"
        )
    cursor.execute("LOCK TABLE loginpipe.alembic_version IN EXCLUSIVE MODE")


def _require_schema(cursor: Cursor) -> None:
    # Not created here, because a mistyped schema would get a second table.
    schema = logins_schema()
    query = "SELECT quote_ident(%s), to_regnamespace(quote_ident(%s)) IS NOT NULL"
    ((quoted, exists),) = rows_of(cursor, query, (schema, schema))
    if quoted != schema:
        raise SchemaError(
            f"LOGINPIPE_TABLE: the schema {quoted} is a word of SQL's own: choose one that needs no quotes"
        )
    if not exists:
        at = place(cursor.connection)
        raise SchemaError(f"{at} has no schema {schema}: run `CREATE SCHEMA {schema}`, or correct LOGINPIPE_TABLE")


def _refuse_another_table(cursor: Cursor) -> None:
    for (other,) in rows_of(cursor, statement("other_user_logins")):
        raise SchemaError(
            f"{place(cursor.connection)} has a table {other} already: set LOGINPIPE_TABLE={other} to adopt it, or "
            f"LOGINPIPE_TABLE={logins_table()} to leave it alone"
        )


def _refuse_newer(found: str, cursor: Cursor) -> None:
    if found <= HEAD:
        return
    query = "SELECT obj_description('loginpipe.alembic_version'::regclass, 'pg_class')"
    ((comment,),) = rows_of(cursor, query)
    ours, by = version("loginpipe"), _MIGRATED_BY.search(comment or "")
    # Between releases the version stays the same, but the schema may change.
    needed = f"loginpipe {by[1]} or newer" if by and by[1] != ours else "the version that migrated it, or a newer one"
    at = f"{place(cursor.connection)} is at {found}"
    raise SchemaError(f"{at}, and this code (loginpipe {ours}) knows {HEAD} at most: deploy {needed}")


def _refusal(error: BaseException | None) -> DatabaseError:
    refusal = statement_error(error) if isinstance(error, psycopg2.Error) else DatabaseError("the migration failed")
    if refusal.sqlstate == _INSUFFICIENT_PRIVILEGE:
        needs = f"it needs CREATE on the database and on its schema {logins_schema()}, or to own both"
        return DatabaseError(f"the role may not migrate: {needs} [{refusal.sqlstate}]", refusal.sqlstate)
    return refusal
