"""The channels that alerts go by, as the settings name them."""

from collections.abc import Sequence
from typing import Protocol

from loginpipe.alerts.sns import SnsTopic
from loginpipe.alerts.webhook import Webhook
from loginpipe.settings import Settings


class Channel(Protocol):
    """A way to somebody."""

    @property
    def name(self) -> str:
        """``webhook`` or ``sns``."""

    @property
    def place(self) -> str:
        """Where it leads, as far as that is no secret."""

    def deliver(self, subject: str, text: str) -> None:
        """Deliver a message.

        Raises:
            AlertError: it was not delivered, or no answer said that it was.
        """


def channels(settings: Settings) -> Sequence[Channel]:
    """Return the channels that are set."""
    found: list[Channel] = []
    if settings.alert_webhook_url:
        found.append(Webhook(settings.alert_webhook_url))
    if settings.alert_sns_topic:
        found.append(SnsTopic(settings.alert_sns_topic, production=settings.production))
    return found
