"""Messages a minute, by sent time."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loginpipe.defs.ingest.stages import messages_per_minute

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def sent(*seconds: float) -> Counter[int]:
    """Return messages by minute since 1970, sent these seconds after noon."""
    return Counter(int((NOON + timedelta(seconds=after)).timestamp()) // 60 for after in seconds)


def test_messages_of_a_few_minutes_are_counted_by_the_minute_with_the_empty_ones_shown() -> None:
    assert messages_per_minute(sent(0, 59.999, 60, 185)) == (
        "1min",
        {"31 Jan 12:00": 2, "31 Jan 12:01": 1, "31 Jan 12:02": 0, "31 Jan 12:03": 1},
    )


@pytest.mark.parametrize(
    ("minutes", "step", "first_rate"),
    [(23, "1min", 1), (24, "2min", 0.5), (24 * 60, "2h", 1 / 120), (14 * 24 * 60, "1D", 1 / 1440)],
    ids=["23 minutes", "24 minutes", "a day", "14 days"],
)
def test_the_longer_the_time_the_longer_the_steps_and_the_rate_stays_one_a_minute(
    minutes: int, step: str, first_rate: float
) -> None:
    found, rates = messages_per_minute(sent(0, 60 * minutes))
    assert found == step
    assert next(iter(rates.values())) == pytest.approx(first_rate)
    assert len(rates) <= 24


@settings(deadline=None, print_blob=True)
@given(st.lists(st.integers(0, 22 * 86_400), min_size=1, max_size=50))
def test_every_message_is_in_one_step(seconds: list[int]) -> None:
    step, rates = messages_per_minute(sent(*seconds))
    assert sum(rates.values()) * (pd.Timedelta(step) / pd.Timedelta(minutes=1)) == pytest.approx(len(seconds))
    assert len(rates) <= 24
