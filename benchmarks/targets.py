"""What the pipeline is to reach, and whether it does. Pure: judged from the figures alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.comparison import Slope, Spread, Trial, of, ratios, slopes, spread
from benchmarks.plan import AT_ONCE, IN_TENS, IN_TURN, LIMIT, ONE_BY_ONE, OURS_KNOWN, OURS_NEW, Sizes

MARGINAL_MOST_US: Final = {OURS_NEW: 50, OURS_KNOWN: 40}
LIMIT_SHARE_LEAST: Final = 0.5
TIMES_LEAST: Final = {IN_TENS: 3, ONE_BY_ONE: 20}
FIXED_MOST_SECONDS: Final = 2.5
PEAK_BASE_MOST_MB: Final = 250
PEAK_LARGE_MOST_MB: Final = 600

_OURS: Final = (OURS_NEW, OURS_KNOWN)


@dataclass(frozen=True)
class Verdict:
    """A target, and how it went.

    Attributes:
        met: None where it was not measured.
        by: how much is left, or missing.
    """

    target: str
    measured: str
    met: bool | None
    by: str


def verdicts(trials: Sequence[Trial], sizes: Sizes) -> list[Verdict]:
    """Judge every target."""
    return [
        *_costs(trials, sizes),
        *_shares_of_the_limit(trials, sizes),
        *_times_the_others(trials, sizes),
        *_growths(trials, sizes),
        *_at_once(trials, sizes),
    ]


def shown(value: Spread, digits: int = 1) -> str:
    """Write a spread as its median, with minimum and maximum where they differ."""
    median, least, most = (f"{number:,.{digits}f}" for number in (value.median, value.least, value.most))
    return median if least == most else f"{median} ({least} to {most})"


def at_most(target: str, value: Spread | None, bound: float, unit: str) -> Verdict:
    """Judge a median that is to stay below a bound."""
    if value is None:
        return _unmeasured(target)
    return _judged(target, f"{shown(value)} {unit}", bound - value.median, bound, unit)


def at_least(target: str, value: Spread | None, bound: float, unit: str) -> Verdict:
    """Judge a median that is to reach a bound."""
    if value is None:
        return _unmeasured(target)
    return _judged(target, f"{shown(value, 2)} {unit}", value.median - bound, bound, unit)


def _judged(target: str, measured: str, left: float, bound: float, unit: str) -> Verdict:
    by = f"{abs(left):,.2f} {unit} ({abs(left) / bound:.0%})"
    return Verdict(target, measured, left >= 0, f"{by} to spare" if left >= 0 else f"missed by {by}")


def _unmeasured(target: str) -> Verdict:
    return Verdict(target, "not measured", None, "")


def _costs(trials: Sequence[Trial], sizes: Sizes) -> list[Verdict]:
    found = []
    for name in _OURS:
        between = slopes(trials, name, sizes.base, sizes.middle)
        found += [
            at_most(
                f"{name}: marginal CPU at most {MARGINAL_MOST_US[name]} µs a message",
                spread(slope.marginal_us for slope in between),
                MARGINAL_MOST_US[name],
                "µs",
            ),
            at_most(
                f"{name}: fixed cost at most {FIXED_MOST_SECONDS} CPU seconds",
                spread(slope.fixed_seconds for slope in between),
                FIXED_MOST_SECONDS,
                "s",
            ),
        ]
        for messages, most in ((sizes.base, PEAK_BASE_MOST_MB), (sizes.large, PEAK_LARGE_MOST_MB)):
            peaks = spread(trial.peak_mb for trial in of(trials, name, messages))
            found.append(at_most(f"{name}: peak memory at most {most} MB at {messages:,}", peaks, most, "MB"))
    return found


def _shares_of_the_limit(trials: Sequence[Trial], sizes: Sizes) -> list[Verdict]:
    found = []
    limit = slopes(trials, LIMIT, sizes.base, sizes.middle)
    busy = spread(slope.endpoint_busy for slope in limit if slope.endpoint_busy is not None)
    its_end = f" (in which the endpoint is {busy.median:.0%} busy)" if busy else ""
    for name in _OURS:
        marginal = ratios(slopes(trials, name, sizes.base, sizes.middle), limit, lambda slope: slope.rate)
        whole = ratios(of(trials, name, sizes.middle), of(trials, LIMIT, sizes.middle), lambda trial: trial.rate)
        target = f"{name}: at least {LIMIT_SHARE_LEAST} of the limit's messages a second{its_end}"
        found += [
            at_least(f"{target}, without the fixed cost", marginal, LIMIT_SHARE_LEAST, "of the limit"),
            at_least(f"{target}, whole process at {sizes.middle:,}", whole, LIMIT_SHARE_LEAST, "of the limit"),
        ]
    return found


def _times_the_others(trials: Sequence[Trial], sizes: Sizes) -> list[Verdict]:
    ours = slopes(trials, OURS_NEW, sizes.base, sizes.middle)
    others = {
        IN_TENS: slopes(trials, IN_TENS, sizes.base, sizes.middle),
        ONE_BY_ONE: slopes(trials, ONE_BY_ONE, *sizes.one_by_one),
    }
    return [
        at_least(
            f"{OURS_NEW}: at least {TIMES_LEAST[name]} times the messages a CPU second of {name}, marginal",
            # Messages a CPU second are the inverse of CPU seconds a message.
            ratios(other, ours, lambda slope: slope.marginal_us if isinstance(slope, Slope) else None),
            TIMES_LEAST[name],
            "times",
        )
        for name, other in others.items()
    ]


def _growths(trials: Sequence[Trial], sizes: Sizes) -> list[Verdict]:
    found = []
    for name in _OURS:
        target = (
            f"{name}: a message costs no more between {sizes.middle:,} and {sizes.large:,} than between "
            f"{sizes.base:,} and {sizes.middle:,}: the median within the latter's spread"
        )
        lower = spread(slope.marginal_us for slope in slopes(trials, name, sizes.base, sizes.middle))
        upper = spread(slope.marginal_us for slope in slopes(trials, name, sizes.middle, sizes.large))
        # One round has no spread.
        if lower is None or upper is None or lower.least == lower.most:
            found.append(_unmeasured(target))
            continue
        measured = f"{shown(upper)} µs against {shown(lower)} µs"
        found.append(_judged(target, measured, lower.most - upper.median, lower.most, "µs"))
    return found


def _at_once(trials: Sequence[Trial], sizes: Sizes) -> list[Verdict]:
    at_once = of(trials, AT_ONCE, sizes.at_once)
    faster = ratios(at_once, of(trials, IN_TURN, sizes.at_once), lambda trial: trial.rate)
    once = "four runs at once: every message in the table exactly once"
    return [
        # A trial that leaves a message out, or takes one twice, is none: it ends the benchmark.
        Verdict(once, f"{len(at_once)} times {sizes.at_once:,} messages", True, "") if at_once else _unmeasured(once),
        at_least("four runs at once: no fewer messages a second than four in turn", faster, 1, "times"),
    ]
