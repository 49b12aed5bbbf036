"""Compute medians with minimum and maximum from trials. Pure functions."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median


@dataclass(frozen=True)
class Change:
    """A figure before and after."""

    before: int
    after: int


@dataclass(frozen=True)
class Trial:
    """One trial of one baseline at one size.

    Attributes:
        baseline: its name in `benchmarks.plan`.
        messages: the number of messages it processed.
        repeat: the round of all baselines that it belongs to, from 1.
        wall_seconds: from start to end of the process; with several, from the first start to the last end.
        cpu_seconds: user and system time of the process; with several, their sum.
        peak_bytes: the peak memory of a process.
        endpoint_cpu_seconds: the CPU seconds of the endpoint during the trial.
        postgres_cpu_seconds: the CPU seconds of Postgres during the trial, including Dagster's storage.
        catalogue: changes of Postgres' catalog by figure of `benchmarks.catalogue`; empty if they were not measured.
    """

    baseline: str
    messages: int
    repeat: int
    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    endpoint_cpu_seconds: float
    postgres_cpu_seconds: float
    catalogue: Mapping[str, Change] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Messages per second of the whole process."""
        return self.messages / self.wall_seconds

    @property
    def all_cpu_seconds(self) -> float:
        """CPU seconds of the process, the endpoint and Postgres together."""
        return self.cpu_seconds + self.endpoint_cpu_seconds + self.postgres_cpu_seconds

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds per 1,000 messages of the whole process."""
        return self.cpu_seconds / self.messages * 1e6

    @property
    def peak_mb(self) -> float:
        """Peak memory in MB (1,000,000 bytes)."""
        return self.peak_bytes / 1e6


@dataclass(frozen=True)
class Spread:
    """The median, minimum and maximum of some values."""

    median: float
    least: float
    most: float


@dataclass(frozen=True)
class Slope:
    """The cost of a message without the fixed cost of a process, from a baseline's trials at two sizes in one round.

    Attributes:
        marginal_us: CPU microseconds per additional message.
        all_us: the same including the CPU of the endpoint and Postgres.
        fixed_seconds: CPU seconds of a process without messages, by linear extrapolation.
        rate: messages per second, from the additional wall time of the larger size. None if it took no longer, for
            example because the machine was busy only during the smaller size.
        endpoint_busy: CPU seconds of the endpoint in each of these seconds. At 1, its one core is the bottleneck.
    """

    repeat: int
    marginal_us: float
    all_us: float
    fixed_seconds: float
    rate: float | None
    endpoint_busy: float | None


def spread(values: Iterable[float]) -> Spread | None:
    """Return median, minimum and maximum, or None without values."""
    found = list(values)
    return sure(found) if found else None


def sure(values: Sequence[float]) -> Spread:
    """Return median, minimum and maximum of at least one value."""
    return Spread(median(values), min(values), max(values))


def of(trials: Iterable[Trial], baseline: str, messages: int) -> list[Trial]:
    """Return the trials of one baseline at one size, by round."""
    found = [trial for trial in trials if (trial.baseline, trial.messages) == (baseline, messages)]
    return sorted(found, key=lambda trial: trial.repeat)


def slopes(trials: Sequence[Trial], baseline: str, low: int, high: int) -> list[Slope]:
    """Compare two sizes of one baseline, round by round."""
    return [
        _slope(less, more)
        for less in of(trials, baseline, low)
        for more in of(trials, baseline, high)
        if less.repeat == more.repeat
    ]


def _slope(less: Trial, more: Trial) -> Slope:
    messages = more.messages - less.messages
    cpu = (more.cpu_seconds - less.cpu_seconds) / messages
    wall = more.wall_seconds - less.wall_seconds
    return Slope(
        less.repeat,
        marginal_us=cpu * 1e6,
        all_us=(more.all_cpu_seconds - less.all_cpu_seconds) / messages * 1e6,
        fixed_seconds=less.cpu_seconds - less.messages * cpu,
        rate=messages / wall if wall > 0 else None,
        endpoint_busy=(more.endpoint_cpu_seconds - less.endpoint_cpu_seconds) / wall if wall > 0 else None,
    )


def ratios(
    above: Sequence[Trial] | Sequence[Slope],
    below: Sequence[Trial] | Sequence[Slope],
    figure: Callable[[Trial | Slope], float | None],
) -> Spread | None:
    """Return the spread of one figure as a multiple of another, round by round; None without rounds."""
    return spread(
        over / under
        for one in above
        for other in below
        if one.repeat == other.repeat and (over := figure(one)) is not None and (under := figure(other))
    )
