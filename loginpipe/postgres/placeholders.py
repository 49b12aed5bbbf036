"""Mark the tokens of placeholders in the database, so that counts of duplicates leave them out."""

from collections.abc import Sequence

from loginpipe.masking.placeholders import PlaceholderToken
from loginpipe.postgres.connections import Connection, transaction
from loginpipe.postgres.statements import statement


def mark_placeholders(connection: Connection, placeholders: Sequence[PlaceholderToken]) -> None:
    """Update ``loginpipe.placeholder_tokens`` to the current list of placeholders.

    A new placeholder counts as one in earlier logins too, and is removed from the tables of duplicates. A token that is
    no longer in the list is removed, if the key that made it is among the current keys.

    Raises:
        DatabaseError: nothing was changed.
    """
    with transaction(connection) as cursor:
        cursor.execute(
            statement("mark_placeholders"),
            {
                "tokens": [each.token for each in placeholders],
                "fields": [each.field for each in placeholders],
                "made_by": [each.made_by for each in placeholders],
            },
        )
