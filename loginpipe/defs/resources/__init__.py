"""Dagster resources: thin faces of the packages below. In-process, each is one object for the whole run.

All of them are opened before the step begins, so a wrong setting, an absent queue, an unreachable or unmigrated
database and an unreadable key end a run before it has received a message.
"""

from loginpipe.common.settings import Settings
from loginpipe.defs.resources.masking import MaskingResource
from loginpipe.defs.resources.postgres import PostgresResource
from loginpipe.defs.resources.sqs import SqsResource

__all__ = ["MaskingResource", "PostgresResource", "SqsResource", "resources_from"]


def resources_from(settings: Settings) -> dict[str, object]:
    """Return the resources as the settings say, by the key that assets know them by."""
    return {
        "sqs": SqsResource(
            settings=settings,
            queue=settings.queue,
            batch_messages=settings.batch_messages,
            linger_seconds=settings.linger_seconds,
            visibility_seconds=settings.visibility_seconds,
            receivers=settings.receivers,
        ),
        "settings": settings,
        "postgres": PostgresResource(settings=settings),
        "masking": MaskingResource(settings=settings),
    }
