"""What Dagster loads: ``workspace.yaml`` and ``-m loginpipe.definitions`` find `defs` here."""

import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

from loginpipe.common.interpreter import imports_that_stay, leave_all_at_exit

with imports_that_stay():
    import dagster as dg

    # Dagster warns on every output that these parameters may still change. Its own `dg launch` uses the second.
    warnings.filterwarnings("ignore", message="Parameter `(backfill_policy|include_sources)`", category=dg.BetaWarning)

    from loginpipe.common.logs import configure_logs
    from loginpipe.common.settings import Settings, load_settings
    from loginpipe.defs import archive, insights, maintenance
    from loginpipe.defs.ingest.assets import ingest_assets
    from loginpipe.defs.ingest.job import ingest_job, ingest_schedule
    from loginpipe.defs.ingest.lambda_batches import lambda_batches_sensor
    from loginpipe.defs.ingest.sensor import queue_depth_sensor
    from loginpipe.defs.ingest.stages import USER_LOGINS_TABLE
    from loginpipe.defs.metadata import (
        ARCHIVED_IN_TIME,
        DAYS_THAT_ARE_OVER,
        LOGIN_ARCHIVE,
        RUNBOOK_SECTIONS,
        days_from,
        first_day,
        runbook_link,
    )
    from loginpipe.defs.monitoring.queue_checks import freshness, no_dead_letters
    from loginpipe.defs.monitoring.sensor import monitoring_sensor
    from loginpipe.defs.resources import resources_from
    from loginpipe.postgres.dagster_storage import verify_connections

__all__ = ["build_definitions", "defs"]


def build_definitions(
    resource_overrides: Mapping[str, Any] | None = None, *, settings: Settings | None = None
) -> dg.Definitions:
    """Put the definitions together for these settings, or for those of the environment.

    `resource_overrides` replaces resources by key: ``sqs``, ``postgres``, ``masking``, ``settings``.
    """
    settings = settings or load_settings()
    counted = [insights.duplicate_devices, insights.duplicate_ips, insights.daily_logins]
    assets = [ingest_assets(settings), *counted, archive.login_archive]
    return dg.Definitions(
        assets=[asset.map_asset_specs(partial(_with_settings, settings=settings)) for asset in assets],
        asset_checks=[freshness, no_dead_letters, archive.archive_matches_table, *maintenance.DAILY_CHECKS],
        jobs=[
            ingest_job(settings),
            insights.insights_job,
            maintenance.maintain_partitions,
            maintenance.prune_dagster_storage,
            maintenance.check_job(),
            archive.archive_logins,
            archive.drop_archived_partitions,
        ],
        schedules=[
            ingest_schedule,
            maintenance.maintenance_schedule,
            maintenance.pruning_schedule,
            maintenance.check_schedule,
            archive.archive_closed_days,
            archive.drop_archived_partitions_daily,
        ],
        sensors=[
            # Without Dagster's runs there is nothing to start, and a run would only compete with AWS Lambda.
            *([] if settings.consumer == "lambda" else [queue_depth_sensor]),
            *([] if settings.consumer == "dagster" else [lambda_batches_sensor]),
            insights.insights_sensor,
            monitoring_sensor,
        ],
        resources={**resources_from(settings), **(resource_overrides or {})},
        # One process a run: a process for each step would only cost its start.
        executor=dg.in_process_executor,
    )


def _with_settings(spec: dg.AssetSpec, settings: Settings) -> dg.AssetSpec:
    """Add the section of the runbook, the table's name, and to a daily asset its days."""
    metadata: dict[str, Any] = {"runbook": runbook_link(RUNBOOK_SECTIONS[spec.key.path[-1]])}
    if spec.key == USER_LOGINS_TABLE.key:
        metadata["dagster/table_name"] = settings.table
    spec = spec.merge_attributes(metadata=metadata)
    if spec.partitions_def:
        days = days_from(first_day(settings), over=spec.partitions_def == DAYS_THAT_ARE_OVER)
        spec = spec.replace_attributes(partitions_def=days)
    if spec.key == LOGIN_ARCHIVE and settings.archive_url:
        spec = spec.replace_attributes(freshness_policy=ARCHIVED_IN_TIME)
    return spec


def _defs() -> dg.Definitions:
    settings = load_settings()
    configure_logs(settings)
    # Again where dagster.yaml names a storage of Dagster's own, as the Helm chart's does.
    verify_connections()
    return build_definitions(settings=settings)


leave_all_at_exit()
defs = _defs()
