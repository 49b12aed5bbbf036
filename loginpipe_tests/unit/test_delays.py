"""Buckets of the delay from sent to stored."""

from math import inf

import pytest

from loginpipe.logins.delays import DELAY_BOUNDS, delay_labels, quantile


def counts(**by_bound: int) -> list[int]:
    """Return counts by bucket: ``s1=3`` for delays up to 1 s, ``over=2`` for delays above all bounds."""
    found = [by_bound.pop(f"s{bound}", 0) for bound in DELAY_BOUNDS] + [by_bound.pop("over", 0)]
    assert not by_bound
    return found


def test_a_label_says_what_a_bucket_holds() -> None:
    labels = delay_labels()
    assert len(labels) == len(DELAY_BOUNDS) + 1
    assert (labels[0], labels[5], labels[6], labels[-2], labels[-1]) == (
        "up to 1 s", "up to 30 s", "up to 1 min", "up to 1 h", "over 1 h",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "q", "bound"),
    [
        (counts(s1=95, s5=5), 0.95, 1),
        (counts(s1=94, s5=6), 0.95, 5),
        (counts(s1=1), 0.0, 1),
        (counts(s60=7), 0.0, 60),
        (counts(s1=1, s2=1, s30=1), 0.5, 2),
        (counts(s1=1, s3600=1), 1.0, 3600),
        (counts(s1=1, over=1), 1.0, inf),
        (counts(), 0.95, 0),
    ],
    ids=["on the edge", "beyond it", "least", "least of later", "median", "greatest", "over all bounds", "nothing"],
)
def test_a_quantile_is_the_bound_of_the_bucket_it_lies_in(found: list[int], q: float, bound: float) -> None:
    assert quantile(found, q) == bound
