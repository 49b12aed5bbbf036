"""Copy fields of past logins from their sealed extras to the table, in clear. The access log records it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from loginpipe.common.errors import LoginpipeError, OpeningError
from loginpipe.common.logins_table import COLUMN_NAMES
from loginpipe.custody.access import MAX_SUBJECTS, Bulk, release_under
from loginpipe.custody.opening import DataKeys, Opener, open_released
from loginpipe.custody.token_checks import EXTRAS, TokenChecks
from loginpipe.logins.extras import VERSION_FIELD, field_text
from loginpipe.logins.parsing import LOGIN_FIELDS
from loginpipe.postgres.connections import Connection, fetch, transaction
from loginpipe.postgres.copy import copy_rows
from loginpipe.postgres.statements import statement

_OURS = frozenset({*LOGIN_FIELDS, *COLUMN_NAMES}) - {VERSION_FIELD}
_BEFORE_ALL = "00000000-0000-0000-0000-000000000000"


@dataclass
class Backfill:
    """Messages whose sealed fields were opened, those whose field is now in clear, and those that stay sealed.

    They stay sealed because ``jsonb`` cannot store the field, or because they do not open.
    """

    opened: int = 0
    filled: int = 0
    not_storable: int = 0
    refused: list[OpeningError] = field(default_factory=list)


def require_extra(name: str) -> None:
    """Raise LoginpipeError for a field of the login itself, which is not an extra."""
    if name in _OURS:
        raise LoginpipeError(f"{name} is a field of the login itself, not an extra: specify another one")


def count_to_fill(connection: Connection, name: str) -> int:
    """Count the messages with sealed extras whose field is not in clear."""
    ((count,),) = fetch(connection, statement("count_extras_to_fill"), {"field": name})
    return int(count)


def backfill(
    connection: Connection, opener: Opener, name: str, bulk: Bulk, progress: Callable[[int], None] = lambda _: None
) -> Backfill:
    """Copy a field of past logins from the sealed extras to the extras in clear.

    You can interrupt and restart it at any point: a field in clear is not opened again. ``progress`` is called with the
    number of messages of each batch.

    Raises:
        AccessRefusedError: a request or release was refused.
        OpeningError: a data key is wrapped for none of the private keys.
    """
    done, data_keys, after = Backfill(), DataKeys(opener), _BEFORE_ALL
    query, limit = statement("extras_to_fill"), MAX_SUBJECTS
    while found := fetch(connection, query, {"field": name, "after": after, "limit": limit}):
        batch = [message_id for (message_id,) in found]
        opening = open_released(release_under(connection, bulk, batch), data_keys, TokenChecks(None))
        opening.require_recipient()
        done.refused += opening.refused
        texts = {
            message_id: field_text(opened.plaintext, name)
            for message_id, opened in opening.opened.items()
            if opened.field_name == EXTRAS
        }
        done.opened += len(texts)
        done.not_storable += sum(text == b"" for text in texts.values())
        done.filled += _fill(connection, name, {i: text.decode() for i, text in texts.items() if text})
        after = batch[-1]
        progress(len(batch))
    return done


def _fill(connection: Connection, name: str, texts: Mapping[str, str]) -> int:
    """Write the field of messages that do not have it yet, and return their number."""
    if not texts:
        return 0
    with transaction(connection) as cursor:
        cursor.execute(statement("create_found_extras"))
        copy_rows(cursor, "found_extras", ("message_id", "extras"), [list(texts), list(texts.values())])
        cursor.execute(statement("fill_extras"), {"field": name})
        return cursor.rowcount
