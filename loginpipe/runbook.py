"""Where the runbook is: every warning, check and alert names the section for it."""

from typing import TYPE_CHECKING

from loginpipe.settings import load_settings

if TYPE_CHECKING:
    import dagster as dg


def runbook(anchor: str) -> str:
    """Return where a section is: under LOGINPIPE_RUNBOOK_URL, or in the project's own file.

    Args:
        anchor: of its heading, as in ``dead-letters``.
    """
    return f"{load_settings().runbook_url}#{anchor}"


def runbook_link(anchor: str) -> "dg.MetadataValue[str | None]":
    """Return the same as metadata: a link where there is something to follow."""
    # The operator's commands log warnings too, and start without Dagster.
    import dagster as dg

    where = runbook(anchor)
    return dg.MetadataValue.url(where) if where.startswith("http") else dg.MetadataValue.text(where)
