"""The reconciliation: sent = rows + rejects + queued, no message twice, no personal data in clear outside the queue.

A message has two identities: its id, which is in the ledger and on the queue, and its user, who is in the table.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from loginpipe_tests.canary import forms
from loginpipe_tests.canary import found as found_in
from loginpipe_tests.crash.logins import DEVICE, NETWORK
from loginpipe_tests.crash.place import Place
from loginpipe_tests.wire import eventually, tables

_SHOWN = 5
_MARKERS = {
    "address": tuple(forms(str(NETWORK.network_address).rstrip(":"), NETWORK.network_address.packed[:8])),
    "device id": tuple(forms(DEVICE)),
}

_IN_WORK = """
    SELECT count(*)
    FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
        AND state <> 'idle'
"""


@dataclass(frozen=True)
class Balance:
    """The number of messages in each place.

    Attributes:
        rows: in ``user_logins``.
        rejects: in ``rejected_messages``.
        queued: on the queue or its dead-letter queue, without an outcome.
        recorded_and_queued: on a queue and with an outcome. A redelivery of them changes nothing.
    """

    rows: int
    rejects: int
    queued: int
    recorded_and_queued: int = 0


def balance(place: Place) -> Balance:
    """Check that every message is somewhere and has at most one outcome. No run may be active."""
    # The server still carries out what a killed run has sent, such as a commit, between one query below and the next.
    eventually(lambda: place.rows(_IN_WORK) == [(0,)], "no transaction is in work", seconds=60)
    ledger = _counted(place, "SELECT message_id::text FROM loginpipe.ingested_messages")
    rejects = _counted(place, "SELECT message_id::text FROM loginpipe.rejected_messages")
    users = _counted(place, "SELECT user_id FROM user_logins")
    queued = place.queued()
    _none(_repeated(ledger), "messages are in the ledger twice")
    _none(_repeated(rejects), "messages are rejects twice")
    _none(_repeated(users), "logins are in the table twice")
    _none(ledger.keys() - place.sent.keys(), "messages are in the ledger that no one sent")
    _none(rejects.keys() - ledger.keys(), "rejects are not in the ledger")
    accepted = {str(place.sent[message_id].user) for message_id in ledger.keys() - rejects.keys()}
    _none(accepted - users.keys(), "logins are in the ledger and not in the table")
    _none(users.keys() - accepted, "logins are in the table and not in the ledger")
    _none({i for i in rejects if place.sent[i].user} - _damaged(place), "good logins are rejects")
    _none(place.sent.keys() - ledger.keys() - queued, "messages are lost")
    _vault_is_whole(place)
    _runs_add_up(place, len(users), len(rejects))
    return Balance(len(users), len(rejects), len(queued - ledger.keys()), len(queued & ledger.keys()))


def settled(place: Place) -> Balance:
    """Check that, at the end, every message is in exactly one place."""
    found = balance(place)
    assert found.recorded_and_queued == 0, f"{found}: messages with an outcome are still on a queue"
    assert found.rows + found.rejects + found.queued == len(place.sent), f"{found}, and {len(place.sent)} were sent"
    nothing_in_clear(place)
    return found


def nothing_in_clear(place: Place) -> None:
    """Check that no table, output or file of the runs contains a marker."""
    haystacks = {name: "\n".join(rows) for name, rows in tables(place).items()}
    haystacks |= {str(path): path.read_text(errors="replace") for path in place.folder.rglob("*") if path.is_file()}
    assert found_in(haystacks, _MARKERS) == []


def _vault_is_whole(place: Place) -> None:
    """Check that every token has a sealed value, and everything sealed has its data key."""
    statement = """
        SELECT
            (
                SELECT count(*)
                FROM user_logins, LATERAL (VALUES (masked_ip), (masked_device_id)) AS masked (token)
                WHERE NOT EXISTS (SELECT FROM vault.sealed_values WHERE sealed_values.token = masked.token)
            ),
            (
                SELECT count(*)
                FROM (
                    SELECT data_key_id FROM vault.sealed_values
                    UNION ALL SELECT data_key_id FROM loginpipe.rejected_messages
                    UNION ALL SELECT data_key_id FROM loginpipe.login_extras WHERE sealed_extras IS NOT NULL
                ) AS sealed
                WHERE NOT EXISTS (SELECT FROM vault.data_keys WHERE data_keys.data_key_id = sealed.data_key_id)
            )
    """
    assert place.rows(statement) == [(0, 0)], "tokens without a sealed value, sealed values without a data key"


def _runs_add_up(place: Place, rows: int, rejects: int) -> None:
    """Check that the batches recorded by the runs add up, including the runs that were killed."""
    statement = "SELECT coalesce(sum(inserted), 0), coalesce(sum(rejected), 0) FROM loginpipe.batches"
    assert place.rows(statement) == [(rows, rejects)], "the runs' counts are wrong"


def _damaged(place: Place) -> set[str]:
    """Return the ids of messages that were rejected because they arrived damaged too often."""
    statement = "SELECT message_id::text FROM loginpipe.rejected_messages WHERE 'body_damaged' = ANY (reasons)"
    return set(_counted(place, statement))


def _counted(place: Place, statement: str) -> Counter[str]:
    return Counter(value for (value,) in place.rows(statement))


def _repeated(counts: Counter[str]) -> set[str]:
    return {key for key, number in counts.items() if number > 1}


def _none(found: Collection[str], what: str) -> None:
    assert not found, f"{len(found)} {what}: {', '.join(sorted(found)[:_SHOWN])}"
