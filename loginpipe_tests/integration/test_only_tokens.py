"""A run in which a cell stays clear: its batch is not written, its messages are returned, and the cell is not shown."""

from dataclasses import replace
from typing import Any

import pytest

from loginpipe.ingest import process
from loginpipe.masking.mask import MaskedLogins, mask_logins
from loginpipe_tests.conftest import Pipeline
from loginpipe_tests.wire import cause_of_failure, checks, eventually, logins, tables, take

CLEAR = "203.0.113.77"


def leaky_from(batch: int) -> Any:
    """Return a masking that leaves a cell clear from a given batch on."""
    number = 0

    def mask(*given: Any) -> MaskedLogins:
        nonlocal number
        number += 1
        masked = mask_logins(*given)
        if number < batch:
            return masked
        return replace(masked, columns={**masked.columns, "masked_ip": [CLEAR, *masked.columns["masked_ip"][1:]]})

    return mask


@pytest.mark.parametrize("batches_before", [0, 1], ids=["the first batch", "a later batch"])
def test_a_batch_with_a_clear_cell_is_not_written_and_its_messages_go_back(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], batches_before: int
) -> None:
    before = tables(pipeline)
    pipeline.send(logins(6))
    monkeypatch.setattr(process, "mask_logins", leaky_from(1 + batches_before))
    result = take(pipeline, 3)
    assert cause_of_failure(result) == (
        "ClearValueError: masked cells do not contain a token (1 of masked_ip): nothing was written; report this bug"
    )
    assert checks(result)["only_tokens"] is False
    rows = 3 * batches_before
    assert pipeline.rows("SELECT count(*), (SELECT count(*) FROM loginpipe.batches) FROM user_logins") == [
        (rows, batches_before)
    ]
    eventually(lambda: pipeline.depth() == (6 - rows, 0), "what was not recorded back on the queue")
    after = tables(pipeline)
    if not batches_before:
        assert {name for name in after if after[name] != before[name]} == {
            "loginpipe.token_key_checks", "loginpipe.placeholder_tokens", "loginpipe.token_changes",
        }  # fmt: skip
    stored = "\n".join(repr(entry) for entry in pipeline.instance.all_logs(result.run_id))
    assert CLEAR not in stored + "".join(capfd.readouterr()) + repr(after)


def test_after_the_fix_the_messages_that_went_back_are_taken(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.send(logins(3))
    with monkeypatch.context() as mistaken:
        mistaken.setattr(process, "mask_logins", leaky_from(1))
        assert not take(pipeline, 3).success
    eventually(lambda: pipeline.depth() == (3, 0), "the messages back on the queue")
    assert take(pipeline, 3).success
    assert pipeline.rows("SELECT count(*) FROM user_logins") == [(3,)]
    assert pipeline.depth() == (0, 0)
