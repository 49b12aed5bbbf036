"""Locate the runbook. Every warning, check and alert names its section."""

_where = {"url": "docs/operations.md"}


def use_runbook(url: str) -> None:
    """Set the location of the runbook for the whole process: a path or a URL."""
    _where["url"] = url


def runbook(anchor: str) -> str:
    """Return the location of a section, such as ``dead-letters``, in the configured copy or the project's own file."""
    return f"{_where['url']}#{anchor}"
