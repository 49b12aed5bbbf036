"""Locate the runbook. Every warning, check and alert names its section."""

_where = {"url": "docs/operations.md"}


def use_runbook(url: str) -> None:
    """Set the location of the runbook for the whole process: a path or a URL."""
    _where["url"] = url


def runbook(anchor: str) -> str:
    """Return the location of a section, in the configured copy or in the project's own file.

    Args:
        anchor: the anchor of its heading, as in ``dead-letters``.
    """
    return f"{_where['url']}#{anchor}"
