"""Derive alert conditions, and define the text of each kind. Pure: counts, times and names in, conditions out.

If a source does not answer, its conditions are unknown, and neither begin nor end.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from loginpipe.monitoring.anomalies import MAX_DELAYED, delayed
from loginpipe.monitoring.reports import Freshness, QueueSeen, Seen
from loginpipe.postgres.batches import RecentBatches

# A single failure is no alert, because most causes are gone by the next run.
_MIN_FAILURES = 2
# With fewer messages a share says little.
_MIN_MESSAGES = 20

CHECK = "check:"
"""Prefix of the condition of a failed asset check."""

JOB = "job:"
"""Prefix of the condition of a downstream job whose newest run failed."""


@dataclass(frozen=True)
class Kind:
    """The text of one kind of alert: its title, what to do, and the section of the runbook."""

    title: str
    todo: str
    anchor: str


KINDS: Mapping[str, Kind] = {
    "queue-unreachable": Kind(
        "the queue cannot be used", "Fix the error shown. Nothing is lost: messages wait on the queue.", "source-down"
    ),
    "database-unreachable": Kind(
        "the database cannot be used",
        "Fix the error shown. Nothing is lost: runs fail and their messages return to the queue.",
        "source-down",
    ),
    "runs-failing": Kind(
        "runs are failing",
        "Open the newest failed run of ingest_logins in Dagster and fix its cause. Run `loginpipe doctor`.",
        "a-run-fails",
    ),
    "stuck": Kind(
        "messages wait and no batch finishes",
        "In Dagster, check that the daemon and queue_depth_sensor are running, and whether runs fail or hang.",
        "nothing-arrives",
    ),
    "in-flight-limit-reached": Kind(
        "in-flight limit reached: messages wait and none can be received",
        "Find the consumer that receives and does not delete.",
        "in-flight-limit-reached",
    ),
    "dead-letters": Kind(
        "dead letters",
        "Fix the cause, then run `loginpipe dlq redrive`. SQS deletes dead letters that are too old.",
        "dead-letters",
    ),
    "reject-rate": Kind(
        "many messages are rejected",
        "Run `loginpipe rejects list` for the reasons. Ask the sender, or correct the settings and replay.",
        "rejected-messages",
    ),
    "delay": Kind(
        "logins are stored late",
        "If the backlog grows, raise LOGINPIPE_MAX_RUNS, or find what slows the runs down.",
        "the-backlog-grows",
    ),
}


CHECK_SECTIONS: Mapping[str, str] = {
    "only_tokens": "a-run-fails",
    "counts_add_up": "counts-do-not-add-up",
    "ledger_matches_table": "ledger-and-table-differ",
    "schema_matches_contract": "schema-does-not-match-contract",
    "token_key_version_current": "keys-and-tokens",
    "archive_matches_table": "archive-differs",
}
"""The runbook sections of checks that can fail with an error."""


JOB_SECTIONS: Mapping[str, str] = {
    "refresh_insights": "duplicates-and-daily-counts",
    "archive_logins": "archive-and-retention",
    "drop_archived_partitions": "archive-and-retention",
    "prune_dagster_storage": "old-runs",
}


def kind(name: str) -> Kind:
    """Return the kind of a condition by its name."""
    if name.startswith(JOB):
        job = name.removeprefix(JOB)
        return Kind(
            f"the job {job} fails",
            f"Fix the error shown, then launch {job} in Dagster, or wait for its next run.",
            JOB_SECTIONS.get(job, "a-job-fails"),
        )
    if name.startswith(CHECK):
        check = name.removeprefix(CHECK)
        return Kind(
            f"the check {check} fails",
            "Open it in Dagster, under the asset's checks: its description says what it found.",
            CHECK_SECTIONS.get(check.partition(" ")[0], "a-check-fails"),
        )
    return KINDS.get(name) or Kind(name, "See the runbook.", name)


@dataclass(frozen=True)
class Limits:
    """The limits from the settings: the share of rejects, and the seconds that a login may take."""

    reject_rate: float
    delay_seconds: int


def conditions(seen: Seen, limits: Limits) -> dict[str, str | None]:
    """Return each known condition with a message, or with None if it does not hold."""
    failures, reason = seen.history.failures_in_a_row, seen.history.reason
    message = f"{failures} failed runs in a row{reason and f', the newest with {reason}'}"
    return {
        "queue-unreachable": seen.queue if isinstance(seen.queue, str) else None,
        "database-unreachable": seen.runs if isinstance(seen.runs, str) else None,
        "runs-failing": message if failures >= _MIN_FAILURES else None,
        **({} if isinstance(seen.queue, str) else _of_queue(seen.queue, seen.freshness)),
        **({} if isinstance(seen.runs, str) else _of_runs(seen.runs, limits)),
        **{f"{CHECK}{name}": None if ok else "its last evaluation failed" for name, ok in seen.checks.items()},
        **{f"{JOB}{name}": reason for name, reason in seen.jobs.items()},
    }


def _of_queue(queue: QueueSeen, freshness: Freshness | None) -> dict[str, str | None]:
    depth, dead = queue.depth, queue.dead_letters
    found = {
        "in-flight-limit-reached": str(depth) if depth.at_in_flight_limit else None,
        "dead-letters": str(dead) if dead is not None and dead.ours else None,
    }
    if freshness is not None:
        # The in-flight limit has its own alert.
        found["stuck"] = None if freshness.passed or depth.at_in_flight_limit else freshness.message
    return found


def _of_runs(runs: RecentBatches, limits: Limits) -> dict[str, str | None]:
    received, rejected, limit = runs.received, runs.rejected, limits.reject_rate
    stored, late = sum(runs.delays), delayed(runs.delays, limits.delay_seconds)
    rejects = f"{rejected:,} of {received:,} messages were rejected within an hour; the limit is {limit:.2%}"
    delay = f"{late:,} of {stored:,} logins of the last 15 minutes took longer than {limits.delay_seconds:,} s"
    return {
        "reject-rate": rejects if received >= _MIN_MESSAGES and rejected > limit * received else None,
        "delay": delay if stored >= _MIN_MESSAGES and late > MAX_DELAYED * stored else None,
    }
