"""Define the grants of each role on loginpipe's tables and functions, and compare them with a database's.

The migrations grant them. This module also finds rights of the connected role beyond those of a writer.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from loginpipe.common.logins_table import logins_schema, logins_table
from loginpipe.postgres.connections import Connection, fetch, rows_of, transaction
from loginpipe.postgres.statements import statement

WRITER = "loginpipe_writer"
ANALYST = "loginpipe_analyst"
CUSTODIAN = "pii_custodian"
AUDITOR = "pii_auditor"
ROLES = (WRITER, ANALYST, CUSTODIAN, AUDITOR)
PUBLIC = "PUBLIC"

# The columns of ``rejected_messages`` that are not sealed.
_SHOWN = ("message_id", "sent_at", "received_at", "batch_id", "reasons", "fields", "replayed_at")

# The columns of ``batches`` that are updated after the batch was recorded.
_OF_DELETES = ("finished_at", "deleted", "delete_failures", "leases_lost")

# The columns of ``login_extras`` that are not sealed.
_EXTRAS = (
    "message_id", "user_id", "device_type", "masked_ip", "masked_device_id", "locale", "app_version", "create_date",
    "extras",
)  # fmt: skip

_APP_VERSIONS = (
    "FUNCTION loginpipe.app_version_text(encoded integer)",
    "FUNCTION loginpipe.app_version_number(version text)",
)
_PARTITIONS = (
    "FUNCTION loginpipe.create_partition(parent text, start date)",
    "FUNCTION loginpipe.create_extras_partition(start date)",
    "FUNCTION loginpipe.drop_ledger_partition(start date)",
    "FUNCTION loginpipe.trim_ledger(begins date)",
    "FUNCTION loginpipe.rows_in_default(parent text)",
    "FUNCTION loginpipe.share_replica_identity(parent text)",
)
_TURNS = ("FUNCTION loginpipe.take_turn(what text)", "FUNCTION loginpipe.try_turn(what text)")
_ARCHIVE = (
    "FUNCTION loginpipe.logins_by_day(first_day date, last_day date)",
    "FUNCTION loginpipe.drop_archived_partition(start date)",
    "FUNCTION loginpipe.trim_extras(begins date)",
)
_DUPLICATES = ("TABLE loginpipe.duplicate_devices", "TABLE loginpipe.duplicate_ips")
_INSIGHTS = (*_DUPLICATES, "TABLE loginpipe.daily_logins")
_KEPT = ("TABLE loginpipe.device_users", "TABLE loginpipe.ip_users")
_KEPT_BY_DAY = ("TABLE loginpipe.device_days", "TABLE loginpipe.ip_days")
_INSIGHT_VIEWS = (
    "TABLE loginpipe.shared_devices", "TABLE loginpipe.shared_ips", "TABLE loginpipe.daily_logins_by_version",
)  # fmt: skip
_CUSTODY = (
    "FUNCTION vault.request_access(subjects text[], purpose text, ticket text, under uuid, kind text, most integer)",
    "FUNCTION vault.approve_access(request_id uuid)",
    "FUNCTION vault.release(request_id uuid)",
    "FUNCTION vault.discard_values(request_id uuid, tokens text[])",
    "FUNCTION vault.request_erasure(tombstones jsonb, purpose text, ticket text)",
    "FUNCTION vault.release_for_erasure(request_id uuid)",
    "FUNCTION vault.erase_user(request_id uuid, tokens text[], values_of text[], seen text[])",
)
_COUNT_UNOPENABLE = "FUNCTION vault.unopenable_values()"
_RECORD_VERSION = (
    "FUNCTION loginpipe.record_token_key(version smallint, check_value bytea, successor_hash bytea, proof bytea)"
)


@dataclass(frozen=True, order=True)
class Grant:
    """A privilege of a role on an object, as ``TABLE vault.sealed_values (token)`` or ``FUNCTION vault.release(…)``."""

    role: str
    privilege: str
    object: str

    def statement(self, verb: str, preposition: str) -> str:
        """Return the SQL that grants or revokes it: pass ``GRANT`` and ``TO``, or ``REVOKE`` and ``FROM``."""
        table, parenthesis, column = self.object.partition(" (")
        columns = f" ({column}" if parenthesis else ""
        return f"{verb} {self.privilege}{columns} ON {table} {preposition} {self.role}"


def planned(database: str) -> frozenset[Grant]:
    """Return the grants that should exist. Quote the name of the database if SQL needs that."""
    of_all: Mapping[str, Iterable[str]] = {
        f"DATABASE {database}": ("CONNECT",),
        "SCHEMA loginpipe": ("USAGE",),
        "TABLE loginpipe.alembic_version": ("SELECT",),
        "TABLE loginpipe.installation": ("SELECT",),
    }
    privileges: Mapping[str, Mapping[str, Iterable[str]]] = {
        WRITER: {
            **of_all,
            f"DATABASE {database}": ("CONNECT", "TEMPORARY"),
            f"SCHEMA {logins_schema()}": ("USAGE",),
            "SCHEMA vault": ("USAGE",),
            f"TABLE {logins_table()}": ("SELECT", "INSERT"),
            "TABLE loginpipe.ingested_messages": ("SELECT", "INSERT"),
            "TABLE loginpipe.batches": ("SELECT", "INSERT", "DELETE"),
            **{f"TABLE loginpipe.batches ({column})": ("UPDATE",) for column in _OF_DELETES},
            "TABLE loginpipe.batch_hours": ("SELECT", "INSERT", "UPDATE"),
            "TABLE loginpipe.day_changes": ("SELECT", "INSERT", "DELETE"),
            "TABLE loginpipe.days": ("SELECT", "INSERT", "UPDATE"),
            "TABLE loginpipe.rejected_messages": ("INSERT",),
            **{f"TABLE loginpipe.rejected_messages ({column})": ("SELECT",) for column in _SHOWN},
            "TABLE loginpipe.login_extras": ("INSERT",),
            "TABLE loginpipe.token_key_checks": ("SELECT",),
            _RECORD_VERSION: ("EXECUTE",),
            "TABLE loginpipe.token_aliases": ("SELECT",),
            "TABLE loginpipe.token_aliases (old_token)": ("INSERT",),
            "TABLE loginpipe.token_aliases (new_token)": ("INSERT", "UPDATE"),
            _COUNT_UNOPENABLE: ("EXECUTE",),
            "TABLE loginpipe.placeholder_tokens": ("SELECT", "INSERT", "DELETE"),
            "TABLE loginpipe.erased_users": ("SELECT",),
            "TABLE loginpipe.user_logins_canonical": ("SELECT",),
            **dict.fromkeys(_INSIGHTS, ("SELECT", "INSERT", "DELETE")),
            "TABLE vault.erasure_gate": ("INSERT",),
            **dict.fromkeys((*_DUPLICATES, *_KEPT), ("SELECT", "INSERT", "UPDATE", "DELETE")),
            **dict.fromkeys(_KEPT_BY_DAY, ("SELECT",)),
            "TABLE loginpipe.token_changes": ("SELECT", "INSERT", "DELETE"),
            "TABLE vault.data_keys": ("INSERT",),
            "TABLE vault.sealed_values": ("INSERT",),
            "TABLE vault.sealed_values (token)": ("SELECT",),
            **dict.fromkeys((*_PARTITIONS, *_TURNS), ("EXECUTE",)),
            "TABLE loginpipe.archived_days": ("SELECT", "INSERT", "UPDATE"),
            **dict.fromkeys(_ARCHIVE, ("EXECUTE",)),
        },
        ANALYST: {
            **of_all,
            f"SCHEMA {logins_schema()}": ("USAGE",),
            f"TABLE {logins_table()}": ("SELECT",),
            "TABLE loginpipe.user_logins_canonical": ("SELECT",),
            **{f"TABLE loginpipe.login_extras ({column})": ("SELECT",) for column in _EXTRAS},
            "TABLE loginpipe.user_logins_with_extras": ("SELECT",),
            "TABLE loginpipe.placeholder_tokens": ("SELECT",),
            **dict.fromkeys((*_INSIGHTS, *_INSIGHT_VIEWS), ("SELECT",)),
            "TABLE loginpipe.archived_days": ("SELECT",),
            **dict.fromkeys(_APP_VERSIONS, ("EXECUTE",)),
        },
        CUSTODIAN: {
            **of_all,
            f"DATABASE {database}": ("CONNECT", "TEMPORARY"),
            "SCHEMA vault": ("USAGE",),
            **{f"TABLE loginpipe.rejected_messages ({column})": ("SELECT",) for column in _SHOWN},
            "TABLE loginpipe.rejected_messages (replayed_at)": ("SELECT", "UPDATE"),
            **{f"TABLE loginpipe.login_extras ({column})": ("SELECT",) for column in ("message_id", "position")},
            "TABLE loginpipe.login_extras (extras)": ("SELECT", "UPDATE"),
            "TABLE loginpipe.token_key_checks": ("SELECT",),
            "TABLE loginpipe.token_aliases": ("SELECT",),
            "TABLE loginpipe.token_aliases (verified_token)": ("UPDATE",),
            "TABLE vault.erasure_requests (user_id)": ("INSERT",),
            "TABLE loginpipe.archived_days": ("SELECT",),
            **dict.fromkeys((*_CUSTODY, _COUNT_UNOPENABLE), ("EXECUTE",)),
        },
        AUDITOR: {
            **of_all,
            "SCHEMA vault": ("USAGE",),
            "TABLE vault.access_log": ("SELECT",),
            _COUNT_UNOPENABLE: ("EXECUTE",),
        },
    }
    return frozenset(
        Grant(role, privilege, name)
        for role, objects in privileges.items()
        for name, granted in objects.items()
        for privilege in granted
    )


def differences(found: Iterable[Grant], wanted: Iterable[Grant]) -> Iterator[str]:
    """Yield how the grants of the roles and of PUBLIC differ from the plan, and how to fix it.

    Grants to PUBLIC on ``user_logins``, its schema or the database are their owner's decision, and count as granted to
    each role.
    """
    there, plan = set(found), set(wanted)
    for grant in sorted(there - plan):
        if grant.role != PUBLIC or _ours(grant.object):
            # A REVOKE on a table also revokes the privilege on each of its columns.
            same = [each for each in plan if (each.role, each.privilege) == (grant.role, grant.privilege)]
            again = [
                each.statement("GRANT", "TO") for each in sorted(same) if each.object.startswith(f"{grant.object} (")
            ]
            statements = "; ".join([grant.statement("REVOKE", "FROM"), *again])
            yield f"{grant.role} has {grant.privilege} on {grant.object} and should not: run `{statements}`"
    for grant in sorted(plan - there):
        if Grant(PUBLIC, grant.privilege, grant.object) not in there:
            yield f"{grant.role} lacks {grant.privilege} on {grant.object}: run `{grant.statement('GRANT', 'TO')}`"


def _ours(name: str) -> bool:
    # The encoding of versions is no secret, and PUBLIC always had these functions.
    kind, qualified = name.split(" ", 1)
    ours = kind != "DATABASE" and qualified.split(".")[0] in {"loginpipe", "vault"}
    return ours and name not in _APP_VERSIONS


def grant_differences(connection: Connection) -> list[str]:
    """Return how grants, roles and owners of a migrated database differ from the plan, and the fix."""
    with transaction(connection) as cursor:
        ((database,),) = rows_of(cursor, "SELECT quote_ident(current_database())")
        found = []
        for role, privilege, name, grantable in rows_of(cursor, statement("actual_grants"), {"roles": list(ROLES)}):
            found += [Grant(role, privilege, name)]
            found += [Grant(role, f"GRANT OPTION FOR {privilege}", name)] if grantable else []
        problems = [problem for (problem,) in rows_of(cursor, statement("role_problems"), {"roles": list(ROLES)})]
    return [*problems, *differences(found, planned(database))]


@dataclass(frozen=True)
class RoleStatus:
    """The rights of the connected role: whether it has a writer's, and further ones, as in ``is a superuser``.

    For the pipeline there should be no further ones.
    """

    role: str
    writes: bool
    beyond: tuple[str, ...]

    @property
    def fix(self) -> str:
        """Return the SQL for a login with a writer's rights and no more, for an administrator."""
        return f"CREATE ROLE loginpipe_pipeline LOGIN IN ROLE {WRITER}"


def role_status(connection: Connection) -> RoleStatus:
    """Read the rights of the connected role in a migrated database, also inherited ones."""
    ((role, superuser, owns, writes, opens, reads),) = fetch(connection, statement("role_status"))
    if superuser:
        return RoleStatus(role, writes=True, beyond=("is a superuser",))
    if owns:
        return RoleStatus(role, writes=True, beyond=("is the owner of the vault",))
    beyond = (["is a custodian"] if opens else []) + [f"may {what}" for what in reads]
    return RoleStatus(role, writes, tuple(beyond))
