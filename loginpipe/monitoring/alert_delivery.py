"""Format and deliver alerts: counts, times and names, never a value from a login.

A failed delivery is reported in one line, with the name of a topic but without the URL of a webhook.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from loginpipe.common.aws import Wording, aws_client, aws_errors
from loginpipe.common.errors import AlertError, SettingError, runbook
from loginpipe.common.secrets import alert_webhook_url
from loginpipe.common.settings import Settings
from loginpipe.monitoring.alert_rules import kind
from loginpipe.monitoring.alert_state import Event, Outbox, State, failed

if TYPE_CHECKING:
    from urllib.request import OpenerDirector


# Timeouts for a connection and for a response. A sensor tick has a minute for everything.
_SECONDS = 5
_ATTEMPTS = 2
# The limit of SNS.
_MAX_SUBJECT = 100


class Channel(Protocol):
    """A destination of alerts."""

    @property
    def name(self) -> str:
        """``webhook`` or ``sns``."""

    @property
    def place(self) -> str:
        """The destination without secrets, for messages."""

    def deliver(self, subject: str, text: str) -> None:
        """Deliver a message. Raise AlertError if it was not delivered, or the delivery was not confirmed."""


@dataclass(frozen=True)
class Webhook:
    """A receiver of ``{"text": …}``, such as an incoming webhook of Slack. Anyone who has the URL can write to it."""

    url: str = field(repr=False)
    name: str = "webhook"

    @property
    def place(self) -> str:
        """The host only."""
        return f"webhook at {urlsplit(self.url).hostname}"

    def deliver(self, subject: str, text: str) -> None:  # noqa: ARG002 - the text contains it
        """Post the text. Do not follow redirects."""
        import json
        from http.client import HTTPException
        from urllib.error import HTTPError, URLError
        from urllib.request import Request

        # Slack uses these three characters for its markup.
        escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        headers = {"Content-Type": "application/json", "User-Agent": "loginpipe"}
        request = Request(self.url, json.dumps({"text": escaped}).encode(), headers, method="POST")  # noqa: S310
        try:
            with _opener().open(request, timeout=_SECONDS) as answer:
                status = answer.status
        except HTTPError as error:
            status = error.code
            error.close()
        except URLError as error:
            # Its text may quote the URL.
            raise AlertError(
                f"{self.place} is unreachable ({_os_problem(error.reason)}): check its URL and the network"
            ) from None
        except (OSError, HTTPException, ValueError) as error:
            raise AlertError(f"{self.place} gave no valid answer ({_os_problem(error)}): check its URL") from None
        if status // 100 != 2:  # noqa: PLR2004
            raise AlertError(f"{self.place} answered with status {status}: check its URL")


@dataclass(frozen=True)
class SnsTopic:
    """A standard topic of AWS SNS in the region of its ARN. Credentials and endpoint are those of boto3."""

    arn: str
    production: bool
    name: str = "sns"

    @property
    def place(self) -> str:
        """The topic's name and region."""
        return f"SNS topic {self.arn.split(':')[5]} in {self._region}"

    @property
    def _region(self) -> str:
        return self.arn.split(":")[3]

    def deliver(self, subject: str, text: str) -> None:
        """Publish the text."""
        wording = Wording(AlertError, self.place, grant="sns:Publish on it")
        client = aws_client(
            "sns", wording, production=self.production, region=self._region, attempts=_ATTEMPTS, read_seconds=_SECONDS
        )
        with aws_errors(wording):
            client.publish(TopicArn=self.arn, Subject=subject, Message=text)


@dataclass(frozen=True)
class UnknownWebhook:
    """The webhook while its URL cannot be looked up. Its alerts wait; other channels still deliver theirs."""

    problem: str
    name: str = "webhook"
    place: str = "webhook"

    def deliver(self, subject: str, text: str) -> None:  # noqa: ARG002 - there is nowhere to deliver it to
        """Fail."""
        raise AlertError(self.problem)


def channels(settings: Settings) -> Sequence[Channel]:
    """Return the configured channels."""
    found: list[Channel] = []
    try:
        if url := alert_webhook_url(settings):
            found.append(Webhook(url))
    except SettingError as error:
        found.append(UnknownWebhook(str(error)))
    if settings.alert_sns_topic:
        found.append(SnsTopic(settings.alert_sns_topic, production=settings.production))
    return found


def deliver_pending(way: Channel, outbox: Outbox, queue: str, now: datetime) -> tuple[Outbox, list[str]]:
    """Deliver the pending alerts, unless the channel must wait for its next try.

    Return the outbox with what is still pending, and the outcome in at most one line.
    """
    number = len(outbox.pending)
    if not number:
        return outbox, []
    if outbox.next_try is not None and now < outbox.next_try:
        return outbox, [f"{way.name}: alerts pending: {number}, next try at {outbox.next_try:%H:%M:%S} UTC"]
    try:
        way.deliver(subject(queue, outbox.pending), text(queue, outbox))
    except AlertError as error:
        return failed(outbox, now), [f"alerts pending: {number}, not delivered: {error}"]
    return Outbox(), [f"{way.name}: alerts delivered: {number}"]


def summary(state: State, ways: Sequence[Channel]) -> str:
    """Return the active alerts, and a hint if no channel is configured."""
    lasting = [f"{kind(name).title} ({episode.message})" for name, episode in state.episodes.items() if episode.told]
    unsent = "" if ways else "; no alert is sent: set LOGINPIPE_ALERT_WEBHOOK_URL or LOGINPIPE_ALERT_SNS_TOPIC"
    return f"{', '.join(lasting) or 'nothing is wrong'}{unsent}"


def subject(queue: str, events: Sequence[Event]) -> str:
    """Return one line for all events, as the subject of a mail."""
    first, *others = events
    more = f" (and {len(others)} more)" if others else ""
    over = "resolved: " if first.what == "over" else ""
    return f"loginpipe, {queue}: {over}{kind(first.condition).title}{more}"[:_MAX_SUBJECT]


def text(queue: str, outbox: Outbox) -> str:
    """Return the text for a channel, one paragraph per event."""
    left_out = [f"{outbox.left_out} older alerts could not be delivered and were dropped."] if outbox.left_out else []
    return "\n\n".join([*left_out, *(_paragraph(queue, event) for event in outbox.pending)])


def _paragraph(queue: str, event: Event) -> str:
    of = kind(event.condition)
    if event.what == "over" and event.until is not None:
        lasted = f"From {_utc(event.since)} to {_utc(event.until)}, {_span(event.until - event.since)}."
        return f"loginpipe, queue {queue}: RESOLVED: {of.title}\n{lasted}"
    return (
        f"loginpipe, queue {queue}: {of.title}\n"
        f"Seen: {event.message}.\n"
        f"Since: {_utc(event.since)}.\n"
        f"Do: {of.todo}\n"
        f"Runbook: {runbook(of.anchor)}"
    )


def _utc(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _span(lasted: timedelta) -> str:
    minutes = round(lasted.total_seconds() / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"  # noqa: PLR2004


def _opener() -> "OpenerDirector":
    """Return an opener without redirects. It uses a proxy for https only: over http the proxy would see the URL."""
    from urllib.request import HTTPRedirectHandler, ProxyHandler, build_opener, getproxies

    class Stay(HTTPRedirectHandler):
        def redirect_request(self, *_: object) -> None:
            return None

    proxies = {scheme: proxy for scheme, proxy in getproxies().items() if scheme == "https"}
    return build_opener(ProxyHandler(proxies), Stay())


def _os_problem(error: object) -> str:
    code = getattr(error, "errno", None)
    return os.strerror(code) if isinstance(code, int) and code > 0 else type(error).__name__
