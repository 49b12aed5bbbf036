"""Define what is measured, with how many messages, and from which state."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from benchmarks.ground import program

LEAN: Final = "lean"
BOTO3: Final = "boto3"

OURS_NEW: Final = "ours, all values new"
OURS_KNOWN: Final = "ours, all values known"
LIMIT: Final = "limit"
IN_TENS: Final = "in_tens"
ONE_BY_ONE: Final = "one_by_one"
DLT: Final = "dlt"
COPY_ALONE: Final = "copy_alone"
ENDPOINT: Final = "endpoint"
IN_TURN: Final = "four runs in turn"
AT_ONCE: Final = "four runs at once"
SMALL_BATCHES: Final = "ours, three messages a batch"
SMALL_BATCH_MESSAGES: Final = 3

_RUN: Final = (
    program("dagster"), "job", "execute", "-m", "loginpipe.definitions", "-j", "ingest_logins",
)  # fmt: skip


class Start(Enum):
    """The state of a baseline's database at the start."""

    NOTHING = "no table: it writes none"
    PLAIN = "an empty table of seven columns"
    MIGRATED = "the pipeline's schema"
    KNOWN = "the pipeline's schema, and every value of this workload in the vault"


@dataclass(frozen=True)
class Sizes:
    """Messages per trial.

    The cost of a message of the pipeline is measured between ``middle`` and ``large``, the cost of a process between
    ``base`` and ``middle``, and the cost of a message of the others between ``base`` and ``others``.
    """

    small: int
    base: int
    middle: int
    large: int
    others: int
    one_by_one: tuple[int, int]
    small_batches: tuple[int, int]
    at_once: int


FULL: Final = Sizes(1_000, 10_000, 100_000, 500_000, 60_000, (1_000, 6_000), (300, 3_000), 40_000)
QUICK: Final = Sizes(500, 2_000, 12_000, 24_000, 6_000, (100, 600), (60, 300), 8_000)


@dataclass(frozen=True)
class Baseline:
    """A measured program.

    Attributes:
        group: its name for ``--only``.
        command: may contain ``{queue_url}`` and ``{rows}``, a file of ready-made rows.
        table: the table of its rows, if it writes any.
        in_turn: number of consecutive processes in one trial, each with its part of the messages.
        at_once: number of concurrent processes.
        receives: True if it receives messages from the queue.
    """

    name: str
    group: str
    sizes: tuple[int, ...]
    command: tuple[str, ...]
    start: Start
    table: str = "user_logins"
    variables: Mapping[str, str] = field(default_factory=dict)
    in_turn: int = 1
    at_once: int = 1
    receives: bool = True


def baselines(sizes: Sizes) -> list[Baseline]:
    """Return all baselines, in the order of a round."""
    every = (sizes.small, sizes.base, sizes.middle, sizes.large)
    two = (sizes.base, sizes.others)
    found = []
    for client, its_sizes in ((LEAN, every), (BOTO3, two)):
        variables = _of_a_run(client)
        found += [
            Baseline(named(OURS_NEW, client), "ours", its_sizes, _RUN, Start.MIGRATED, variables=variables),
            Baseline(named(OURS_KNOWN, client), "ours", its_sizes, _RUN, Start.KNOWN, variables=variables),
            Baseline(named(LIMIT, client), "limit", its_sizes, _module("limit"), Start.NOTHING, variables=variables),
        ]
    return [
        *found,
        Baseline(IN_TENS, "in_tens", two, _module("in_tens"), Start.PLAIN),
        Baseline(ONE_BY_ONE, "one_by_one", sizes.one_by_one, _module("one_by_one"), Start.PLAIN),
        Baseline(
            DLT, "dlt", two, _module("dlt_pipeline"), Start.PLAIN,
            table="logins.user_logins", variables={"RUNTIME__DLTHUB_TELEMETRY": "false"},
        ),
        Baseline(
            COPY_ALONE, "copy_alone", two, (*_module("copy_alone"), "{rows}"), Start.PLAIN, receives=False
        ),
        Baseline(
            ENDPOINT, "endpoint", two, (*_module("bare_client"), "{queue_url}"), Start.NOTHING, at_once=2
        ),
        *(
            Baseline(
                name, "at_once", (sizes.at_once,), _RUN, Start.MIGRATED, in_turn=in_turn, at_once=at_once,
                variables=_of_a_run(LEAN),
            )
            for name, in_turn, at_once in ((IN_TURN, 4, 1), (AT_ONCE, 1, 4))
        ),
        Baseline(
            SMALL_BATCHES, "small_batches", sizes.small_batches, _RUN, Start.MIGRATED,
            variables={
                **_of_a_run(LEAN),
                "LOGINPIPE_BATCH_MESSAGES": str(SMALL_BATCH_MESSAGES),
                # So that a batch closes only when it is full.
                "LOGINPIPE_LINGER_SECONDS": "10",
            },
        ),
    ]  # fmt: skip


def named(baseline: str, client: str) -> str:
    """Return the name of a baseline with one of the clients. The default, lean, is not part of the name."""
    return baseline if client == LEAN else f"{baseline}, {client}"


def _of_a_run(client: str) -> dict[str, str]:
    # No run ends before its queue is empty.
    return {"LOGINPIPE_SQS_CLIENT": client, "LOGINPIPE_RUN_SECONDS": "3600"}


def _module(name: str) -> tuple[str, ...]:
    return (sys.executable, "-m", f"benchmarks.baselines.{name}")
