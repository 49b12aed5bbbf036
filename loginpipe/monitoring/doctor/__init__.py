"""Check whether everything is ready for a run. This file has the order of the checks.

A check is a function that returns a message if all is well, and otherwise raises an error that names the fix.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from loginpipe.common.errors import LoginpipeError
from loginpipe.common.settings import Settings
from loginpipe.monitoring.doctor import services, warehouse

__all__ = ["Check", "Finding", "examine"]

Check: TypeAlias = Callable[[Settings], str]


@dataclass(frozen=True)
class Finding:
    """The result and message of a check."""

    what: str
    ok: bool
    message: str

    @property
    def warns(self) -> bool:
        """True if the check passed with a warning."""
        return self.ok and self.message.startswith("warning: ")


def examine(settings: Settings, of_dagster: Mapping[str, Check]) -> Iterator[Finding]:
    """Yield a finding per check, in the order in which a run would meet the problems.

    `of_dagster` has the checks of Dagster's own state, which are defined next to the definitions.
    """
    checks: dict[str, Check] = {
        "queue": services.queue,
        "dead-letter queue": services.dead_letters,
        "database": warehouse.database,
        "table": warehouse.table,
        "grants": warehouse.grants,
        "locks": warehouse.locks,
        "partitions": warehouse.partitions,
        "token keys": warehouse.token_keys,
        "seal key": warehouse.seal_key,
        "vault": warehouse.vault,
        "masking": warehouse.masking,
        "unknown fields": warehouse.unknown_fields,
        "rows": warehouse.rows,
        "archive": warehouse.archive,
        **({} if settings.consumer == "dagster" else {"AWS Lambda": warehouse.lambda_batches}),
        "clocks": services.clocks,
        **of_dagster,
        "alerts": services.alerts,
    }
    for what, check in checks.items():
        try:
            yield Finding(what, True, check(settings))
        except LoginpipeError as error:
            yield Finding(what, False, str(error))
