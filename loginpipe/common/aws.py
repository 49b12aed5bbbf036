"""Create all clients of AWS services, and turn their errors into one line each, by error code.

Region, endpoint and credentials are those of boto3. Retries of single calls are those of botocore: ``standard`` mode,
with exponential back-off and jitter. Callers give the wording for a service's own errors (`Wording`).
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


# Total attempts, including the first call.
_ATTEMPTS = 5
CONNECT_SECONDS = 5
READ_SECONDS = 30
"""More than the longest long poll, 20 s."""
# botocore's default.
_CONNECTIONS = 10
# The maximum that RDS accepts.
_TOKEN_SECONDS = 900
# The sources of the region. The first one that is set counts.
_REGION_VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION")

EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
"""Error codes of expired credentials. The credentials of a role renew themselves."""
THROTTLED = frozenset({
    "429", "KMS.ThrottlingException", "KmsThrottled", "RequestLimitExceeded", "RequestThrottled",
    "RequestThrottledException", "SlowDown", "Throttled", "ThrottledException", "Throttling", "ThrottlingException",
    "TooManyRequestsException",
})  # fmt: skip
"""Error codes that are transient, although some come as a 4xx."""

_ABSENT = frozenset({
    "AWS.SimpleQueueService.NonExistentQueue", "NoSuchBucket", "NotFound", "NotFoundException", "ParameterNotFound",
    "QueueDoesNotExist", "ResourceNotFoundException",
})  # fmt: skip
DENIED = frozenset({
    "403", "AccessDenied", "AccessDeniedException", "AuthorizationError", "KMS.AccessDeniedException",
    "KMSAccessDenied", "KmsAccessDenied",
})  # fmt: skip
"""Error codes of missing permissions."""
_CREDENTIALS = EXPIRED | {
    "InvalidAccessKeyId", "InvalidClientTokenId", "InvalidToken", "MissingAuthenticationToken",
    "MissingAuthenticationTokenException", "UnrecognizedClientException",
}  # fmt: skip
_CLOCK = frozenset({"RequestExpired", "RequestInTheFuture", "RequestTimeTooSkewed"})
# Only the message of these errors names the cause: the clock, the region or the signing key.
_SIGNATURE = frozenset(
    {"IncompleteSignature", "IncompleteSignatureException", "InvalidSignatureException", "SignatureDoesNotMatch"}
)
_REGION_MESSAGE = "Credential should be scoped to a valid"
_CLOCK_MESSAGES = ("Signature expired", "Signature not yet current")
# The numbers come from a proxy or a load balancer in front of an endpoint.
_UNAVAILABLE = frozenset({
    "502", "503", "504", "DependencyTimeoutException", "InternalError", "InternalFailure", "InternalServiceError",
    "KMSInternalException", "ServiceUnavailable", "ServiceUnavailableException",
})  # fmt: skip

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

# Class of a botocore error about local configuration → its message.
_LOCAL = {
    "NoRegionError": "no AWS region is set: set AWS_REGION",
    "NoCredentialsError": "no AWS credentials were found: give the task a role, or set AWS_PROFILE",
    "PartialCredentialsError": "the AWS credentials are incomplete: set AWS_SECRET_ACCESS_KEY too",
    "ProfileNotFound": "the profile in AWS_PROFILE does not exist: fix its name",
}

MALFORMED = (ValueError, TypeError, LookupError, AttributeError)
"""Errors of botocore and of our own parsing for a response that does not come from the service."""


@dataclass(frozen=True)
class Wording:
    """The wording of a service's errors.

    Attributes:
        error: the class to raise.
        subject: what the calls concern, as in ``the KMS key alias/tokens``.
        absent: the fix if the subject does not exist.
        grant: the permissions that the credentials need.
        own: error code of the service, or class of a botocore error → what it means for the subject.
        protocol: the message for an endpoint whose responses cannot be parsed.
    """

    error: type[LoginpipeError]
    subject: str
    absent: str = "create it, or fix its name or AWS_REGION"
    grant: str = "what docs/aws.md lists"
    own: Mapping[str, str] = field(default_factory=dict)
    protocol: str = _PROTOCOL

    def of_code(self, code: str, message: str = "") -> LoginpipeError:
        """Return the error for an error code of AWS. The message is parsed but never quoted."""
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
    """Return the error code of a response, or its HTTP status if the body is not from AWS."""
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
    """Return a client of a service, by boto3's name, for up to ``connections`` concurrent calls.

    Wrong settings raise the wording's error. Production refuses an endpoint that is neither https nor on this machine.
    ``region`` overrides AWS_REGION. ``attempts`` includes the first call. Pass a ``session`` if you need its
    credentials and trusted certificates. ``options`` are further ones of botocore's ``Config``.
    """
    # The import of boto3 takes a third of a second, so only programs that use AWS pay for it.
    import boto3
    from botocore.config import Config
    from botocore.exceptions import InvalidRegionError

    config = Config(
        retries={"mode": "standard", "total_max_attempts": attempts or _ATTEMPTS},
        connect_timeout=CONNECT_SECONDS,
        read_timeout=read_seconds,
        max_pool_connections=connections,
        user_agent_extra="loginpipe",
        **options,
    )
    # boto3 itself reads only AWS_DEFAULT_REGION.
    variable = next((name for name in _REGION_VARIABLES if os.environ.get(name)), None)
    region = region or (os.environ[variable] if variable else None)
    malformed = wording.error(
        f"{wording.subject}: {variable or 'the region of the profile'} is not the name of a region: set it to one like "
        "eu-central-1, without spaces"
    )
    # botocore accepts a final line break.
    if region and region != region.strip():
        raise malformed from None
    with aws_errors(wording):
        try:
            boto3_session: Any = boto3.session.Session(botocore_session=session or core_session())
            client = boto3_session.client(service, region_name=region, config=config)
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
    """Return a token that RDS accepts as a user's password for 15 minutes, or raise the given error.

    It is signed locally, without any call.
    """
    from botocore.awsrequest import prepare_request_dict
    from botocore.exceptions import NoCredentialsError, NoRegionError
    from botocore.model import ServiceId
    from botocore.signers import RequestSigner

    body = {"Action": "connect", "DBUser": user}
    request: dict[str, Any] = {"url_path": "/", "query_string": "", "headers": {}, "body": body, "method": "GET"}
    prepare_request_dict(request, f"https://{host}:{port}")
    with aws_errors(Wording(error, f"the token for {user} at {host}")):
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


def core_session() -> "Session":
    """Return a new botocore session for one client. boto3's default session is shared, but not thread-safe.

    The data of regions and services is read once per process. It is 66 of the 75 ms of CPU that a session and a client
    cost, and a sensor makes them every few seconds.
    """
    import botocore.session

    session = botocore.session.Session()
    session.register_component("data_loader", _models())
    return session


# One per process, because Dagster connects for each query of its storage. Credentials renew themselves.
_session_of_tokens = cache(core_session)


@cache
def _models() -> "Loader":
    import botocore.session

    loader: Loader = botocore.session.Session().get_component("data_loader")
    return loader


def endpoint_problem(client: "BaseClient") -> str | None:
    """Return why production refuses a client's endpoint, or None if it is https or on this machine.

    Endpoints of AWS are https. A variable or the profile can name another endpoint.
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
    """Return True if a host name or address is this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
