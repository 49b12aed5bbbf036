"""Define the assets for duplicate devices and addresses and for login counts, by day: tokens and counts only."""

from collections.abc import Mapping, Sequence
from datetime import date
from functools import partial
from typing import Any

import dagster as dg

from loginpipe.defs.metadata import (
    COUNTED_IN_TIME,
    DAYS,
    INSIGHTS,
    OWNERS,
    asset_key,
    bar_plot,
    column_lineage,
    column_schema,
)
from loginpipe.defs.resources import PostgresResource
from loginpipe.postgres.insights import (
    DUPLICATES,
    DuplicatesOfDay,
    LoginsOfDay,
    refresh_daily_logins,
    refresh_duplicates,
)

_MEANING: Mapping[str, str] = {"duplicate_devices": "devices", "duplicate_ips": "addresses"}


def _duplicates_asset(name: str) -> dg.AssetsDefinition:
    what = _MEANING[name]

    @dg.asset(
        key=asset_key(name),
        group_name=INSIGHTS,
        partitions_def=DAYS,
        # A backfill of a year is one run, not 365.
        backfill_policy=dg.BackfillPolicy.single_run(),
        freshness_policy=COUNTED_IN_TIME,
        deps=[asset_key("user_logins_table")],
        owners=OWNERS,
        kinds={"postgres", "table"},
        code_version="3",
        metadata={
            **column_schema("create_date", DUPLICATES[name], "users", "logins", "first_date", "last_date"),
            "dagster/table_name": f"loginpipe.{name}",
            **column_lineage(
                "user_logins_table",
                {
                    "create_date": "create_date",
                    DUPLICATES[name]: DUPLICATES[name],
                    "users": "user_id",
                    "first_date": "create_date",
                    "last_date": "create_date",
                },
            ),
        },
        description=(
            f"For each day, the {what} seen on it that more than one user has used up to the end of that day: number "
            "of users and logins, first and last date. Tokens that older key versions made of the same value count as "
            "one; placeholders, such as the nil UUID, are left out. The view "
            f"loginpipe.{name.replace('duplicate', 'shared')} has the newest state of each."
        ),
    )
    def duplicates(context: dg.AssetExecutionContext, postgres: PostgresResource) -> dg.MaterializeResult[None]:
        """Compute the days of this run again.

        Raises:
            DatabaseError: a day could not be written. Earlier days are written.
        """
        return dg.MaterializeResult(metadata=refreshed(postgres, name, _days(context)))

    return duplicates


duplicate_devices = _duplicates_asset("duplicate_devices")
duplicate_ips = _duplicates_asset("duplicate_ips")


@dg.asset(
    key=asset_key("daily_logins"),
    group_name=INSIGHTS,
    partitions_def=DAYS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    freshness_policy=COUNTED_IN_TIME,
    deps=[asset_key("user_logins_table")],
    owners=OWNERS,
    kinds={"postgres", "table"},
    code_version="1",
    metadata={
        **column_schema("create_date", "device_type", "locale", "app_version", "logins", "users"),
        "dagster/table_name": "loginpipe.daily_logins",
        **column_lineage(
            "user_logins_table",
            {**{name: name for name in ("create_date", "device_type", "locale", "app_version")}, "users": "user_id"},
        ),
    },
    description=(
        "Logins and distinct users of each day by device type, locale and version. Do not sum the users: one user may "
        "have two devices. The view loginpipe.daily_logins_by_version has the version as text."
    ),
)
def daily_logins(context: dg.AssetExecutionContext, postgres: PostgresResource) -> dg.MaterializeResult[None]:
    """Compute the days of this run again.

    Raises:
        DatabaseError: a day could not be written. Earlier days are written.
    """
    return dg.MaterializeResult(metadata=refreshed(postgres, "daily_logins", _days(context)))


def refreshed(postgres: PostgresResource, table: str, days: Sequence[date]) -> dict[str, Any]:
    """Compute days of one of the three tables again, each in its own transaction, and return the UI's metadata.

    Raises:
        DatabaseError: a day could not be written. Earlier days are written.
    """
    if table in DUPLICATES:
        work = partial(refresh_duplicates, table=table)
        return _duplicates_metadata(table, {day: postgres.run(partial(work, day=day)) for day in days})
    return _counts_metadata({day: postgres.run(partial(refresh_daily_logins, day=day)) for day in days})


def _duplicates_metadata(table: str, found: Mapping[date, DuplicatesOfDay]) -> dict[str, Any]:
    newest, by_day = found[max(found)], {str(day): of_day.shared for day, of_day in found.items()}
    return {
        "dagster/row_count": sum(by_day.values()),
        "seen": newest.seen,
        "shared": newest.shared,
        "share": newest.shared / newest.seen if newest.seen else 0.0,
        "most_users": dg.MetadataValue.md(preview(newest)),
        "by_day": bar_plot(f"{_MEANING[table]} of more than one user", by_day),
    }


def _counts_metadata(found: Mapping[date, LoginsOfDay]) -> dict[str, Any]:
    newest, by_day = found[max(found)], {str(day): of_day.logins for day, of_day in found.items()}
    return {
        "dagster/row_count": sum(by_day.values()),
        "logins": newest.logins,
        "by_device_type": bar_plot("logins by device type", newest.by_device_type),
        "by_locale": bar_plot("logins by locale", newest.by_locale),
        "by_version": bar_plot("logins by version", newest.by_version),
        "by_day": bar_plot("logins", by_day),
    }


def preview(found: DuplicatesOfDay) -> str:
    """Return the tokens with the most users as a Markdown table."""
    lines = ["| users | logins | token | first | last |", "| --- | --- | --- | --- | --- |"]
    rows = ((users, logins, token, *dates) for token, users, logins, *dates in found.top)
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def _days(context: dg.AssetExecutionContext) -> list[date]:
    return sorted(date.fromisoformat(key) for key in context.partition_keys)
