"""The commands for the database."""

from typing import TYPE_CHECKING

from loginpipe.cli.output import Json, out, print_json
from loginpipe.common.secrets import database_url
from loginpipe.common.settings import load_settings

if TYPE_CHECKING:
    from loginpipe.postgres.connections import Connection


def migrate(*, as_json: Json = False) -> None:
    """Bring the database in LOGINPIPE_DATABASE_URL up to date. A user_logins that is there already is adopted as it is.

    Example: loginpipe migrate
    """
    from loginpipe.postgres import migrate as migrations

    result = migrations.migrate(warehouse_url())
    if as_json:
        print_json({"before": result.before, "after": result.after, "adopted": result.adopted})
    elif result.before == result.after:
        out.print(f"up to date at {result.after}")
    else:
        adopted = "; the table user_logins that was there is adopted as it is" if result.adopted else ""
        out.print(f"migrated from {result.before or 'nothing'} to {result.after}{adopted}")


def connect_to_warehouse() -> "Connection":
    """Return a connection to the migrated database in LOGINPIPE_DATABASE_URL.

    Raises:
        SettingError: it is not set.
        DatabaseError: it cannot be used.
    """
    from loginpipe.postgres.connections import connect
    from loginpipe.postgres.migrate import require_migrated

    connection = connect(warehouse_url())
    require_migrated(connection)
    return connection


def warehouse_url() -> str:
    """Return LOGINPIPE_DATABASE_URL.

    Raises:
        SettingError: it is not set.
        DatabaseError: it does not demand verified TLS, in production.
    """
    from loginpipe.postgres.connections import require_verified_tls

    settings = load_settings()
    url = database_url(settings)
    if settings.production:
        require_verified_tls(url)
    return url
