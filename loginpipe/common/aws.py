"""What the clients of all AWS services share: what production demands of an endpoint, and faults of no service's own.

Each service has its own client, with its own words for its own refusals.
"""

from functools import cache
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from boto3.session import Session
    from botocore.client import BaseClient
    from botocore.loaders import Loader
    from botocore.session import Session as CoreSession

CREDENTIALS = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
"""Error codes of credentials that AWS refuses, whatever they were to be used for."""
UNAVAILABLE = frozenset({"502", "503", "504"})
"""What a proxy or a load balancer answers in an endpoint's place."""
LOCAL_FAULTS = {
    "NoRegionError": "no AWS region is set: set AWS_REGION",
    "NoCredentialsError": "no AWS credentials were found: give the task a role, or set AWS_PROFILE",
    "PartialCredentialsError": "the AWS credentials are incomplete: set AWS_SECRET_ACCESS_KEY too",
    "ProfileNotFound": "the profile in AWS_PROFILE does not exist: mend it",
}
"""botocore's errors about what is missing here, by class."""
MALFORMED = (ValueError, TypeError, LookupError, AttributeError)
"""What botocore, and our own reading, make of an answer that is not the service's."""
OUT_OF_REACH = "the endpoint cannot be reached: is it up, and are AWS_ENDPOINT_URL and AWS_REGION right?"


def aws_session(core: "CoreSession | None" = None) -> "Session":
    """Make a session, for one client: boto3's default one is shared between threads, and not safe for that.

    What botocore knows of regions and services is read once a process: of the 75 ms of CPU that a session and a client
    cost it is 66, and a sensor makes one every few seconds.

    Args:
        core: what to build it on, where the caller asks that for more than boto3 shows.

    Raises:
        botocore.exceptions.BotoCoreError: the profile in AWS_PROFILE does not exist.
    """
    # boto3 takes a third of a second to import: only for a program that talks to AWS.
    import boto3

    return boto3.session.Session(botocore_session=core or core_session())


def core_session() -> "CoreSession":
    """Make botocore's session: it knows the certificates that are trusted, which boto3's does not tell."""
    import botocore.session

    session = botocore.session.Session()
    session.register_component("data_loader", _models())
    return session


@cache
def _models() -> "Loader":
    import botocore.session

    loader: Loader = botocore.session.Session().get_component("data_loader")
    return loader


def endpoint_fault(client: "BaseClient") -> str | None:
    """Return what production has against a client's endpoint, in words, or None: it must be https, or on this machine.

    An endpoint is AWS's own, which is https, unless a variable or the profile names another.
    """
    url = urlsplit(client.meta.endpoint_url)
    if url.scheme == "https" or is_loopback(url.hostname or ""):
        return None
    variable = "AWS_ENDPOINT_URL_" + client.meta.service_model.service_id.upper().replace(" ", "_")
    return (
        f"production demands https to AWS, and the endpoint at {url.hostname} has none: set AWS_ENDPOINT_URL (or "
        f"{variable}, or the profile's endpoint_url) to an https:// URL, or unset it"
    )


def is_loopback(host: str) -> bool:
    """Say whether a host is this machine, by its name or address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
