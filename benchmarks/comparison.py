"""Figures out of trials. Pure: what was measured goes in, medians with minimum and maximum come out."""

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
    """One baseline at one size, once.

    Attributes:
        baseline: its name in `benchmarks.plan`.
        messages: how many it worked on.
        repeat: which round of all baselines it belongs to, from 1.
        wall_seconds: of the whole process, from its start to its end; of several, from the first to the last.
        cpu_seconds: of the whole process, user and system; of several, together.
        peak_bytes: the most memory of a process.
        endpoint_cpu_seconds: what the endpoint took meanwhile.
        postgres_cpu_seconds: what Postgres took meanwhile, Dagster's own storage in it.
        catalogue: by figure of `benchmarks.catalogue`, how Postgres' catalogue changed; empty unless asked for.
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
        """Messages a second, of the whole process."""
        return self.messages / self.wall_seconds

    @property
    def all_cpu_seconds(self) -> float:
        """CPU seconds of the process, the endpoint and Postgres together."""
        return self.cpu_seconds + self.endpoint_cpu_seconds + self.postgres_cpu_seconds

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds for 1,000 messages, of the whole process."""
        return self.cpu_seconds / self.messages * 1e6

    @property
    def peak_mb(self) -> float:
        """Peak memory in MB, 1,000,000 bytes each."""
        return self.peak_bytes / 1e6


@dataclass(frozen=True)
class Spread:
    """The median of some values, the least and the most of them."""

    median: float
    least: float
    most: float


@dataclass(frozen=True)
class Slope:
    """What a message costs beyond what a process costs, from a baseline's trials at two sizes in one round.

    Attributes:
        marginal_us: CPU microseconds a message more.
        all_us: the same with the endpoint's and Postgres' CPU in it.
        fixed_seconds: CPU seconds of a process without messages, as far as a straight line tells.
        rate: messages a second by the wall time that the larger size took longer; None where it took no longer, as
            on a machine that was busy for the smaller size alone.
        endpoint_busy: CPU seconds of the endpoint in each of these seconds: at 1 its one core is the bottleneck.
    """

    repeat: int
    marginal_us: float
    all_us: float
    fixed_seconds: float
    rate: float | None
    endpoint_busy: float | None


def spread(values: Iterable[float]) -> Spread | None:
    """Return median, least and most; None where there is no value."""
    found = list(values)
    return sure(found) if found else None


def sure(values: Sequence[float]) -> Spread:
    """Return median, least and most of values of which there is one at least."""
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
    """Return the spread of a figure of the one as a multiple of the other's, round by round; None without a round."""
    return spread(
        over / under
        for one in above
        for other in below
        if one.repeat == other.repeat and (over := figure(one)) is not None and (under := figure(other))
    )
