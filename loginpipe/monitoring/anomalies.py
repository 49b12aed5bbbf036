"""Compare a day or a run with usual values and limits. Pure: counts in, a verdict with its message out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from math import sqrt
from statistics import median

from loginpipe.logins.delays import DELAY_BOUNDS
from loginpipe.postgres.insights import DayCounts

MAX_DELAYED = 0.05
"""Share of logins that may take longer than the limit. So the limit applies to the 95th percentile of the delay."""

TRAILING_DAYS = 14
MIN_LOGINS = 100
"""With fewer logins a share says little, and even half the count can be chance."""
MIN_DAYS = 3

_SIGMAS = 4
# For normally distributed values, the median absolute deviation times this is the standard deviation.
_MAD_TO_SIGMA = 1.4826
_SHARE_STEP = 0.05
_VOLUME_STEP = 0.5


@dataclass(frozen=True)
class Verdict:
    """Whether a figure is usual, a message about it, and the compared figures by name."""

    passed: bool
    message: str
    figures: Mapping[str, float]


def delayed(counts: Sequence[int], limit_seconds: float) -> int:
    """Count the logins that certainly took longer than a limit: those in buckets that begin at the limit or above.

    There is one count per bucket of `loginpipe.logins.delays`. A bucket cannot be divided, so the limit is rounded up.
    """
    return sum(count for begins, count in zip((0, *DELAY_BOUNDS), counts, strict=True) if begins >= limit_seconds)


def evaluate_volume(counts: Mapping[date, DayCounts], day: date) -> Verdict:
    """Compare a complete day's logins with the median of the trailing days.

    The allowed difference is half the median, or four robust standard deviations if that is more. A day also passes if
    it differs by at most half from the same weekday one or two weeks earlier. Days without an entry in `counts` had no
    logins or were never counted, and are not used for comparison.
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
    """Compare a day's share of logins without a locale with the median share of the trailing days.

    The allowed difference is the largest of 5 percentage points, four robust standard deviations of the trailing days,
    and four standard deviations of chance for this number of logins.
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
