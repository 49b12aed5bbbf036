"""The tokens that stand for no value, marked in the database, so that what counts duplicates leaves them out."""

from collections.abc import Sequence

from loginpipe.masking.placeholders import PlaceholderToken
from loginpipe.postgres.connections import Connection, transaction
from loginpipe.postgres.statements import statement


def mark_placeholders(connection: Connection, placeholders: Sequence[PlaceholderToken]) -> None:
    """Bring ``loginpipe.placeholder_tokens`` to what the list of placeholders is now.

    What is on the list from now on is a placeholder in earlier logins too, and goes from the tables of duplicates. What
    is no longer on it goes from the table, as far as the keys are here that made its tokens.

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
