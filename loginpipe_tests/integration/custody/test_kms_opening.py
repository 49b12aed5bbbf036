"""Opening with a key in AWS KMS, on the embedded endpoint: as with a file, and each refusal has its own code."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from loginpipe.common.errors import KeyFileError, OpeningError
from loginpipe.custody.access import request_access
from loginpipe.custody.opening import Opener, Problem
from loginpipe.custody.private_keys import load_opener
from loginpipe.custody.recovery import Recovery, recover
from loginpipe.custody.token_checks import TokenChecks
from loginpipe.masking.keys import load_seal_keys
from loginpipe.masking.sealing import OAEP, SealKey, WrappedDataKey
from loginpipe.postgres.connections import Connection
from loginpipe_tests.custody import REASON, Store, ask_no_passphrase
from loginpipe_tests.kms import seal_key
from loginpipe_tests.wire import PLAIN_WEB_SERVER, Answer, Wire, answers, login, refusal, success

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

DATA_KEY = bytes(range(32))


@pytest.fixture
def alias(kms: "KMSClient") -> str:
    """Return the alias of an RSA key in KMS."""
    return seal_key(kms)


def public(alias: str) -> SealKey:
    (key,) = load_seal_keys(f"awskms:{alias}", fingerprint=None, production=False)
    return key


def opener_in_kms(alias: str) -> Opener:
    return load_opener([f"awskms:{alias}"], production=False, passphrase=ask_no_passphrase)


def wrapped(key: SealKey, data_key: bytes = DATA_KEY) -> WrappedDataKey:
    return WrappedDataKey(uuid4(), key.fingerprint, key.public_key.encrypt(data_key, OAEP))


def recovered(connection: Connection, store: Store, opener: Opener, *asked: str) -> Recovery:
    request = request_access(connection, asked, REASON)
    return recover(connection, request.request_id, opener, TokenChecks(store.keys), limit=10)


def test_what_was_sealed_for_a_key_in_kms_is_recovered_with_it(store: Store, custodian: Connection, alias: str) -> None:
    (tokens,) = replace(store, recipients=(public(alias),)).load(login())
    recovery = recovered(custodian, store, opener_in_kms(alias), *tokens)
    assert [value.text for value in recovery.recovered] == ["199.172.111.135", "593-47-5928"]


def test_sealed_for_both_it_opens_with_the_file_and_with_kms(
    store: Store, custodian: Connection, opener: Opener, alias: str
) -> None:
    ((ip, _),) = replace(store, recipients=(public(alias), *store.recipients)).load(login())
    for each in (opener, opener_in_kms(alias)):
        assert [value.text for value in recovered(custodian, store, each, ip).recovered] == ["199.172.111.135"]


def test_kms_is_asked_once_a_data_key_however_many_values_it_sealed(
    store: Store, custodian: Connection, kms_wire: Wire, alias: str
) -> None:
    sealed_for_kms = replace(store, recipients=(public(alias),))
    tokens = [device for _, device in sealed_for_kms.load(*(login(device_id=f"device-{n}") for n in range(8)))]
    tokens += [device for _, device in sealed_for_kms.load(login(device_id="another"))]
    opener = opener_in_kms(alias)
    assert len(recovered(custodian, store, opener, *tokens).recovered) == 9
    asked = kms_wire.asked("Decrypt")
    assert len(asked) == 2
    assert {request["EncryptionAlgorithm"] for request in asked} == {"RSAES_OAEP_SHA_256"}


@pytest.mark.parametrize("by", ["KeyId", "Arn"])
def test_a_key_may_be_named_by_its_id_and_by_its_arn(kms: "KMSClient", alias: str, by: str) -> None:
    name = kms.describe_key(KeyId=alias)["KeyMetadata"][by]  # type: ignore[literal-required]
    assert opener_in_kms(name).unwrap([wrapped(public(alias))]) == DATA_KEY


def test_a_wrapped_key_that_was_changed_is_no_problem_of_kms(alias: str) -> None:
    key, opener = public(alias), opener_in_kms(alias)
    good = wrapped(key)
    flipped = bytes([good.wrapped_key[0] ^ 1]) + good.wrapped_key[1:]
    for changed in (replace(good, wrapped_key=flipped), wrapped(key, b"short")):
        with pytest.raises(OpeningError) as caught:
            opener.unwrap([changed])
        assert caught.value.problem == Problem.CHANGED


def test_a_data_key_for_another_key_does_not_reach_kms(kms_wire: Wire, alias: str, store: Store) -> None:
    opener = opener_in_kms(alias)
    with pytest.raises(OpeningError) as caught:
        opener.unwrap([wrapped(store.recipients[0])])
    assert caught.value.problem == Problem.OTHER_RECIPIENT
    assert kms_wire.asked("Decrypt") == []


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(KeyFileError) as caught:
        call()
    assert caught.value.__cause__ is None
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_key_that_was_disabled_since_is_named(kms: "KMSClient", alias: str) -> None:
    key, opener = public(alias), opener_in_kms(alias)
    kms.disable_key(KeyId=kms.describe_key(KeyId=alias)["KeyMetadata"]["KeyId"])
    assert refused(lambda: opener.unwrap([wrapped(key)])) == (
        f"the KMS key {alias} is disabled: enable it, or name another"
    )
    assert "is not enabled" in refused(lambda: opener_in_kms(alias))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            refusal("AccessDeniedException"),
            "may not be used with these credentials (AccessDeniedException): grant kms:Decrypt",
        ),
        (refusal("ExpiredTokenException"), "cannot be used: AWS refuses the credentials"),
        (refusal("KMSInvalidStateException"), "cannot be used in the state it is in"),
        (refusal("KeyUnavailableException", 500), "is not available at the moment: try again later"),
        (refusal("NotFoundException"), "does not exist in this account and region"),
        (refusal("503", 503), "is unavailable for now"),
        (PLAIN_WEB_SERVER, "is at an endpoint that does not answer as AWS does"),
        (success({}), "is at an endpoint that does not answer as AWS does"),
    ],
    ids=["denied", "credentials", "state", "unavailable", "absent", "proxy", "web server", "empty"],
)
def test_each_refusal_is_told_by_its_code_in_one_line(kms_wire: Wire, alias: str, answer: Answer, said: str) -> None:
    key, opener = public(alias), opener_in_kms(alias)
    kms_wire.on("Decrypt", answers(answer))
    assert f"the KMS key {alias} {said}" in refused(lambda: opener.unwrap([wrapped(key)]))


def test_a_refusal_of_kms_ends_a_recovery_and_the_request_is_on_record(
    store: Store, custodian: Connection, kms_wire: Wire, alias: str
) -> None:
    (tokens,) = replace(store, recipients=(public(alias),)).load(login())
    opener = opener_in_kms(alias)
    kms_wire.on("Decrypt", answers(refusal("AccessDeniedException")))
    refused(lambda: recovered(custodian, store, opener, *tokens))
    assert [action for _, action, _ in store.log()] == ["request", "release"]


def test_production_wants_https(kms_wire: Wire, alias: str, monkeypatch: pytest.MonkeyPatch) -> None:
    load: Any = load_opener
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", "http://kms.example.com")
    said = refused(lambda: load([f"awskms:{alias}"], production=True, passphrase=ask_no_passphrase))
    assert "production requires https for AWS" in said
