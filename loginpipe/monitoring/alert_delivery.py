"""Format and deliver alerts: counts, times and names, never a value from a login.

A failed delivery is reported in one line, with the name of a topic but without the URL of a webhook.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING
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
_GOOD = range(200, 300)
_ATTEMPTS = 2
# The limit of SNS.
_MAX_SUBJECT = 100


@dataclass(frozen=True)
class Channel:
    """A destination of alerts.

    Attributes:
        name: ``webhook`` or ``sns``.
        place: the destination without secrets, for messages.
        deliver: delivers a subject and a text. It raises AlertError if that fails or is not confirmed.
    """

    name: str
    place: str
    deliver: Callable[[str, str], None] = field(repr=False)


def channels(settings: Settings) -> Sequence[Channel]:
    """Return the configured channels."""
    found = []
    try:
        if url := alert_webhook_url(settings):
            place = f"webhook at {urlsplit(url).hostname}"
            found.append(Channel("webhook", place, partial(_post, url, place)))
    except SettingError as error:
        # Its alerts wait while the URL cannot be looked up; other channels still deliver theirs.
        found.append(Channel("webhook", "webhook", partial(_fail, str(error))))
    if arn := settings.alert_sns_topic:
        region, topic = arn.split(":")[3], arn.split(":")[5]
        place = f"SNS topic {topic} in {region}"
        deliver = partial(_publish, arn=arn, place=place, region=region, production=settings.production)
        found.append(Channel("sns", place, deliver))
    return found


def _post(url: str, place: str, _subject: str, text: str) -> None:
    """Post ``{"text": …}``, as an incoming webhook of Slack expects it. Do not follow redirects."""
    import json
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import Request

    # Slack uses these three characters for its markup.
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    headers = {"Content-Type": "application/json", "User-Agent": "loginpipe"}
    request = Request(url, json.dumps({"text": escaped}).encode(), headers, method="POST")  # noqa: S310
    try:
        with _opener().open(request, timeout=_SECONDS) as answer:
            status = answer.status
    except HTTPError as error:
        status = error.code
        error.close()
    except URLError as error:
        # Its text may quote the URL.
        raise AlertError(
            f"{place} is unreachable ({_os_problem(error.reason)}): check its URL and the network"
        ) from None
    except (OSError, HTTPException, ValueError) as error:
        raise AlertError(f"{place} gave no valid answer ({_os_problem(error)}): check its URL") from None
    if status not in _GOOD:
        raise AlertError(f"{place} answered with status {status}: check its URL")


def _publish(subject: str, text: str, *, arn: str, place: str, region: str, production: bool) -> None:
    """Publish to a standard topic in the region of its ARN. Credentials and endpoint are those of boto3."""
    wording = Wording(AlertError, place, grant="sns:Publish on it")
    client = aws_client("sns", wording, production=production, region=region, attempts=_ATTEMPTS, read_seconds=_SECONDS)
    with aws_errors(wording):
        client.publish(TopicArn=arn, Subject=subject, Message=text)


def _fail(problem: str, _subject: str, _text: str) -> None:
    raise AlertError(problem)


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
