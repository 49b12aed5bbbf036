"""The grants as they are: how they differ from the plan, and what the connected role may do beyond a writer's work."""

from dataclasses import dataclass

from loginpipe.postgres.connections import Connection, transaction
from loginpipe.postgres.grant_plan import ROLES, WRITER, Grant, differences, planned
from loginpipe.postgres.statements import statement


def grant_differences(connection: Connection) -> list[str]:
    """Say in words how grants, roles and owners differ from what they should be, each with the mend.

    Args:
        connection: of any role, with no transaction open, to a migrated database.
    """
    with transaction(connection) as cursor:
        cursor.execute("SELECT quote_ident(current_database())")
        [(database,)] = cursor.fetchall()
        cursor.execute(statement("actual_grants"), {"roles": list(ROLES)})
        found = []
        for role, privilege, name, grantable in cursor:
            found += [Grant(role, privilege, name)]
            found += [Grant(role, f"GRANT OPTION FOR {privilege}", name)] if grantable else []
        cursor.execute(statement("role_faults"), {"roles": list(ROLES)})
        faults = [fault for (fault,) in cursor]
    return [*faults, *differences(found, planned(database))]


@dataclass(frozen=True)
class Standing:
    """What the connected role may do.

    Attributes:
        role: its name.
        writes: whether it may do a writer's work.
        beyond: what more it may do, as in ``is a superuser``; empty for the pipeline as it should be.
    """

    role: str
    writes: bool
    beyond: tuple[str, ...]

    @property
    def mend(self) -> str:
        """How an administrator makes a login that may do a writer's work and no more."""
        return f"CREATE ROLE loginpipe_pipeline LOGIN IN ROLE {WRITER}"


def standing(connection: Connection) -> Standing:
    """Read what the connected role may do, whichever way it came by that.

    Args:
        connection: with no transaction open, to a migrated database.
    """
    with transaction(connection) as cursor:
        cursor.execute(statement("standing"))
        [(role, superuser, owns, writes, opens, reads)] = cursor.fetchall()
    if superuser:
        return Standing(role, writes=True, beyond=("is a superuser",))
    if owns:
        return Standing(role, writes=True, beyond=("is the owner of the vault",))
    beyond = (["is a custodian"] if opens else []) + [f"may {what}" for what in reads]
    return Standing(role, writes, tuple(beyond))
