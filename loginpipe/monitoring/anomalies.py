"""Compare a day or a run with the usual ones and with its limits. Pure: counts in, a verdict and its message out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from math import sqrt
from statistics import median

from loginpipe.logins.delays import DELAY_BOUNDS
from loginpipe.postgres.insights import DayCounts

MAX_DELAYED = 0.05
"""Share of the logins that may take longer than the limit: it is held against the delay's 95th percentile."""

TRAILING_DAYS = 14
MIN_LOGINS = 100
"""With fewer logins a share means little, and half the count can be chance."""
MIN_DAYS = 3

_SIGMAS = 4
# The median absolute deviation, times this, is the standard deviation of what is normally distributed.
_MAD_TO_SIGMA = 1.4826
_SHARE_STEP = 0.05
_VOLUME_STEP = 0.5


@dataclass(frozen=True)
class Verdict:
    """Whether a figure is as usual, a message about it, and the figures that were compared, by name."""

    passed: bool
    message: str
    figures: Mapping[str, float]


def delayed(counts: Sequence[int], limit_seconds: float) -> int:
    """Count the logins that certainly took longer than a limit: those of the buckets that begin there or later.

    Args:
        counts: one a bucket of `loginpipe.logins.delays`.
        limit_seconds: rounded up to the next bound, as a bucket cannot be divided.
    """
    return sum(count for begins, count in zip((0, *DELAY_BOUNDS), counts, strict=True) if begins >= limit_seconds)


def evaluate_volume(counts: Mapping[date, DayCounts], day: date) -> Verdict:
    """Compare a day's logins with the median of the trailing days.

    It may differ by half the median, or by four robust standard deviations where days differ that much by themselves,
    and by whatever it takes to be like the same weekday one or two weeks earlier.

    Args:
        counts: the day's and the trailing days', as far as they are known. A day without an entry had no logins, or
            was never counted: it is not compared with.
        day: the day to evaluate, which is over.
    """
    trailing = _trailing(counts, day)
    logins = counts[day].logins if day in counts else 0
    usual = median(trailing[d].logins for d in trailing) if trailing else 0.0
    figures = {"logins": logins, "median": usual, "trailing_days": len(trailing)}
    if skipped := _why_not_evaluated(trailing, usual):
        return Verdict(True, f"{day}: {logins:,} logins; {skipped}", figures)
    allowed = max(_VOLUME_STEP * usual, _spread([c.logins for c in trailing.values()], usual))
    weekdays = [trailing[d].logins for weeks in (1, 2) if (d := day - timedelta(weeks=weeks)) in trailing]
    passed = abs(logins - usual) <= allowed or any(abs(logins - like) <= _VOLUME_STEP * like for like in weekdays)
    return Verdict(
        passed,
        f"{day}: {logins:,} logins; the median of {len(trailing)} trailing days is {usual:,.0f}, "
        f"the allowed difference {allowed:,.0f}",
        {**figures, "bound": allowed},
    )


def evaluate_null_locales(counts: Mapping[date, DayCounts], day: date) -> Verdict:
    """Compare a day's share of logins without a locale with the median of the trailing days' shares.

    It may differ by 5 percentage points, by four robust standard deviations of the trailing days, or by four of chance
    alone among as many logins.

    Args:
        counts: as of `evaluate_volume`.
        day: the day to evaluate.
    """
    trailing = {d: c for d, c in _trailing(counts, day).items() if c.logins >= MIN_LOGINS}
    of_day = counts.get(day, DayCounts(0, 0))
    share = of_day.null_locales / of_day.logins if of_day.logins else 0.0
    shares = [c.null_locales / c.logins for c in trailing.values()]
    usual = median(shares) if shares else 0.0
    figures = {"logins": of_day.logins, "share": share, "median": usual, "trailing_days": len(trailing)}
    message = f"{day}: {share:.1%} of {of_day.logins:,} logins have no locale"
    if skipped := _why_not_evaluated(trailing, of_day.logins):
        return Verdict(True, f"{message}; {skipped}", figures)
    chance = _SIGMAS * sqrt(usual * (1 - usual) / of_day.logins)
    allowed = max(_SHARE_STEP, chance, _spread(shares, usual))
    return Verdict(
        abs(share - usual) <= allowed,
        f"{message}; the median of {len(trailing)} trailing days is {usual:.1%}, the allowed difference {allowed:.1%}",
        {**figures, "bound": allowed},
    )


def _trailing(counts: Mapping[date, DayCounts], day: date) -> dict[date, DayCounts]:
    return {d: c for d, c in counts.items() if day - timedelta(days=TRAILING_DAYS) <= d < day}


def _why_not_evaluated(trailing: Mapping[date, DayCounts], logins: float) -> str | None:
    if len(trailing) < MIN_DAYS:
        return f"not evaluated: {len(trailing)} trailing days are known, fewer than {MIN_DAYS}"
    return f"not evaluated: fewer than {MIN_LOGINS} logins" if logins < MIN_LOGINS else None


def _spread(values: Sequence[float], usual: float) -> float:
    return _SIGMAS * _MAD_TO_SIGMA * median(abs(value - usual) for value in values)
