"""Is everything in place for a run? Each check says what it looked at, and where it is not well, the mend.

A check is a function that returns what is well, in words, or raises what is not. This file puts them in order.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from loginpipe.errors import LoginpipeError
from loginpipe.ops.doctor import alerting, archiving, clocks, dagster_state, keys, queues, warehouse
from loginpipe.settings import Settings

__all__ = ["Finding", "examine"]


@dataclass(frozen=True)
class Finding:
    """What a check found: well or not, and in words."""

    what: str
    well: bool
    says: str


def examine(settings: Settings) -> Iterator[Finding]:
    """Yield a finding a check, in the order in which a run would come upon them."""
    checks: dict[str, Callable[[Settings], str]] = {
        "queue": queues.queue,
        "dead-letter queue": queues.dead_letters,
        "database": warehouse.database,
        "grants": warehouse.grants,
        "partitions": warehouse.partitions,
        "token keys": keys.token_keys,
        "seal key": keys.seal_key,
        "masking": keys.masking,
        "archive": archiving.archive,
        "clocks": clocks.clocks,
        "Dagster's storage": dagster_state.storage,
        "Dagster's daemon": dagster_state.daemon,
        "what starts runs": dagster_state.automation,
        "freshness": dagster_state.freshness,
        "alerts": alerting.alerts,
    }
    for what, check in checks.items():
        try:
            yield Finding(what, True, check(settings))
        except LoginpipeError as error:
            yield Finding(what, False, str(error))
