"""The kinds of alerts there are: what each is called, what is to be done, and where the runbook has more."""

from collections.abc import Mapping
from dataclasses import dataclass

CHECK = "check:"
"""What the condition of an asset check that fails begins with."""


@dataclass(frozen=True)
class Kind:
    """What an alert says of every condition of its kind: the title, what to do, and where the runbook has more."""

    title: str
    todo: str
    anchor: str


KINDS: Mapping[str, Kind] = {
    "queue-out-of-reach": Kind(
        "the queue cannot be asked",
        "mend what it says; nothing is lost, messages wait on the queue",
        "source-down",
    ),
    "database-out-of-reach": Kind(
        "the database cannot be used",
        "mend what it says; nothing is lost, runs fail and their messages return to the queue",
        "source-down",
    ),
    "runs-failing": Kind(
        "runs are failing",
        "open the newest failed run of ingest_logins in Dagster and mend its cause; `loginpipe doctor` looks as well",
        "a-run-fails",
    ),
    "stuck": Kind(
        "messages wait and no batch is finished",
        "see in Dagster that the daemon and queue_depth_sensor are running, and whether runs fail or hang",
        "nothing-arrives",
    ),
    "in-flight-stall": Kind(
        "in-flight stall: messages wait that nobody can receive",
        "look for a consumer that receives and does not delete",
        "in-flight-stall",
    ),
    "dead-letters": Kind(
        "dead letters",
        "find the cause, then run `loginpipe dlq redrive`: SQS deletes dead letters when they are too old",
        "dead-letters",
    ),
    "reject-rate": Kind(
        "many messages are rejected",
        "see the reasons with `loginpipe rejects list`; ask the sender, or mend the rules and replay them",
        "rejected-messages",
    ),
    "delay": Kind(
        "logins are stored late",
        "see whether the backlog grows: raise LOGINPIPE_MAX_RUNS, or find what slows the runs down",
        "the-backlog-grows",
    ),
}


CHECK_SECTIONS: Mapping[str, str] = {
    "only_tokens": "a-run-fails",
    "counts_add_up": "the-books-do-not-balance",
    "ledger_matches_table": "ledger-and-table-differ",
    "columns_are_the_contract": "the-table-is-not-the-contract",
    "token_key_version_current": "keys-and-tokens",
    "archive_matches_table": "archive-differs",
}
"""Of the checks that can fail with an error."""


def kind(name: str) -> Kind:
    """Return the kind of a condition, by its name."""
    if name.startswith(CHECK):
        check = name.removeprefix(CHECK)
        return Kind(
            f"the check {check} fails",
            "open it in Dagster, under the asset's checks: it says what it found",
            CHECK_SECTIONS.get(check.partition(" ")[0], "a-check-fails"),
        )
    return KINDS.get(name) or Kind(name, "see the runbook", name)
