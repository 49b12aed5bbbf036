"""Define Dagster resources: thin shells around the packages. In-process, each is one object for the whole run.

All are opened before the step begins. So a wrong setting, a missing queue, an unreachable or unmigrated database or an
unreadable key ends a run before it receives a message.
"""

from loginpipe.common.settings import Settings
from loginpipe.defs.resources.masking import MaskingResource
from loginpipe.defs.resources.postgres import PostgresResource
from loginpipe.defs.resources.sqs import SqsResource

__all__ = ["MaskingResource", "PostgresResource", "SqsResource", "resources_from"]


def resources_from(settings: Settings) -> dict[str, object]:
    """Return the resources for these settings, by resource key."""
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
