"""The Dagster resource of the database: one connection for the run, tried anew where it breaks."""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import TypeVar

import dagster as dg
import pandas as pd
from pydantic import Field, PrivateAttr

from loginpipe.common.secrets import database_url
from loginpipe.common.settings import Settings
from loginpipe.masking.sealing import Sealed
from loginpipe.masking.tokens import TokenKeys
from loginpipe.postgres.connections import Connection, require_verified_tls
from loginpipe.postgres.erasures import Erased, read_erased
from loginpipe.postgres.load import LoadCounts, load_logins
from loginpipe.postgres.migrate import require_migrated
from loginpipe.postgres.rejects import record_rejects
from loginpipe.postgres.runs import Arrival, close_run
from loginpipe.postgres.session import Session
from loginpipe.postgres.token_keys import check_token_keys
from loginpipe.postgres.vault import known_tokens
from loginpipe.sqs.deletion import Deletion

T = TypeVar("T")


class PostgresResource(dg.ConfigurableResource["PostgresResource"]):
    """The Postgres database of ``user_logins``: one connection for the run."""

    settings: dg.ResourceDependency[Settings]
    database_url: str | None = Field(
        default=None,
        repr=False,
        description="Connection URL. Leave it out to use LOGINPIPE_DATABASE_URL: Dagster stores configuration.",
        json_schema_extra={"dagster__is_secret": True},
    )

    _session: Session = PrivateAttr()

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Generator["PostgresResource", None, None]:  # noqa: ARG002
        """Connect, and make sure that the database is migrated."""
        url = self.database_url or database_url(self.settings)
        if self.settings.production:
            require_verified_tls(url)
        self._session = Session(url)
        try:
            self._session.run(require_migrated)
            yield self
        finally:
            self._session.close()

    def run(self, work: Callable[[Connection], T]) -> T:
        """Do work in transactions of its own, again where it failed in passing; see `Session.run`.

        Raises:
            DatabaseError: permanent, or still failing after the patience of the session.
        """
        return self._session.run(work)

    def check_token_keys(self, keys: TokenKeys) -> None:
        """Refuse token keys that are not the ones that this database's tokens were made with."""
        self._session.run(lambda connection: check_token_keys(connection, keys))

    def record_rejects(self, rejected: pd.DataFrame, sealed: Sealed, arrival: Arrival) -> int:
        """Record the rejects of a run and open its books; return how many this run recorded."""
        return self._session.run(lambda connection: record_rejects(connection, rejected, sealed, arrival))

    def known_tokens(self, tokens: Iterable[str]) -> frozenset[str]:
        """Return those of the tokens that the vault knows."""
        wanted = list(tokens)
        return self._session.run(lambda connection: known_tokens(connection, wanted))

    def erased(self) -> Erased:
        """Return which users were erased, by their tombstones."""
        return self._session.run(read_erased)

    def load(
        self,
        logins: pd.DataFrame,
        sealed: Sealed,
        run_id: str,
        *,
        aliases: Sequence[tuple[str, str]] = (),
        erasures: int | None = None,
    ) -> LoadCounts:
        """Write masked logins, ledger, vault, aliases and books in one transaction."""
        return self._session.run(
            lambda connection: load_logins(connection, logins, sealed, run_id, aliases=aliases, erasures=erasures)
        )

    def close_run(self, run_id: str, *, deletion: Deletion, leases_lost: int) -> None:
        """Close the books of a run."""
        deleted, failures = deletion.deleted, deletion.failures.total()
        self._session.run(
            lambda connection: close_run(
                connection, run_id, deleted=deleted, delete_failures=failures, leases_lost=leases_lost
            )
        )
