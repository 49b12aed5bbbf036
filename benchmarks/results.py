"""The results of one benchmark run, as input of the reports."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from benchmarks.comparison import Change, Slope, Spread, Trial, of, slopes, spread, sure
from benchmarks.plan import SMALL_BATCHES, Sizes, baselines
from benchmarks.stages import StagedRun, StageRow, stage_table
from benchmarks.targets import Verdict, verdicts


@dataclass
class Results:
    """The measurements and their conditions."""

    machine: dict[str, str]
    quick: bool
    sizes: Sizes
    repeats: int
    trials: list[Trial] = field(default_factory=list)
    staged: list[StagedRun] = field(default_factory=list)


@dataclass(frozen=True)
class Compared:
    """A row of the comparison: a baseline at a size. CPU is in milliseconds per 1,000 messages."""

    baseline: str
    messages: int
    rate: Spread
    cpu_ms: Spread
    peak_mb: Spread
    endpoint_cpu_ms: Spread
    postgres_cpu_ms: Spread


@dataclass(frozen=True)
class Grown:
    """A row of the growth: the cost of a message between two sizes, and the fixed cost of a process."""

    baseline: str
    low: int
    high: int
    marginal_us: Spread
    all_us: Spread
    """Includes the CPU of the endpoint and Postgres."""
    fixed_seconds: Spread
    rate: Spread | None
    """Without the fixed cost; None if the wall times show nothing."""
    endpoint_busy: Spread | None
    """The fraction of time that the endpoint was busy at that rate."""


def compared(results: Results) -> list[Compared]:
    """Return the comparison, in the order of the plan."""
    return [
        _compared(found)
        for baseline in baselines(results.sizes)
        for messages in baseline.sizes
        if (found := of(results.trials, baseline.name, messages))
    ]


def _compared(trials: Sequence[Trial]) -> Compared:
    return Compared(
        trials[0].baseline,
        trials[0].messages,
        rate=sure([trial.rate for trial in trials]),
        cpu_ms=sure([trial.cpu_ms for trial in trials]),
        peak_mb=sure([trial.peak_mb for trial in trials]),
        endpoint_cpu_ms=sure([trial.endpoint_cpu_seconds / trial.messages * 1e6 for trial in trials]),
        postgres_cpu_ms=sure([trial.postgres_cpu_seconds / trial.messages * 1e6 for trial in trials]),
    )


def grown(results: Results) -> list[Grown]:
    """Return the growth between neighbouring sizes from ``base`` on; with only two sizes, between these."""
    return [
        _grown(baseline.name, low, high, between)
        for baseline in baselines(results.sizes)
        for low, high in pairwise(baseline.sizes)
        if low >= results.sizes.base or len(baseline.sizes) == 2  # noqa: PLR2004
        if (between := slopes(results.trials, baseline.name, low, high))
    ]


def _grown(baseline: str, low: int, high: int, between: Sequence[Slope]) -> Grown:
    return Grown(
        baseline,
        low,
        high,
        marginal_us=sure([slope.marginal_us for slope in between]),
        all_us=sure([slope.all_us for slope in between]),
        fixed_seconds=sure([slope.fixed_seconds for slope in between]),
        rate=spread(slope.rate for slope in between if slope.rate is not None),
        endpoint_busy=spread(slope.endpoint_busy for slope in between if slope.endpoint_busy is not None),
    )


def catalogues(results: Results) -> list[Mapping[str, Change]]:
    """Return the changes of Postgres' catalog during the larger number of small batches, round by round."""
    return [trial.catalogue for trial in of(results.trials, SMALL_BATCHES, results.sizes.small_batches[1])]


def stages(results: Results) -> list[StageRow]:
    """Return the stage table."""
    return stage_table(results.staged, results.sizes)


def evaluated(results: Results) -> list[Verdict]:
    """Return the verdicts."""
    return verdicts(results.trials, results.sizes)


def document(results: Results) -> dict[str, Any]:
    """Return all results in the form of the JSON report."""
    return {
        "machine": results.machine,
        "quick": results.quick,
        "sizes": asdict(results.sizes),
        "repeats": results.repeats,
        "verdicts": [asdict(verdict) for verdict in evaluated(results)],
        "comparison": [asdict(row) for row in compared(results)],
        "growth": [asdict(row) for row in grown(results)],
        "stages": [asdict(row) for row in stages(results)],
        "trials": [asdict(trial) for trial in results.trials],
        "staged_runs": [asdict(run) for run in results.staged],
    }
