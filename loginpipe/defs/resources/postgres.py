"""Define the Dagster resource of the database: one connection for the run, opened again if it breaks."""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import TypeVar

import dagster as dg
from pydantic import Field, PrivateAttr

from loginpipe.common.secrets import database_url
from loginpipe.common.settings import Settings
from loginpipe.masking.tokens import TokenKeys
from loginpipe.postgres.connections import Connection
from loginpipe.postgres.migrate import require_migrated
from loginpipe.postgres.session import Session
from loginpipe.postgres.token_keys import check_token_keys

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
        """Connect, and check that the database is migrated."""
        self._session = Session(self.database_url or database_url(self.settings))
        try:
            self._session.run(require_migrated)
            yield self
        finally:
            self._session.close()

    def run(self, work: Callable[[Connection], T]) -> T:
        """Run work in its own transactions, and retry it after transient errors; see `Session.run`.

        Raises:
            DatabaseError: a permanent error, or one that lasts longer than the session's retry budget.
        """
        return self._session.run(work)

    @contextmanager
    def giving_up_when(self, give_up: Callable[[], bool]) -> Iterator[Session]:
        """Yield the run's session. Within the context, failed work is retried only until ``give_up`` returns True."""
        self._session.give_up = give_up
        try:
            yield self._session
        finally:
            self._session.give_up = lambda: False

    def check_token_keys(self, keys: TokenKeys) -> None:
        """Refuse token keys other than those that made this database's tokens."""
        self._session.run(lambda connection: check_token_keys(connection, keys))
