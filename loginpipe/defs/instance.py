"""What ``dagster.yaml`` loads: Dagster's storage and secrets. In both, the environment wins over ``.env``."""

import os
from pathlib import Path
from typing import Any

import click
from dagster._core.secrets import SecretsLoader
from dagster._serdes import ConfigurableClass, ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage
from dotenv import dotenv_values

from loginpipe.common.errors import LoginpipeError
from loginpipe.postgres.dagster_storage import verify_connections

# Linux keeps here what a process was started with, whatever it has set since.
_AT_START = Path("/proc/self/environ")


class Storage(DagsterPostgresStorage):
    """Dagster's storage in Postgres, for a process that has the environment it was started with.

    Each Dagster command lays ``.env`` over its environment, and then reads ``dagster.yaml``, from the top. So this is
    the first code of ours that runs in it, and what it starts (code servers, runs) inherits what is set here.
    """

    @classmethod
    def config_type(cls) -> Any:
        """Restore the environment, and return what Dagster then reads from it: called before it looks up the URL.

        Raises:
            ClickException: there is no URL; Dagster's commands print it as one line and exit with 1.
        """
        _restore_environment()
        url = os.environ.get("DAGSTER_POSTGRES_URL", "").strip()
        if not url:
            raise click.ClickException(
                "DAGSTER_POSTGRES_URL is not set: run `loginpipe local up`, which starts a Postgres and writes .env, "
                "or set it to the URL of Dagster's own storage"
            )
        # A mounted secret ends with a line break as a rule, which would be part of the database's name.
        os.environ["DAGSTER_POSTGRES_URL"] = url
        return super().config_type()

    @classmethod
    def from_config_value(  # type: ignore[override]  # as Dagster's own
        cls, inst_data: ConfigurableClassData | None, config_value: Any
    ) -> DagsterPostgresStorage:
        """Open the storage, by connections as those of the warehouse: with verified TLS in production, or with a token.

        Raises:
            ClickException: they cannot be made so.
        """
        verify_connections()
        try:
            return super().from_config_value(inst_data, config_value)
        except LoginpipeError as error:
            raise click.ClickException(f"DAGSTER_POSTGRES_URL: {error}") from None


class EnvFile(SecretsLoader, ConfigurableClass):
    """``.env`` in the current folder, for code servers and runs: only what the environment lacks.

    Dagster's default gives all of it, to the code server of ``dg dev``.
    """

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """What made it."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Nothing can be configured."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> "EnvFile":
        """Make one, as ``dagster.yaml`` names it."""
        del config_value
        return cls(inst_data)

    def get_secrets_for_environment(self, location_name: str | None) -> dict[str, str]:
        """Return the variables of ``.env`` that are not set, with their values."""
        del location_name
        return {name: value for name, value in _env_file().items() if name not in os.environ}


def begin_storage(home: Path) -> None:
    """Make Dagster's storage, and note that it has no runs to be retried: its daemon warns where nothing is noted.

    Args:
        home: where ``dagster.yaml`` is.
    """
    from dagster._core.instance import DagsterInstance
    from dagster._daemon.auto_run_reexecution.event_log_consumer import DAGSTER_EVENT_TYPES, _create_cursor_key

    with DagsterInstance.from_config(str(home)) as instance:
        instance.daemon_cursor_storage.set_cursor_values(
            {_create_cursor_key(kind): "0" for kind in DAGSTER_EVENT_TYPES}
        )


def _restore_environment() -> None:
    values = _env_file()
    if not values or not _AT_START.exists():
        return
    entries = _AT_START.read_bytes().split(b"\0")
    at_start = dict(os.fsdecode(entry).split("=", 1) for entry in entries if b"=" in entry)
    for name, value in values.items():
        if name in at_start and os.environ.get(name) == value:
            os.environ[name] = at_start[name]


def _env_file() -> dict[str, str]:
    return {name: value for name, value in dotenv_values(Path.cwd() / ".env").items() if value is not None}
