"""The asset checks: limits are inclusive, metadata holds counts and no sample, and only_tokens blocks what follows."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from loginpipe.common.errors import QueueError
from loginpipe.defs.ingest.checks import (
    NO_DEAD_LETTERS,
    ONLY_TOKENS,
    REJECT_RATE,
    SCHEMA_DRIFT,
    columns_are_the_contract,
    counts_add_up,
    no_dead_letters,
    only_tokens,
    reject_rate,
    schema_drift,
)
from loginpipe.defs.ingest.handover import HANDOVER, Handover
from loginpipe.defs.ingest.masked_logins import masked_logins
from loginpipe.logins.messages import Message, messages_frame
from loginpipe.logins.splitting import SplitBatch, split_batch
from loginpipe.logins.user_logins import USER_LOGINS_COLUMNS
from loginpipe.masking.mask import MaskedBatch, MaskedLogins, mask_logins
from loginpipe.masking.sealing import Sealed
from loginpipe.masking.tokens import TokenKeys, derive_field_keys
from loginpipe.postgres.batches import RunCounts
from loginpipe.postgres.contract import contract_differences
from loginpipe.sqs.depth import Depth

CLEAR_IP, CLEAR_DEVICE = "199.172.111.135", "593-47-5928"
KEYS = TokenKeys(1, {1: derive_field_keys(bytes(range(32)))})
TOKEN = {
    "masked_ip": KEYS.tokens("ip", [b"\x01\x02\x03\x04"])[0],
    "masked_device_id": KEYS.tokens("device_id", [b"x"])[0],
}


def plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The values of metadata that has a link to the runbook, without it."""
    assert metadata["runbook"].value.startswith("docs/operations.md#")
    return {name: entry.value for name, entry in metadata.items() if name != "runbook"}


def split(*bodies: str) -> SplitBatch:
    messages = [
        Message(
            message_id=f"message-{i}",
            delivery_id=f"delivery-{i}",
            receipt_handle="handle",
            body=body,
            sent_ms=1_794_000_000_123,
            received_ms=1_794_000_060_456,
            receive_count=1,
            body_intact=True,
        )
        for i, body in enumerate(bodies)
    ]
    return split_batch(messages_frame(messages))


def tokens(rows: int) -> pd.DataFrame:
    return pd.DataFrame([TOKEN] * rows, columns=list(TOKEN), dtype=object)


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
    result = schema_drift({})
    assert result.passed
    assert plain(result.metadata) == {"messages_by_field": {}}


def test_unknown_fields_are_a_warning_with_names_and_counts_alone() -> None:
    events = '{"user_id": "u", "session": "199.172.111.135"}', '{"session": 1, "593-47-5928": 1}'
    frame = messages_frame(
        [Message(str(i), str(i), "h", body, 0, 0, 1, body_intact=True) for i, body in enumerate(events)]
    )
    result = schema_drift(split_batch(frame).unknown_fields)
    assert not result.passed
    assert result.severity == dg.AssetCheckSeverity.WARN
    assert plain(result.metadata) == {"messages_by_field": {"session": 2, "(name not shown)": 1}}
    assert result.description == "2 field names outside the contract"
    assert not SCHEMA_DRIFT.blocking


# --- no_dead_letters --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "passed", "words"),
    [
        (Depth(0, 0, 0), True, "Empty"),
        (Depth(1, 0, 0), False, "1 waiting"),
        (Depth(1_234, 5, 0), False, "1,234 waiting, 5 in flight"),
        # Somebody is looking at them, or moving them: they are there all the same.
        (Depth(0, 3, 0), False, "3 in flight"),
        (Depth(0, 0, 2), False, "2 delayed"),
        (None, False, "has no dead-letter queue"),
    ],
    ids=["empty", "one", "many", "in flight", "delayed", "no such queue"],
)
def test_a_dead_letter_in_any_state_is_a_warning_and_so_is_having_nowhere_to_put_one(
    depth: Depth | None, passed: bool, words: str
) -> None:
    result = no_dead_letters(lambda: depth)
    assert result.passed is passed
    assert result.severity == dg.AssetCheckSeverity.WARN
    assert words in (result.description or "")
    assert not NO_DEAD_LETTERS.blocking


def test_a_dead_letter_queue_that_cannot_be_asked_is_a_warning_with_the_cause_and_not_an_error() -> None:
    def look() -> Depth | None:
        raise QueueError("queue 'logins-dlq' may not be used with these credentials")

    result = no_dead_letters(look)
    assert not result.passed
    assert result.severity == dg.AssetCheckSeverity.WARN
    assert result.description == "queue 'logins-dlq' may not be used with these credentials"


# --- only_tokens ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [0, 1, 100])
def test_tokens_alone_pass_and_so_does_an_empty_batch(rows: int) -> None:
    result = only_tokens(tokens(rows))
    assert result.passed
    assert plain(result.metadata) == {"rows": rows, "masked_ip_not_tokens": 0, "masked_device_id_not_tokens": 0}


@pytest.mark.parametrize(
    ("column", "cell"),
    [("masked_ip", CLEAR_IP), ("masked_device_id", CLEAR_DEVICE), ("masked_ip", None), ("masked_device_id", "")],
)
def test_one_cell_among_a_thousand_that_is_no_token_fails_and_is_counted_and_not_shown(
    column: str, cell: str | None
) -> None:
    frame = tokens(500)
    frame.loc[250, column] = cell
    result = only_tokens(frame)
    assert not result.passed
    assert result.severity == dg.AssetCheckSeverity.ERROR
    assert plain(result.metadata) == {
        "rows": 500,
        "masked_ip_not_tokens": int(column == "masked_ip"),
        "masked_device_id_not_tokens": int(column == "masked_device_id"),
    }
    assert result.description == "1 of 1,000 cells are no token"


def test_a_failed_check_holds_no_clear_value_and_no_token() -> None:
    frame = pd.DataFrame({"masked_ip": [CLEAR_IP, TOKEN["masked_ip"]], "masked_device_id": [CLEAR_DEVICE] * 2})
    shown = repr(only_tokens(frame))
    assert not [value for value in (CLEAR_IP, CLEAR_DEVICE, *TOKEN.values()) if value in shown]


class LeakyMasking:
    """Stands where the masking does, with one cell left clear: what the wall is there for."""

    sealing = False
    keys = KEYS
    masking = "hmac-sha256"
    compat = None

    def mask(self, validated: pd.DataFrame) -> MaskedLogins:
        masked = mask_logins(validated, KEYS)
        masked.logins.loc[0, "masked_ip"] = validated.loc[0, "ip"]
        return masked

    def seal_originals(self, *_: object) -> Sealed:
        return Sealed()


class TightMasking(LeakyMasking):
    def mask(self, validated: pd.DataFrame) -> MaskedLogins:
        return mask_logins(validated, KEYS)


@dg.asset(name="validated_logins", io_manager_key=HANDOVER)
def two_good_logins() -> pd.DataFrame:
    body = (
        '{"user_id": "u", "device_type": "ios", "ip": "199.172.111.135", "device_id": "593-47-5928", "app_version": 1}'
    )
    frame = messages_frame([Message(str(i), str(i), "h", body, 0, 0, 1, body_intact=True) for i in range(2)])
    return split_batch(frame).accepted


@pytest.mark.parametrize(("masking", "written"), [(LeakyMasking(), []), (TightMasking(), [2])], ids=["leaky", "tight"])
def test_nothing_is_written_after_masked_logins_where_one_cell_stayed_clear(
    masking: LeakyMasking, written: Sequence[int], capfd: pytest.CaptureFixture[str]
) -> None:
    rows_written: list[int] = []

    @dg.asset(name="user_logins_table", io_manager_key=HANDOVER)
    def table(masked_logins: MaskedBatch) -> None:
        rows_written.append(len(masked_logins.logins))

    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [two_good_logins, masked_logins, table],
            resources={HANDOVER: Handover(), "masking": masking, "postgres": object()},
            instance=instance,
            raise_on_error=False,
        )
        stored = "\n".join(repr(entry) for entry in instance.all_logs(result.run_id))
    assert rows_written == written
    assert result.success == bool(written)
    (evaluation,) = result.get_asset_check_evaluations()
    assert (evaluation.check_name, evaluation.passed) == (ONLY_TOKENS.name, bool(written))
    printed = "".join(capfd.readouterr())
    assert not [value for value in (CLEAR_IP, CLEAR_DEVICE) if value in stored or value in printed]


# --- on the table -----------------------------------------------------------------------------------------------------


class Books:
    """Stands where the database does: a fixed answer, no connection."""

    def __init__(self, answer: RunCounts | Sequence[tuple[str, str]] | None = None) -> None:
        self.answer = answer

    def run(self, _: object) -> RunCounts | Sequence[tuple[str, str]] | None:
        return self.answer


def counts(received: int, inserted: int, duplicates: int, rejected: int) -> RunCounts:
    return RunCounts(received, received - rejected, rejected, inserted, duplicates, 0, 0, 0)


def evaluate(check: dg.AssetChecksDefinition, books: Books) -> dg.AssetCheckResult:
    with dg.DagsterInstance.ephemeral() as instance:
        resources = {"postgres": books}
        result = dg.materialize([stand_in_table, check], resources=resources, instance=instance, raise_on_error=False)
    (evaluation,) = result.get_asset_check_evaluations()
    return dg.AssetCheckResult(
        passed=evaluation.passed, metadata=evaluation.metadata, description=evaluation.description
    )


@dg.asset(name="user_logins_table")
def stand_in_table() -> None: ...


@pytest.mark.parametrize(
    ("books", "passed"),
    [
        (None, True),
        (counts(0, 0, 0, 0), True),
        (counts(10, 7, 2, 1), True),
        (counts(10, 7, 1, 1), False),
        (counts(10, 8, 2, 1), False),
    ],
    ids=["no run yet", "nothing received", "balanced", "one lost", "one too many"],
)
def test_the_books_of_a_run_must_balance(books: RunCounts | None, passed: bool) -> None:
    result = evaluate(counts_add_up, Books(books))
    assert result.passed is passed
    if books is not None:
        assert plain(result.metadata)["unaccounted"] == books.unaccounted


@pytest.mark.parametrize(
    ("columns", "differences"),
    [
        (USER_LOGINS_COLUMNS, 0),
        (USER_LOGINS_COLUMNS[::-1], 1),
        (USER_LOGINS_COLUMNS[1:], 1),
        ((*USER_LOGINS_COLUMNS, ("ip", "text")), 1),
        ([(name, "text") for name, _ in USER_LOGINS_COLUMNS], 7),
        ([], 7),
    ],
    ids=["the contract", "another order", "one missing", "one more", "other types", "no table"],
)
def test_the_columns_of_the_table_must_be_the_contract(columns: Sequence[tuple[str, str]], differences: int) -> None:
    result = evaluate(columns_are_the_contract, Books(columns))
    assert result.passed is (differences == 0)
    assert plain(result.metadata) == {"differences": differences}
    assert len(contract_differences(columns)) == differences
