"""Define what ``dagster.yaml`` loads: Dagster's storage and secrets. The environment overrides ``.env`` in both."""

import os
from pathlib import Path
from typing import Any

import click
from dagster._core.secrets.env_file import EnvFileLoader, get_env_var_dict
from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage

from loginpipe.common.errors import LoginpipeError
from loginpipe.postgres.dagster_storage import verify_connections

# On Linux this file holds the environment at process start, without later changes.
_AT_START = Path("/proc/self/environ")


class Storage(DagsterPostgresStorage):
    """Dagster's storage in Postgres. It first restores the environment that the process was started with.

    Every Dagster command overrides its environment with ``.env`` and then reads ``dagster.yaml`` from the top. So this
    is our first code to run, and the code servers and runs that it starts inherit the restored environment.
    """

    @classmethod
    def config_type(cls) -> Any:
        """Restore the environment, and return the config type. Dagster calls this before it reads the URL.

        Raises:
            ClickException: there is no URL. Dagster's commands print it as one line and exit with 1.
        """
        _restore_environment()
        url = os.environ.get("DAGSTER_POSTGRES_URL", "").strip()
        if not url:
            raise click.ClickException(
                "DAGSTER_POSTGRES_URL is not set: run `loginpipe local up`, which starts a Postgres and writes .env, "
                "or set it to the URL of Dagster's own storage"
            )
        # A mounted secret usually ends with a line break, which would become part of the database's name.
        os.environ["DAGSTER_POSTGRES_URL"] = url
        return super().config_type()

    @classmethod
    def from_config_value(  # type: ignore[override]  # as Dagster's own
        cls, inst_data: ConfigurableClassData | None, config_value: Any
    ) -> DagsterPostgresStorage:
        """Open the storage with connections as for the warehouse: verified TLS in production, or an access token.

        Raises:
            ClickException: the connection settings are invalid.
        """
        verify_connections()
        try:
            return super().from_config_value(inst_data, config_value)
        except LoginpipeError as error:
            raise click.ClickException(f"DAGSTER_POSTGRES_URL: {error}") from None


class EnvFile(EnvFileLoader):
    """Load ``.env`` of the current folder for code servers and runs, without the variables that are already set.

    Dagster's default passes all of them to the code server of ``dg dev``.
    """

    def get_secrets_for_environment(self, location_name: str | None) -> dict[str, str]:  # noqa: ARG002
        """Return the variables of ``.env`` that are not set."""
        values = get_env_var_dict(self._base_dir)
        return {name: value for name, value in values.items() if name not in os.environ}


def begin_storage(home: Path) -> None:
    """Create the storage of a ``dagster.yaml``'s folder, with a record that no runs need a retry.

    Dagster's daemon warns if that is missing.
    """
    from dagster._core.instance import DagsterInstance
    from dagster._daemon.auto_run_reexecution.event_log_consumer import DAGSTER_EVENT_TYPES, _create_cursor_key

    with DagsterInstance.from_config(str(home)) as instance:
        instance.daemon_cursor_storage.set_cursor_values(
            {_create_cursor_key(kind): "0" for kind in DAGSTER_EVENT_TYPES}
        )


def _restore_environment() -> None:
    values = get_env_var_dict(str(Path.cwd()))
    if not values or not _AT_START.exists():
        return
    entries = _AT_START.read_bytes().split(b"\0")
    at_start = dict(os.fsdecode(entry).split("=", 1) for entry in entries if b"=" in entry)
    for name, value in values.items():
        if name in at_start and os.environ.get(name) == value:
            os.environ[name] = at_start[name]
