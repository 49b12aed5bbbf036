"""Our signature is the same as botocore's."""

import time
from datetime import UTC, datetime
from unittest.mock import patch

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials, ReadOnlyCredentials
from hypothesis import given, settings
from hypothesis import strategies as st

from loginpipe.sqs.lean_client import Signer

SIGNED_BY_BOTOCORE_TOO = ("Content-Type", "X-Amz-Target")

words = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60)


def headers(head: bytes) -> dict[str, str]:
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST / HTTP/1.1"
    assert lines[-2:] == ["", ""]
    return dict(line.split(": ", 1) for line in lines[1:-2])


def by_botocore(ours: dict[str, str], body: bytes, credentials: Credentials, region: str, at: float) -> dict[str, str]:
    """Return the headers that botocore adds to the same request at the same moment."""
    kept = {name: ours[name] for name in SIGNED_BY_BOTOCORE_TOO}
    request = AWSRequest("POST", f"https://{ours['Host']}/", headers=kept, data=body)
    moment = datetime.fromtimestamp(at, UTC)
    # Versions of botocore take the time from different places.
    with patch("botocore.auth.get_current_datetime", return_value=moment.replace(tzinfo=None)):
        SigV4Auth(credentials, "sqs", region).add_auth(request)
    return dict(request.headers.items())


@settings(deadline=None, print_blob=True)
@given(
    body=st.binary(max_size=200),
    keys=st.builds(ReadOnlyCredentials, words, words, st.none() | words),
    region=st.sampled_from(["us-east-1", "eu-central-1", "us-gov-west-1"]),
    at=st.integers(min_value=0, max_value=4_000_000_000),
)
def test_the_signature_is_the_one_of_botocore(body: bytes, keys: ReadOnlyCredentials, region: str, at: int) -> None:
    with patch.object(time, "time", return_value=at):
        head = Signer("sqs.example.com:8080", region, "agent/1").head("AmazonSQS.ReceiveMessage", body, keys)
    ours = headers(head)
    theirs = by_botocore(ours, body, Credentials(*keys[:3]), region, at)
    assert ours["X-Amz-Date"] == theirs["X-Amz-Date"]
    assert ours.get("X-Amz-Security-Token") == theirs.get("X-Amz-Security-Token") == keys.token
    assert ours["Authorization"] == theirs["Authorization"]
    assert ours["Content-Length"] == str(len(body))
    assert ours["User-Agent"] == "agent/1"


def test_a_new_day_has_a_new_key() -> None:
    def signed(at: float) -> str:
        with patch.object(time, "time", return_value=at):
            head = Signer("sqs.example.com", "us-east-1", "a").head(
                "T", b"", ReadOnlyCredentials("key", "secret", None)
            )
            return headers(head)["Authorization"]

    before, after = signed(86_399), signed(86_400)
    assert "/19700101/" in before
    assert "/19700102/" in after
    assert before.rpartition("=")[2] != after.rpartition("=")[2]
