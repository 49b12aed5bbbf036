"""The asset checks of a run: limits are inclusive, and metadata holds counts but no samples."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import pytest

from loginpipe.common.logins_table import USER_LOGINS_COLUMNS
from loginpipe.defs.ingest.checks import (
    ONLY_TOKENS,
    REJECT_RATE,
    SCHEMA_DRIFT,
    counts_add_up,
    delay_within_limit,
    only_tokens,
    reject_rate,
    schema_drift,
)
from loginpipe.defs.monitoring.queue_checks import dead_letters_result, no_dead_letters
from loginpipe.logins.delays import DELAY_BOUNDS
from loginpipe.logins.messages import Message
from loginpipe.logins.splitting import split_batch
from loginpipe.monitoring.reports import evaluate_dead_letters
from loginpipe.postgres.batches import RunCounts
from loginpipe.postgres.contract import Column, contract_differences
from loginpipe.sqs.dead_letters import DeadLetterDepth, Owners


def plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of metadata, which must have a link to the runbook, without that link."""
    assert metadata["runbook"].value.startswith("docs/operations.md#")
    return {name: entry.value for name, entry in metadata.items() if name != "runbook"}


# --- reject_rate ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rejected", "received", "most", "passed"),
    [
        (0, 0, 0.05, True),
        (0, 0, 0.0, True),
        (0, 100, 0.0, True),
        (1, 100, 0.0, False),
        (5, 100, 0.05, True),
        (6, 100, 0.05, False),
        (1, 10_000, 0.0001, True),
        (2, 10_000, 0.0001, False),
        (1, 3, 1 / 3, True),
        (100, 100, 1.0, True),
        (100, 100, 0.99, False),
    ],
)
def test_as_many_rejects_as_the_limit_allows_pass_and_one_more_does_not(
    rejected: int, received: int, most: float, passed: bool
) -> None:
    assert reject_rate(rejected, received, most).passed is passed


def test_the_reject_rate_is_told_in_numbers_and_words() -> None:
    result = reject_rate(1_200, 10_000, 0.05)
    assert plain(result.metadata) == {"rejected": 1_200, "received": 10_000, "rate": 0.12, "limit": 0.05}
    assert result.description == "1,200 of 10,000 messages rejected (12.00%); the limit is 5.00%"
    assert (result.check_name, result.asset_key) == (REJECT_RATE.name, REJECT_RATE.asset_key)
    assert result.severity == dg.AssetCheckSeverity.ERROR


def test_too_many_rejects_do_not_hold_up_the_good_ones() -> None:
    assert not REJECT_RATE.blocking


# --- schema_drift -----------------------------------------------------------------------------------------------------


def test_no_unknown_fields_pass() -> None:
    result = schema_drift({}, "kept sealed")
    assert result.passed
    assert plain(result.metadata) == {"messages_by_field": {}}


def test_unknown_fields_are_a_warning_with_names_and_counts_alone() -> None:
    events = '{"user_id": "u", "session": "199.172.111.135"}', '{"session": 1, "593-47-5928": 1}'
    messages = [Message(str(i), str(i), "h", body, 0, 0, 1, body_intact=True) for i, body in enumerate(events)]
    result = schema_drift(split_batch(messages).unknown_fields, "kept sealed")
    assert not result.passed
    assert result.severity == dg.AssetCheckSeverity.WARN
    assert plain(result.metadata) == {"messages_by_field": {"session": 2, "(name not shown)": 1}}
    assert result.description == "2 unknown fields: kept sealed"
    assert not SCHEMA_DRIFT.blocking


# --- no_dead_letters --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "passed", "words"),
    [
        (DeadLetterDepth(0, 0, 0), True, "Empty"),
        (DeadLetterDepth(1, 0, 0), False, "1 waiting"),
        (DeadLetterDepth(1_234, 5, 0), False, "1,234 waiting, 5 in flight"),
        # Someone is reading or moving them, but they still count.
        (DeadLetterDepth(0, 3, 0), False, "3 in flight"),
        (DeadLetterDepth(0, 0, 2), False, "2 delayed"),
        (DeadLetterDepth(3, 0, 0, 1, Owners(1, 2)), False, "1 ours and 2 not ours, in a dead-letter queue shared"),
        (DeadLetterDepth(3, 0, 0, 1, Owners(0, 2, all=False)), True, "0 ours and 2 not ours, of the first 2, in a "),
        (DeadLetterDepth(3, 0, 0, 1), False, "3 waiting, 0 in flight, 0 delayed, in a dead-letter queue shared"),
        (None, False, "has no dead-letter queue"),
    ],
    ids=[
        "empty", "one", "many", "in flight", "delayed", "shared", "shared, none ours", "shared, not counted",
        "no such queue",
    ],
)  # fmt: skip
def test_a_dead_letter_of_ours_in_any_state_is_a_warning_and_so_is_having_nowhere_to_put_one(
    depth: DeadLetterDepth | None, passed: bool, words: str
) -> None:
    result = dead_letters_result(evaluate_dead_letters(depth))
    assert result.passed is passed
    assert result.severity == dg.AssetCheckSeverity.WARN
    assert words in (result.description or "")
    assert not any(spec.blocking for spec in no_dead_letters.check_specs)


def test_a_dead_letter_queue_that_cannot_be_asked_is_a_warning_with_the_cause_and_not_an_error() -> None:
    result = dead_letters_result(evaluate_dead_letters("queue 'logins-dlq' may not be used with these credentials"))
    assert not result.passed
    assert result.severity == dg.AssetCheckSeverity.WARN
    assert result.description == "queue 'logins-dlq' may not be used with these credentials"


# --- only_tokens ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("logins", [0, 1, 1_000])
def test_logins_that_were_recorded_pass_since_none_is_with_a_cell_that_is_no_token(logins: int) -> None:
    result = only_tokens(logins)
    assert result.passed
    assert plain(result.metadata) == {"rows": logins}
    assert f"{logins:,} logins" in (result.description or "")


def test_a_batch_with_a_cell_that_is_no_token_fails_with_what_was_wrong_and_blocks() -> None:
    result = only_tokens(500, "masked cells do not contain a token (1 of masked_ip)")
    assert not result.passed
    assert result.severity == dg.AssetCheckSeverity.ERROR
    assert result.description == "masked cells do not contain a token (1 of masked_ip)"
    assert (result.check_name, result.asset_key) == (ONLY_TOKENS.name, ONLY_TOKENS.asset_key)
    assert ONLY_TOKENS.blocking


# --- after the table is written ---------------------------------------------------------------------------------------


def counts(received: int, inserted: int, duplicates: int, rejected: int) -> RunCounts:
    return RunCounts(received, received - rejected, rejected, inserted, duplicates, 0, 0, 0)


@pytest.mark.parametrize(
    ("counts", "passed"),
    [
        (counts(0, 0, 0, 0), True),
        (counts(10, 7, 2, 1), True),
        (counts(10, 7, 1, 1), False),
        (counts(10, 8, 2, 1), False),
    ],
    ids=["nothing received", "balanced", "one lost", "one too many"],
)
def test_the_counts_of_a_run_must_add_up(counts: RunCounts, passed: bool) -> None:
    result = counts_add_up(counts)
    assert result.passed is passed
    assert plain(result.metadata)["unaccounted"] == counts.unaccounted
    assert result.severity == dg.AssetCheckSeverity.ERROR


@pytest.mark.parametrize(
    ("columns", "differences"),
    [
        (USER_LOGINS_COLUMNS, 0),
        (USER_LOGINS_COLUMNS[::-1], 0),
        (USER_LOGINS_COLUMNS[1:], 1),
        ((*USER_LOGINS_COLUMNS, ("ip", "text")), 0),
        ((*USER_LOGINS_COLUMNS, ("ip", "text", False, True)), 1),
        ([(name, "text") for name, _ in USER_LOGINS_COLUMNS], 2),
        ([], 7),
    ],
    ids=["the contract", "another order", "one missing", "one more", "one more to fill", "all text", "no table"],
)
def test_the_columns_of_the_table_must_take_every_login(columns: Sequence[tuple[Any, ...]], differences: int) -> None:
    assert len(contract_differences([Column(*column) for column in columns])) == differences


def delays(**seconds: int) -> list[int]:
    """Return numbers of logins by bucket: ``to_15=3`` stored within 15 s, ``longer=1`` beyond the last bound."""
    places = {f"to_{bound}": place for place, bound in enumerate(DELAY_BOUNDS)} | {"longer": len(DELAY_BOUNDS)}
    found = [0] * (len(DELAY_BOUNDS) + 1)
    for name, logins in seconds.items():
        found[places[name]] = logins
    return found


@pytest.mark.parametrize(
    ("counts_by_delay", "passed", "late"),
    [
        (delays(), True, 0),
        (delays(to_1=95, longer=5), True, 5),
        (delays(to_1=94, longer=6), False, 6),
        (delays(to_900=100), True, 0),
        (delays(longer=1), False, 1),
    ],
    ids=["nothing stored", "as many as may be", "one more", "just within", "all late"],
)
def test_at_most_one_login_of_twenty_may_be_late(counts_by_delay: list[int], passed: bool, late: int) -> None:
    result = delay_within_limit(counts_by_delay, 900)
    assert result.passed is passed
    assert result.severity == dg.AssetCheckSeverity.WARN
    assert plain(result.metadata)["late"] == late
