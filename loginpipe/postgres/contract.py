"""Check that ``user_logins`` accepts logins and its database accepts writes, and find what refuses or changes some.

`loginpipe.common.logins_table` defines the contract; the caller decides what to do about a difference. An adopted table
may have more columns, and constraints, triggers and partitions of its own, and rows that mean something else than
loginpipe's. The forms of their values are counted in the database: no value leaves it.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from loginpipe.common.logins_table import COLUMN_NAMES, USER_LOGINS_COLUMNS, logins_table
from loginpipe.masking.compat import BASE64, HMAC, MD5, PLAIN, SALTED
from loginpipe.postgres.connections import Connection, Cursor, fetch, rows_of, transaction
from loginpipe.postgres.statements import statement

_KINDS = {"r": "table", "p": "table", "v": "view", "m": "materialized view", "f": "foreign table"}

_TEXT = re.compile(r"text|character varying(?:\((\d+)\))?")
_MASKED = ("masked_ip", "masked_device_id")
# Enough for every masking; compat-sha256-salted is the longest.
_MASKED_LENGTH = 64


class Column(NamedTuple):
    """A column of the table.

    Attributes:
        kind: its type, as ``format_type`` prints it.
        computed: only the database sets its values: it is generated, or an identity that is always generated.
        required: an INSERT must name it: it is NOT NULL without a default.
        alike: its collation treats some different texts as equal.
    """

    name: str
    kind: str
    computed: bool = False
    required: bool = False
    alike: bool = False


class TableFindings(NamedTuple):
    """Phrases: what refuses or loses every login; what refuses, changes or loses some logins, and the effect."""

    obstacles: tuple[str, ...]
    notes: tuple[str, ...]


def user_logins_columns(connection: Connection) -> tuple[Column, ...]:
    """Read the columns of the table, in order, in the caller's transaction. Empty if there is no such relation."""
    with connection.cursor() as cursor:
        return tuple(Column(*row) for row in rows_of(cursor, statement("user_logins_columns")))


def current_columns(connection: Connection) -> tuple[Column, ...]:
    """Read `user_logins_columns` in a transaction of its own."""
    with transaction(connection):
        return user_logins_columns(connection)


def user_logins_kind(connection: Connection) -> str | None:
    """Return the kind of ``user_logins``, in the caller's transaction: ``table``, ``view``, …; None if it is missing.

    A partitioned table is a ``table`` too.
    """
    with connection.cursor() as cursor:
        found = rows_of(cursor, "SELECT relkind FROM pg_class WHERE oid = to_regclass(%s)", (logins_table(),))
    return _KINDS.get(found[0][0], "relation of another kind") if found else None


def why_read_only(cursor: Cursor) -> str | None:
    """Return why the database refuses writes, and what to do; None if it accepts them."""
    ((replica, read_only),) = rows_of(cursor, statement("writable"))
    if replica:
        return (
            "is a replica, which takes no writes: name the writer's endpoint in LOGINPIPE_DATABASE_URL, or, where that "
            "lists several hosts, add target_session_attrs=read-write"
        )
    if read_only:
        return (
            "is read-only: see whether its disk is full, then RESET default_transaction_read_only for the role, the "
            "database or the server"
        )
    return None


def replication_problem(cursor: Cursor) -> str | None:
    """Return which of our tables a publication keeps from deletes, and what to do; None if there is no such table."""
    rows = rows_of(cursor, statement("without_replica_identity"))
    if not rows:
        return None
    # The partitioned table first, because future partitions follow it.
    tables = dict.fromkeys([*sorted(root for _, root, _ in rows), *(table for table, _, _ in rows)])
    publications = dict.fromkeys(publication for _, _, publication in rows)
    return (
        f"the publication {' and '.join(publications)} replicates deletes from tables without a replica identity, "
        "which Postgres refuses, so erasures and maintenance fail: run "
        f"`{'; '.join(f'ALTER TABLE {table} REPLICA IDENTITY FULL' for table in tables)}`"
    )


def contract_differences(found: Sequence[Column]) -> list[str]:
    """Return what in these columns keeps every login out, one phrase each.

    Texts may have any length; `column_notes` names short ones. Masked columns need room for a token. Further columns
    are allowed if an INSERT may leave them out. The order is free, because logins are stored by name.
    """
    expected, actual = dict(USER_LOGINS_COLUMNS), {column.name: column for column in found}
    differences = [f"column {name} ({kind}) is missing" for name, kind in expected.items() if name not in actual]
    differences += [
        f"column {column.name} ({column.kind}) is NOT NULL and nothing fills it: give it a default, or let it be NULL"
        for column in found
        if column.name not in expected and column.required
    ]
    for name, kind in expected.items():
        if name not in actual:
            continue
        there = actual[name].kind
        if there != kind and not (_TEXT.fullmatch(kind) and _TEXT.fullmatch(there)):
            differences.append(f"column {name} is {there}, expected {kind}")
        elif name in _MASKED and _length(there) < _MASKED_LENGTH:
            differences.append(f"column {name} is {there}, and tokens have up to {_MASKED_LENGTH} characters")
        if actual[name].computed:
            differences.append(f"column {name} is generated: no value can be stored in it")
    return differences


def column_notes(found: Sequence[Column]) -> list[str]:
    """Return what in these columns refuses or loses something, one phrase each."""
    ours = [column for column in found if column.name in COLUMN_NAMES]
    expected = dict(USER_LOGINS_COLUMNS)
    notes = [
        f"{column.name} is {column.kind}, shorter than {expected[column.name]}: logins with a longer one are rejected; "
        "docs/tables.md has the statements that widen it"
        for column in ours
        if column.name not in _MASKED and _length(column.kind) < _length(expected[column.name])
    ]
    alike = [column.name for column in ours if column.alike]
    if alike:
        notes.append(
            f"{' and '.join(alike)} take texts that differ for equal ones, by a collation that is not deterministic: "
            "erasing a user deletes those that seem equal too"
        )
    own = [column.name for column in found if column.name not in COLUMN_NAMES]
    if own:
        notes.append(
            f"{', '.join(own)}: columns of the table's own, which logins leave to their defaults; the archive does not "
            "hold them, so a month that retention drops comes back without their values"
        )
    order = [column.name for column in ours]
    if order != [name for name in COLUMN_NAMES if name in order]:
        notes.append(
            f"the columns are in the order {', '.join(order)}: logins are stored by name, and only `SELECT *` shows it"
        )
    return notes


def examine_table(connection: Connection) -> TableFindings:
    """Find what in the table and its partitions refuses, changes or loses logins, in the caller's transaction."""
    columns = user_logins_columns(connection)
    obstacles, notes = contract_differences(columns), column_notes(columns) if columns else []
    with connection.cursor() as cursor:
        facts = rows_of(cursor, statement("table_facts"), {"columns": list(COLUMN_NAMES), "may_be_null": "locale"})
    for kind, name, definition, partitions in facts:
        where = f" of {partitions} of its partitions" if partitions else ""
        says = _FACTS[kind].format(name=name, definition=definition, where=where, table=logins_table())
        (obstacles if kind in _OBSTACLES else notes).append(says)
    return TableFindings(tuple(obstacles), tuple(notes))


def _length(kind: str) -> float:
    """Return the maximum length of a type in characters; infinity without a limit."""
    match = _TEXT.fullmatch(kind)
    return int(match[1]) if match and match[1] else float("inf")


_OBSTACLES = frozenset({"insert rule", "unlogged", "closed by row security"})

_FACTS: Mapping[str, str] = {
    "not null": (
        "{name} is NOT NULL{where}: logins without one are rejected; run `ALTER TABLE {table} ALTER COLUMN {name} DROP "
        "NOT NULL` to take them"
    ),
    "check": "constraint {name}{where}, {definition}: logins that it refuses are rejected",
    "unique": "{name}{where}, UNIQUE {definition}: a second login of the same values is rejected; drop it to keep all",
    "foreign key": "constraint {name}{where}, {definition}: logins without a row there are rejected",
    "reference": (
        "constraint {name}, {definition}, refers to this table: erasing a user fails where a row does; let it be ON "
        "DELETE CASCADE or SET NULL"
    ),
    "row trigger": (
        "trigger {name}{where}, {definition}: what it changes in a login is stored so; a run fails where it drops one "
        "or raises an error, those of class 22 and 23 aside, which reject the login"
    ),
    "insert trigger": (
        "trigger {name}{where}, {definition}: a run fails where it raises an error, those of class 22 and 23 aside, "
        "which reject the login"
    ),
    "delete trigger": "trigger {name}{where}, {definition}: erasing a user may fail, or leave rows",
    "insert rule": "rule {name} rewrites every INSERT: no login can be stored; run `DROP RULE {name} ON {table}`",
    "delete rule": "rule {name} rewrites every DELETE: erasing a user fails; run `DROP RULE {name} ON {table}`",
    "row security": (
        "row-level security is on: a run fails on logins that no policy lets loginpipe_writer insert, and rows that "
        "are hidden are missing in counts, archive and erasures; `archive restore` needs a role that bypasses it"
    ),
    "closed by row security": (
        "row-level security is on, and no policy lets loginpipe_writer insert: no login can be stored; run `CREATE "
        "POLICY logins ON {table} TO loginpipe_writer USING (true)`, or let the role bypass it"
    ),
    "unlogged": (
        "{name} is UNLOGGED: a crash of the server empties it, when the messages are deleted already; run `ALTER TABLE "
        "{name} SET LOGGED`"
    ),
    "encoding": (
        "the database's encoding is {name}: logins with characters that it lacks are rejected; only UTF8 takes them all"
    ),
    "nested": (
        "partition {name} is partitioned itself, by {definition}: logins that none of its partitions takes are rejected"
    ),
    "foreign partition": "partition {name} is a foreign table: a run fails while its server is away",
}

# Form in the SQL statement → its description, and the settings of LOGINPIPE_MASKING that produce it.
_FORMS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "token": ("tokens", (HMAC,)),
    "hex64": ("64 hexadecimal digits", (PLAIN, SALTED)),
    "base64": ("SHA-256 in base64", (BASE64,)),
    "hex32": ("32 hexadecimal digits", (MD5,)),
}


@dataclass(frozen=True)
class RowForms:
    """Counts of the rows that were read, by column and form. Rows with NULL in a column are not counted there."""

    forms: Mapping[str, Counter[str]]

    @property
    def rows(self) -> int:
        """Return the number of rows with a value in the column that has the most values."""
        return max((of_column.total() for of_column in self.forms.values()), default=0)

    def findings(self, masking: str) -> Iterator[str]:
        """Yield a sentence for each column whose rows mean something else than rows written with this masking."""
        yield from _of_versions(self.forms.get("app_version", Counter()))
        for column in _MASKED:
            of_column = self.forms.get(column, Counter())
            for form, count in of_column.most_common():
                if finding := _of_form(form, masking):
                    yield f"{column}: {count:,} of {of_column.total():,} rows hold {finding}"


def read_row_forms(connection: Connection) -> RowForms:
    """Read the forms of at most 10,000 rows."""
    forms: dict[str, Counter[str]] = {}
    # The first rows that a scan reads are the oldest: those from before the adoption.
    for column, form, count in fetch(connection, statement("row_forms"), {"limit": 10_000}):
        forms.setdefault(column, Counter())[form] = count
    return RowForms(forms)


def _of_versions(forms: Counter[str]) -> Iterator[str]:
    rows = forms.total()
    advice = "compare versions of these rows apart from new ones, or convert them; no setting changes what is written"
    if forms["below 1000"] > 0.1 * rows:
        yield (
            f"app_version: {forms['below 1000']:,} of {rows:,} rows are below 1,000, as 230 is where dots were left "
            f"out of 2.3.0, and loginpipe writes 2003000: {advice}"
        )
    elif forms["below 1000000"] and not forms["from 1000000"]:
        yield (
            f"app_version: none of {rows:,} rows reaches 1,000,000, which is version 1.0.0 as loginpipe writes it: "
            f"unless all are of versions before that, {advice}"
        )


def _of_form(form: str, masking: str) -> str | None:
    if form == "address":
        return "what looks like an address in clear: mask it; loginpipe leaves rows that were there as they are"
    if form not in _FORMS:
        return "values of no form that loginpipe makes: they do not join with new ones, and may be clear"
    words, made_by = _FORMS[form]
    if masking in made_by:
        return None
    salt = ", with its salt in LOGINPIPE_COMPAT_SALT" if SALTED in made_by else ""
    return (
        f"{words}, and LOGINPIPE_MASKING is {masking}: new values do not join with them; to go on with theirs, set it "
        f"to {' or '.join(made_by)}{salt}"
    )
