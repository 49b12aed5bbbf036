"""Alerts by a webhook. A delivery that fails is one line, without the address."""

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from loginpipe.common.errors import AlertError

if TYPE_CHECKING:
    from urllib.request import OpenerDirector

# Longest wait for a connection, and for an answer: a tick of the sensor has a minute for everything.
_SECONDS = 5
_GOOD = range(200, 300)


@dataclass(frozen=True)
class Webhook:
    """A receiver of ``{"text": …}``, as Slack's incoming webhooks are.

    Attributes:
        url: a secret: whoever has it can write to the channel behind it.
    """

    url: str = field(repr=False)
    name: str = "webhook"

    @property
    def place(self) -> str:
        """The host alone."""
        return f"webhook at {urlsplit(self.url).hostname}"

    def deliver(self, subject: str, text: str) -> None:  # noqa: ARG002 - the text says it too
        """Post the text.

        Raises:
            AlertError: no answer, or one that is not 2xx; a redirection is not followed.
        """
        import json
        from http.client import HTTPException
        from urllib.error import HTTPError, URLError
        from urllib.request import Request

        # Slack takes these three for its own marks.
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
            # Its text can quote the address.
            raise AlertError(f"{self.place} cannot be reached ({_os_fault(error.reason)})") from None
        except (OSError, HTTPException, ValueError) as error:
            raise AlertError(f"{self.place} does not answer as it should ({_os_fault(error)})") from None
        if status not in _GOOD:
            raise AlertError(f"{self.place} answered {status}")


def _opener() -> "OpenerDirector":
    """Return what follows no redirection, and uses a proxy for https only, as it would see the address otherwise."""
    from urllib.request import HTTPRedirectHandler, ProxyHandler, build_opener, getproxies

    class Stay(HTTPRedirectHandler):
        def redirect_request(self, *_: object) -> None:
            return None

    proxies = {scheme: proxy for scheme, proxy in getproxies().items() if scheme == "https"}
    return build_opener(ProxyHandler(proxies), Stay())


def _os_fault(error: object) -> str:
    code = getattr(error, "errno", None)
    return os.strerror(code) if isinstance(code, int) and code > 0 else type(error).__name__
