"""Measure the catalog of Postgres: every temporary table leaves dead rows in it until a vacuum."""

from collections.abc import Mapping

from benchmarks.comparison import Change
from benchmarks.ground import rows

_CATALOGUE = """
    SELECT relname, pg_total_relation_size(relid), n_dead_tup
    FROM pg_stat_all_tables WHERE schemaname = 'pg_catalog' AND relname IN ('pg_class', 'pg_attribute')
    ORDER BY relname DESC
"""


def read_catalogue(database_url: str) -> dict[str, int]:
    """Return the size in bytes, with indexes, and the dead rows of ``pg_class`` and ``pg_attribute``."""
    found: dict[str, int] = {}
    for table, size, dead_rows in rows(database_url, _CATALOGUE):
        found |= {f"{table}, bytes": int(size), f"{table}, dead rows": int(dead_rows)}
    return found


def growth(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, Change]:
    """Return the change of each figure."""
    return {figure: Change(before[figure], after[figure]) for figure in before}
