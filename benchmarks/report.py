"""Write the reports: ``report.md`` for people, and ``report.json`` with every figure."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from benchmarks.comparison import Spread, sure
from benchmarks.plan import FULL, OURS_NEW, SMALL_BATCH_MESSAGES
from benchmarks.results import Results, catalogues, compared, document, evaluated, grown, stages
from benchmarks.targets import Verdict, shown

_WHEN: Final = ("before", "after")
_MET: Final = {True: "met", False: "**missed**", None: "-"}
_MAX_BUSY: Final = 0.8
_QUICK: Final = (
    "**A quick run, to try the benchmark out: with so few messages its costs a message and its verdicts say little.**"
)
_HOW: Final = """\
- Each baseline is one process of its own, started for the trial and ended by it. CPU seconds are user and system time
  of exactly that process, peak memory is its largest resident set, both as the kernel reports them at its end. 1 MB is
  1,000,000 bytes. Messages a second are by the wall time of the whole process, imports and start included.
- Marginal CPU is the CPU that the larger of two sizes takes more, divided by the messages that it has more. Fixed cost
  is what remains of the smaller size. Both are taken within one round.
- A round is every baseline at every size, one after the other; then the next round. So a busy moment of the machine
  hits all alike. A figure is the median of the rounds, with minimum and maximum.
- The endpoint speaks SQS's JSON protocol on the same machine, without latency and without TLS. A call to AWS takes
  longer, which is wall time, and is encrypted, which is CPU that is not in here. Postgres is the embedded one on a
  Unix socket, and what is committed is on disk.
- `ours` is one run of the job that the sensor starts, by `dagster job execute`. It takes batches of 10,000 messages
  until the queue is empty, which it knows by a long poll of a second. `dagster.yaml` is the one that is shipped, and
  Dagster's storage is in the same Postgres. A database is fresh for every trial. `known` means that an unmeasured run
  stored the same values before; its database is copied for each trial.
- `limit` is the pipeline's own client that receives and deletes in as many threads, with nothing in between, until a
  long poll of a second comes back empty. `boto3` is the same with `LOGINPIPE_SQS_CLIENT=boto3`.
- `in_tens`, `one_by_one` and `dlt` are what a person might write instead, in `benchmarks/baselines`: a salted SHA-256
  in place of tokens, no vault, no ledger, no validation, no lease kept, no reject kept. They know by a long poll
  of a second that the queue is empty, which is in the wall time of their process. dlt keeps all messages in flight
  until its load is done.
- `copy_alone` copies ready-made rows into a temporary table and from there into one without an index.
- `endpoint` is a client of bare sockets without signatures, in two processes: it measures the endpoint. Where the
  endpoint was busy for four fifths of the time or more, in bold, it may be what held that baseline up, and its
  messages a second are too few. CPU figures are not concerned.
- `four runs in turn` are four processes one after the other, each with a quarter of the messages; `four runs at once`
  share a queue that holds all of them. The database is the same for all four.
- `ours, three messages a batch` is one run with `LOGINPIPE_BATCH_MESSAGES=3`, as if messages came slowly. A receive
  call then brings three messages and not ten, which is in what such a batch takes.
- What Postgres takes includes its work in the background, which may be an earlier trial's.
- After every trial the rows are counted, and the deleted messages. For the pipeline also: each message's id is in the
  ledger, and in a fresh database every login is in the table once. A trial that fails this ends the benchmark.
"""


def write_reports(results: Results, folder: Path) -> None:
    """Write both files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(document(results), indent=1) + "\n")
    (folder / "report.md").write_text(markdown(results))


def markdown(results: Results) -> str:
    """Return the report for people."""
    return "\n".join(_lines(results)).rstrip() + "\n"


def _lines(results: Results) -> Iterator[str]:
    yield "# What a message costs\n"
    if results.quick:
        yield _QUICK + "\n"
    yield f"Rounds: {results.repeats}. Figures are medians, with minimum and maximum in brackets.\n"
    yield "## Machine\n"
    yield from table(("", ""), results.machine.items())
    yield "## Targets\n"
    yield from _verdict_lines(evaluated(results), quick=results.quick)
    yield "## Comparison\n"
    yield "CPU in milliseconds for 1,000 messages, of the whole process; of the endpoint and of Postgres meanwhile.\n"
    yield from table(
        ("", "messages", "messages/s", "CPU ms", "peak MB", "endpoint CPU ms", "Postgres CPU ms"),
        (
            (
                row.baseline, f"{row.messages:,}", shown(row.rate, 0), shown(row.cpu_ms), shown(row.peak_mb, 0),
                shown(row.endpoint_cpu_ms), shown(row.postgres_cpu_ms),
            )
            for row in compared(results)
        ),
    )  # fmt: skip
    yield "## Growth\n"
    yield (
        "What a message costs more between two sizes, and what a process costs by itself. Messages a second are "
        "without that fixed cost; busy is the part of that time for which the endpoint was busy. The machine's "
        "cores, divided by the CPU that process, endpoint and Postgres take together, bound the messages a second, in "
        "whatever order the work is done.\n"
    )
    yield from table(
        (
            "", "between", "marginal CPU µs a message", "with endpoint's and Postgres'", "messages a CPU second",
            "messages/s", "fixed CPU s",
            "endpoint busy",
        ),
        (
            (
                row.baseline, f"{row.low:,} and {row.high:,}", shown(row.marginal_us), shown(row.all_us),
                _inverse(row.marginal_us),
                shown(row.rate, 0) if row.rate else "-", shown(row.fixed_seconds, 2),
                _busy(row.endpoint_busy),
            )
            for row in grown(results)
        ),
    )  # fmt: skip
    yield from _catalogue_lines(results)
    yield from _stage_lines(results)
    yield "## How it was measured\n"
    yield _HOW


def _verdict_lines(found: Sequence[Verdict], *, quick: bool) -> Iterator[str]:
    met = sum(verdict.met is True for verdict in found)
    missed = sum(verdict.met is False for verdict in found)
    yield f"{met} met, {missed} missed, {len(found) - met - missed} not measured.\n"
    if quick:
        yield f"At the small sizes of a quick run; the targets are meant for {FULL.base:,} to {FULL.large:,}.\n"
    yield from table(
        ("target", "measured", "", "by"),
        ((verdict.target, verdict.measured, _MET[verdict.met], verdict.by) for verdict in found),
    )


def _catalogue_lines(results: Results) -> Iterator[str]:
    found = catalogues(results)
    if not found:
        return
    batches = results.sizes.small_batches[1] // SMALL_BATCH_MESSAGES
    yield "## Catalogue\n"
    yield f"Postgres' catalogue before and after {batches:,} batches in a fresh database; autovacuum is on.\n"
    yield from table(
        ("", "before", "after"),
        (
            (figure, *(shown(sure([getattr(of_round[figure], when) for of_round in found]), 0) for when in _WHEN))
            for figure in found[-1]
        ),
    )


def _stage_lines(results: Results) -> Iterator[str]:
    found = stages(results)
    if not found:
        return
    sizes = results.sizes
    yield "## Stages\n"
    yield (
        f"CPU µs a message of a run with timers, marginal between {sizes.base:,} and {sizes.middle:,}, all values new. "
        "Several threads work at once: a function is timed in the thread that it runs in. What it spends in another "
        "one of the list is that one's."
        + "".join(
            f" The same run without timers: {shown(row.marginal_us)} µs."
            for row in grown(results)
            if (row.baseline, row.low, row.high) == (OURS_NEW, sizes.base, sizes.middle)
        )
        + "\n"
    )
    yield from table(
        ("stage", "function", "µs a message"),
        ((row.stage if not row.function else "", row.function, shown(row.us)) for row in found),
    )


def _busy(share: Spread | None) -> str:
    if share is None:
        return "-"
    return f"**{share.median:.0%}**" if share.median >= _MAX_BUSY else f"{share.median:.0%}"


def _inverse(marginal_us: Spread) -> str:
    # A cost within the noise gives no rate.
    return f"{1e6 / marginal_us.median:,.0f}" if marginal_us.least > 0 else "-"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table, and an empty line."""
    yield "| " + " | ".join(head) + " |"
    yield "|" + " --- |" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""
