"""The channels that alerts go by, as the settings name them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from loginpipe.common.errors import AlertError, SettingError
from loginpipe.common.secrets import alert_webhook_url
from loginpipe.common.settings import Settings
from loginpipe.monitoring.alerts.sns import SnsTopic
from loginpipe.monitoring.alerts.webhook import Webhook


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


@dataclass(frozen=True)
class UnknownWebhook:
    """The webhook while its address cannot be looked up: alerts wait for it, and the other channel gets its own."""

    fault: str
    name: str = "webhook"
    place: str = "webhook"

    def deliver(self, subject: str, text: str) -> None:  # noqa: ARG002 - there is nowhere to deliver it to
        """Fail.

        Raises:
            AlertError: always.
        """
        raise AlertError(self.fault)


def channels(settings: Settings) -> Sequence[Channel]:
    """Return the channels that are set."""
    found: list[Channel] = []
    try:
        if url := alert_webhook_url(settings):
            found.append(Webhook(url))
    except SettingError as error:
        found.append(UnknownWebhook(str(error)))
    if settings.alert_sns_topic:
        found.append(SnsTopic(settings.alert_sns_topic, production=settings.production))
    return found
