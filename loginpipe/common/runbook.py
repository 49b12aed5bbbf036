"""Where the runbook is: every warning, check and alert names the section for it."""

_where = {"url": "docs/operations.md"}


def use_runbook(url: str) -> None:
    """Link to this copy of the runbook from now on, in the whole process: a path, or a URL."""
    _where["url"] = url


def runbook(anchor: str) -> str:
    """Return where a section is: in the copy that the settings name, or in the project's own file.

    Args:
        anchor: of its heading, as in ``dead-letters``.
    """
    return f"{_where['url']}#{anchor}"
