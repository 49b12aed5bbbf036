"""Evaluate the targets of the pipeline from the figures. Pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.comparison import Slope, Spread, Trial, of, ratios, slopes, spread
from benchmarks.plan import (
    AT_ONCE,
    IN_TENS,
    IN_TURN,
    LIMIT,
    ONE_BY_ONE,
    OURS_KNOWN,
    OURS_NEW,
    SMALL_BATCH_MESSAGES,
    SMALL_BATCHES,
    Sizes,
)

MAX_MARGINAL_US: Final = {OURS_NEW: 36, OURS_KNOWN: 28}
MIN_RATE: Final = 20_000
MIN_LIMIT_SHARE: Final = 0.4
MIN_TIMES: Final = {IN_TENS: 5, ONE_BY_ONE: 20}
MAX_FIXED_SECONDS: Final = 2.5
MAX_PEAK_MB: Final = 350
MAX_PEAK_GROWTH: Final = 5
MAX_SMALL_BATCH_MS: Final = 8

_OURS: Final = (OURS_NEW, OURS_KNOWN)


@dataclass(frozen=True)
class Verdict:
    """A target and its result.

    Attributes:
        met: None if it was not measured.
        by: the remaining or missing margin.
    """

    target: str
    measured: str
    met: bool | None
    by: str


def verdicts(trials: Sequence[Trial], sizes: Sizes) -> list[Verdict]:
    """Evaluate every target."""
    return [
        *_costs(trials, sizes),
        *_shares_of_the_limit(trials, sizes),
        *_times_the_others(trials, sizes),
        *_at_once(trials, sizes),
        _small_batch(trials, sizes),
    ]


def shown(value: Spread, digits: int = 1) -> str:
    """Format a spread as its median, with minimum and maximum if they differ."""
    median, least, most = (f"{number:,.{digits}f}" for number in (value.median, value.least, value.most))
    return median if least == most else f"{median} ({least} to {most})"


def at_most(target: str, value: Spread | None, bound: float, unit: str) -> Verdict:
    """Evaluate a median with an upper bound."""
    if value is None:
        return _unmeasured(target)
    return _evaluated(target, f"{shown(value)} {unit}", bound - value.median, bound, unit)


def at_least(target: str, value: Spread | None, bound: float, unit: str) -> Verdict:
    """Evaluate a median with a lower bound."""
    if value is None:
        return _unmeasured(target)
    return _evaluated(target, f"{shown(value, 2)} {unit}", value.median - bound, bound, unit)


def _evaluated(target: str, measured: str, left: float, bound: float, unit: str) -> Verdict:
    by = f"{abs(left):,.2f} {unit} ({abs(left) / bound:.0%})"
    return Verdict(target, measured, left >= 0, f"{by} to spare" if left >= 0 else f"missed by {by}")


def _unmeasured(target: str) -> Verdict:
    return Verdict(target, "not measured", None, "")


def _costs(trials: Sequence[Trial], sizes: Sizes) -> list[Verdict]:
    found = []
    for name in _OURS:
        middle, large = of(trials, name, sizes.middle), of(trials, name, sizes.large)
        found += [
            at_most(
                f"{name}: a message takes at most {MAX_MARGINAL_US[name]} µs of CPU, marginal",
                spread(slope.marginal_us for slope in slopes(trials, name, sizes.middle, sizes.large)),
                MAX_MARGINAL_US[name],
                "µs",
            ),
            at_most(
                f"{name}: a process takes at most {MAX_FIXED_SECONDS} CPU seconds besides its messages",
                spread(slope.fixed_seconds for slope in slopes(trials, name, sizes.base, sizes.middle)),
                MAX_FIXED_SECONDS,
                "s",
            ),
            at_least(
                f"{name}: one run takes at least {MIN_RATE:,} messages a second over {sizes.large:,}, whole process",
                spread(trial.rate for trial in large),
                MIN_RATE,
                "messages/s",
            ),
            at_most(
                f"{name}: peak memory is at most {MAX_PEAK_MB} MB at {sizes.large:,}",
                spread(trial.peak_mb for trial in large),
                MAX_PEAK_MB,
                "MB",
            ),
            at_most(
                f"{name}: peak memory grows by at most {MAX_PEAK_GROWTH} % from {sizes.middle:,} to {sizes.large:,}",
                spread(
                    (more.peak_bytes / less.peak_bytes - 1) * 100
                    for less in middle
                    for more in large
                    if less.repeat == more.repeat
                ),
                MAX_PEAK_GROWTH,
                "%",
            ),
        ]
    return found


def _shares_of_the_limit(trials: Sequence[Trial], sizes: Sizes) -> list[Verdict]:
    limit = of(trials, LIMIT, sizes.large)
    busy = spread(trial.endpoint_cpu_seconds / trial.wall_seconds for trial in limit)
    its_end = f" (in which the endpoint is {busy.median:.0%} busy)" if busy else ""
    return [
        at_least(
            f"{name}: at least {MIN_LIMIT_SHARE} of the limit's messages a second over {sizes.large:,}{its_end}, "
            "whole process",
            ratios(of(trials, name, sizes.large), limit, lambda trial: trial.rate),
            MIN_LIMIT_SHARE,
            "of the limit",
        )
        for name in _OURS
    ]


def _times_the_others(trials: Sequence[Trial], sizes: Sizes) -> list[Verdict]:
    ours = slopes(trials, OURS_NEW, sizes.middle, sizes.large)
    others = {
        IN_TENS: slopes(trials, IN_TENS, sizes.base, sizes.others),
        ONE_BY_ONE: slopes(trials, ONE_BY_ONE, *sizes.one_by_one),
    }
    return [
        at_least(
            f"{OURS_NEW}: a message takes at least {MIN_TIMES[name]} times less CPU than with {name}, marginal",
            ratios(other, ours, lambda slope: slope.marginal_us if isinstance(slope, Slope) else None),
            MIN_TIMES[name],
            "times",
        )
        for name, other in others.items()
    ]


def _small_batch(trials: Sequence[Trial], sizes: Sizes) -> Verdict:
    few, many = sizes.small_batches
    return at_most(
        f"a batch of {SMALL_BATCH_MESSAGES} takes at most {MAX_SMALL_BATCH_MS} ms of CPU besides its messages",
        spread(
            batch_ms(small.marginal_us, SMALL_BATCH_MESSAGES, ours.marginal_us)
            for small in slopes(trials, SMALL_BATCHES, few, many)
            for ours in slopes(trials, OURS_NEW, sizes.middle, sizes.large)
            if small.repeat == ours.repeat
        ),
        MAX_SMALL_BATCH_MS,
        "ms",
    )


def batch_ms(us_a_message: float, messages: int, marginal_us: float) -> float:
    """Return the CPU milliseconds of a batch without its messages.

    Args:
        us_a_message: CPU microseconds per message in batches of this size, including the cost of the batch.
        messages: in a batch.
        marginal_us: CPU microseconds per message if batches are so large that their own cost is negligible.
    """
    return messages * (us_a_message - marginal_us) / 1000


def _at_once(trials: Sequence[Trial], sizes: Sizes) -> list[Verdict]:
    at_once = of(trials, AT_ONCE, sizes.at_once)
    faster = ratios(at_once, of(trials, IN_TURN, sizes.at_once), lambda trial: trial.rate)
    once = "four runs at once: every message is in the table exactly once"
    return [
        # A trial that loses a message or processes one twice ends the benchmark, so this verdict is always met.
        Verdict(once, f"{len(at_once)} times {sizes.at_once:,} messages", True, "") if at_once else _unmeasured(once),
        at_least("four runs at once: no fewer messages a second than four in turn", faster, 1, "times"),
    ]
