"""What `doctor` looks at of the archive: that it can be used, and that it is kept up."""

from datetime import UTC, datetime
from importlib.util import find_spec

from loginpipe.archive.store import Stores
from loginpipe.common.errors import LoginpipeError
from loginpipe.common.settings import Settings
from loginpipe.monitoring.doctor.warehouse import warehouse
from loginpipe.postgres.archive import archive_gap


def archive(settings: Settings) -> str:
    """Look whether the archive can be reached, whether days are missing in it, and whether retention can rely on it."""
    if settings.archive_url is None:
        if settings.retention_days is not None:
            raise LoginpipeError(
                "LOGINPIPE_RETENTION_DAYS is set and LOGINPIPE_ARCHIVE_URL is not, so nothing is ever dropped: set both"
            )
        return "off: days stay in the table"
    if find_spec("pyarrow") is None:
        raise LoginpipeError("pyarrow is not installed: run `pip install 'loginpipe[archive]'`")
    store = Stores(settings).current
    store.require_usable()
    with warehouse(settings) as connection:
        days, dropped, missing = archive_gap(connection, today=datetime.now(UTC).date())
    if missing:
        raise LoginpipeError(
            f"{missing} is over and not archived: see the newest run of archive_logins, and whether the schedule "
            "archive_closed_days is running"
        )
    return f"{store.url}: {days:,} days archived, {dropped:,} of them dropped from user_logins"
