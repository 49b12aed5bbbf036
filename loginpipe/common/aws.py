"""Clients of AWS services, all made in one place, and their errors as one line each, by error code.

Region, endpoint and credentials are boto3's. The retries of single calls are botocore's own: ``standard`` mode, with
exponential back-off and jitter. A service's own words for its own errors are given by its caller (`Wording`).
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from loginpipe.common.errors import LoginpipeError

if TYPE_CHECKING:
    from botocore.client import BaseClient
    from botocore.exceptions import ClientError
    from botocore.loaders import Loader
    from botocore.session import Session

# Calls in all, of which the first is none of the retries.
_ATTEMPTS = 5
CONNECT_SECONDS = 5
READ_SECONDS = 30
"""Longer than the longest long poll, 20 s."""
# botocore's default.
_CONNECTIONS = 10
# RDS takes no longer ones.
_TOKEN_SECONDS = 900
# Where the region comes from, the first that is set.
_REGION_VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION")

EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
"""Error codes of credentials that were good: a role's are renewed by themselves."""
THROTTLED = frozenset(
    {
        "429",
        "KMS.ThrottlingException",
        "KmsThrottled",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "Throttled",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
"""Error codes that pass by themselves, though some come as a 4xx."""

_ABSENT = frozenset(
    {
        "AWS.SimpleQueueService.NonExistentQueue",
        "NoSuchBucket",
        "NotFound",
        "NotFoundException",
        "ParameterNotFound",
        "QueueDoesNotExist",
        "ResourceNotFoundException",
    }
)
DENIED = frozenset(
    {
        "403",
        "AccessDenied",
        "AccessDeniedException",
        "AuthorizationError",
        "KMS.AccessDeniedException",
        "KMSAccessDenied",
        "KmsAccessDenied",
    }
)
"""Error codes of what the credentials may not do."""
_CREDENTIALS = EXPIRED | {
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidToken",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "UnrecognizedClientException",
}
_CLOCK = frozenset({"RequestExpired", "RequestInTheFuture", "RequestTimeTooSkewed"})
# What these codes are about is in the message alone: the clock, or the key that the request was signed with.
_SIGNATURE = frozenset(
    {"IncompleteSignature", "IncompleteSignatureException", "InvalidSignatureException", "SignatureDoesNotMatch"}
)
_REGION_MESSAGE = "Credential should be scoped to a valid"
_CLOCK_MESSAGES = ("Signature expired", "Signature not yet current")
# The numbers are what a proxy or a load balancer answers in an endpoint's place.
_UNAVAILABLE = frozenset(
    {
        "502",
        "503",
        "504",
        "DependencyTimeoutException",
        "InternalError",
        "InternalFailure",
        "InternalServiceError",
        "KMSInternalException",
        "ServiceUnavailable",
        "ServiceUnavailableException",
    }
)

_CLOCK_REASON = "cannot be used: AWS refuses the time of the request ({code}): set this machine's clock with NTP"
_SIGNATURE_REASON = (
    "cannot be used: AWS refuses the signature ({code}): set AWS_SECRET_ACCESS_KEY to the key that belongs to "
    "AWS_ACCESS_KEY_ID, and set this machine's clock with NTP"
)
_REGION_REASON = (
    "cannot be used: AWS refuses the region that requests are signed for ({code}): set AWS_REGION to the queue's or "
    "key's, in lower case"
)
_REASONS = (
    (_ABSENT, "does not exist in this account and region: {absent}"),
    (DENIED, "may not be used with these credentials ({code}): grant {grant}"),
    (_CREDENTIALS, "cannot be used: AWS refuses the credentials ({code}): renew them"),
    (_CLOCK, _CLOCK_REASON),
    (_SIGNATURE, _SIGNATURE_REASON),
    (THROTTLED, "is throttled by AWS ({code}): try again later"),
    (_UNAVAILABLE, "is unavailable for now (its endpoint answered {code}): try again later"),
)
_PROTOCOL = "is at an endpoint that does not answer as AWS does: fix AWS_ENDPOINT_URL, or unset it"
_UNREACHABLE = "the endpoint is unreachable: check that it is up, and check AWS_ENDPOINT_URL and AWS_REGION"

# botocore's errors about what is missing here, by class.
_LOCAL = {
    "NoRegionError": "no AWS region is set: set AWS_REGION",
    "NoCredentialsError": "no AWS credentials were found: give the task a role, or set AWS_PROFILE",
    "PartialCredentialsError": "the AWS credentials are incomplete: set AWS_SECRET_ACCESS_KEY too",
    "ProfileNotFound": "the profile in AWS_PROFILE does not exist: fix its name",
}

MALFORMED = (ValueError, TypeError, LookupError, AttributeError)
"""What botocore, and our own reading, make of an answer that is not the service's."""


@dataclass(frozen=True)
class Wording:
    """How the errors of a service are worded.

    Attributes:
        error: the class to raise.
        subject: what the calls are about, as in ``the KMS key alias/tokens``.
        absent: what to do where the subject does not exist.
        grant: what the credentials have to be granted.
        own: what the service's own codes, or botocore's classes of errors, mean of the subject.
        protocol: what to say of an endpoint whose answers cannot be read.
    """

    error: type[LoginpipeError]
    subject: str
    absent: str = "create it, or fix its name or AWS_REGION"
    grant: str = "what docs/aws.md lists"
    own: Mapping[str, str] = field(default_factory=dict)
    protocol: str = _PROTOCOL

    def of_code(self, code: str, message: str = "") -> LoginpipeError:
        """Return the error of a code that AWS answered with; the message is read, and never quoted."""
        return self.error(f"{self.subject} {self._reason(code, message)}")

    def _reason(self, code: str, message: str) -> str:
        if code in self.own:
            return self.own[code]
        if code in _SIGNATURE and message.startswith(_CLOCK_MESSAGES):
            return _CLOCK_REASON.format(code=code)
        if code in _SIGNATURE and message.startswith(_REGION_MESSAGE):
            return _REGION_REASON.format(code=code)
        for codes, reason in _REASONS:
            if code in codes:
                return reason.format(code=code, absent=self.absent, grant=self.grant)
        if code.isdecimal():
            return f"{self.protocol} (it answered {code})"
        return f"cannot be used: AWS answered {code or 'with an error'}"


@contextmanager
def aws_errors(wording: Wording) -> Iterator[None]:
    """Turn botocore's errors into one that names the subject and the fix."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        raise wording.of_code(error_code(error), str(error.response.get("Error", {}).get("Message", ""))) from None
    except BotoCoreError as error:
        name = type(error).__name__
        if name in wording.own:
            raise wording.of_code(name) from None
        raise wording.error(f"{wording.subject}: {_LOCAL.get(name, _UNREACHABLE)}") from None
    except MALFORMED:
        raise wording.error(f"{wording.subject} {wording.protocol}") from None


def error_code(error: "ClientError") -> str:
    """Return the error code of an answer; a bare HTTP status where its body was not what AWS sends."""
    return str(error.response.get("Error", {}).get("Code", ""))


def aws_client(
    service: str,
    wording: Wording,
    *,
    production: bool,
    region: str | None = None,
    attempts: int | None = None,
    read_seconds: float = READ_SECONDS,
    connections: int = _CONNECTIONS,
    session: "Session | None" = None,
    **options: Any,
) -> Any:
    """Make a client of a service.

    Args:
        service: boto3's name for it.
        wording: of the errors.
        production: refuse an endpoint that is neither https nor on this machine.
        region: instead of AWS_REGION.
        attempts: of each call, in all.
        read_seconds: longest time of waiting for an answer.
        connections: how many calls are made at once at most.
        session: of botocore, where the caller needs that too: it knows the credentials and the trusted certificates.
        options: further ones of botocore's ``Config``.

    Raises:
        The wording's error: no region or a malformed one, no such profile, an endpoint that is no URL, or not https in
            production.
    """
    # boto3 takes a third of a second to import: only for a program that talks to AWS.
    import boto3
    from botocore.config import Config
    from botocore.exceptions import InvalidRegionError

    retries: Any = {"mode": "standard", "total_max_attempts": attempts or _ATTEMPTS}
    config = Config(
        retries=retries,
        connect_timeout=CONNECT_SECONDS,
        read_timeout=read_seconds,
        max_pool_connections=connections,
        user_agent_extra="loginpipe",
        **options,
    )
    # boto3 itself reads AWS_DEFAULT_REGION only.
    variable = next((name for name in _REGION_VARIABLES if os.environ.get(name)), None)
    region = region or (os.environ[variable] if variable else None)
    malformed = wording.error(
        f"{wording.subject}: {variable or 'the region of the profile'} is not the name of a region: set it to one like "
        "eu-central-1, without spaces"
    )
    # botocore lets a line break at the end pass.
    if region and region != region.strip():
        raise malformed from None
    with aws_errors(wording):
        try:
            client: Any = boto3.session.Session(botocore_session=session or core_session()).client(
                service, region_name=region, config=config
            )  # type: ignore[call-overload]
        except InvalidRegionError:
            raise malformed from None
        except ValueError:
            raise wording.error(
                f"{wording.subject}: AWS_ENDPOINT_URL is not a URL: set it to https://host:port, or unset it"
            ) from None
    if production and (problem := endpoint_problem(client)):
        raise wording.error(f"{wording.subject}: {problem}")
    return client


def rds_token(host: str, port: str, user: str, error: type[LoginpipeError]) -> str:
    """Return what RDS takes as a user's password for 15 minutes. Made here: neither RDS nor another service is called.

    Raises:
        The given error: no credentials, or no region.
    """
    from botocore.awsrequest import prepare_request_dict
    from botocore.exceptions import NoCredentialsError, NoRegionError
    from botocore.model import ServiceId
    from botocore.signers import RequestSigner

    wording = Wording(error, f"the token for {user} at {host}")
    request: dict[str, Any] = {
        "url_path": "/",
        "query_string": "",
        "headers": {},
        "body": {"Action": "connect", "DBUser": user},
        "method": "GET",
    }
    prepare_request_dict(request, f"https://{host}:{port}")
    with aws_errors(wording):
        session = _session_of_tokens()
        region = next(filter(None, map(os.environ.get, _REGION_VARIABLES)), session.get_config_variable("region"))
        if not region:
            raise NoRegionError
        credentials = session.get_credentials()
        if credentials is None:
            raise NoCredentialsError
        events = session.get_component("event_emitter")
        signer = RequestSigner(ServiceId("RDS"), region, "rds-db", "v4", credentials, events)
        url = signer.generate_presigned_url(request, "connect", region_name=region, expires_in=_TOKEN_SECONDS)
    return str(url).removeprefix("https://")


@cache
def _session_of_tokens() -> "Session":
    # One a process: Dagster connects for each question that it asks of its storage, and credentials renew themselves.
    return core_session()


def core_session() -> "Session":
    """Make botocore's session, for one client: boto3's default one is shared between threads, and not safe for that.

    What botocore knows of regions and services is read once a process: of the 75 ms of CPU that a session and a client
    cost it is 66, and a sensor makes one every few seconds.
    """
    import botocore.session

    session = botocore.session.Session()
    session.register_component("data_loader", _models())
    return session


@cache
def _models() -> "Loader":
    import botocore.session

    loader: Loader = botocore.session.Session().get_component("data_loader")
    return loader


def endpoint_problem(client: "BaseClient") -> str | None:
    """Return why production refuses a client's endpoint, or None: it must be https, or on this machine.

    An endpoint is AWS's own, which is https, unless a variable or the profile names another.
    """
    url = urlsplit(client.meta.endpoint_url)
    if url.scheme == "https" or is_loopback(url.hostname or ""):
        return None
    variable = "AWS_ENDPOINT_URL_" + client.meta.service_model.service_id.upper().replace(" ", "_")
    return (
        f"production requires https for AWS, and the endpoint at {url.hostname} does not use it: set AWS_ENDPOINT_URL "
        f"(or {variable}, or the profile's endpoint_url) to an https:// URL, or unset it"
    )


def is_loopback(host: str) -> bool:
    """Say whether a host is this machine, by its name or address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
