"""Where the runbook is: every warning, check and alert names the section for it."""

from loginpipe.common.settings import load_settings


def runbook(anchor: str) -> str:
    """Return where a section is: under LOGINPIPE_RUNBOOK_URL, or in the project's own file.

    Args:
        anchor: of its heading, as in ``dead-letters``.
    """
    return f"{load_settings().runbook_url}#{anchor}"
