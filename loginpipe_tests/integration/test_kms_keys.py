"""Keys in AWS KMS, on the embedded endpoint: the same tokens as with a file, one way to open, and each refusal."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from loginpipe.common.errors import KeyFileError
from loginpipe.custody.opening import open_value, unwrap
from loginpipe.masking.key_files import read_seal_key
from loginpipe.masking.keys import load_seal_keys, load_token_keys, rotate_token_keys
from loginpipe.masking.sealing import Sealed, SealKey, seal
from loginpipe.masking.tokens import TokenKeys, derive_field_keys
from loginpipe_tests.conftest import KeyFiles
from loginpipe_tests.kms import named, new_key, seal_key, token_key
from loginpipe_tests.wire import PLAIN_WEB_SERVER, Wire, answers, refusal, success

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

MATERIAL = bytes(range(32))
SECRET = b"199.172.111.135"


def imported_token_key(kms: "KMSClient", material: bytes) -> str:
    key_id = kms.create_key(KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC", Origin="EXTERNAL")["KeyMetadata"][
        "KeyId"
    ]
    to_import = kms.get_parameters_for_import(
        KeyId=key_id, WrappingAlgorithm="RSAES_OAEP_SHA_256", WrappingKeySpec="RSA_2048"
    )
    wrapping_key = serialization.load_der_public_key(to_import["PublicKey"])
    assert isinstance(wrapping_key, rsa.RSAPublicKey)
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    kms.import_key_material(
        KeyId=key_id,
        ImportToken=to_import["ImportToken"],
        EncryptedKeyMaterial=wrapping_key.encrypt(material, oaep),
        ExpirationModel="KEY_MATERIAL_DOES_NOT_EXPIRE",
    )
    return named(kms, key_id)


def refused(load: Callable[[], object]) -> str:
    """Return the one line of a failed load; check that boto3's error is not attached to it."""
    with pytest.raises(KeyFileError) as caught:
        load()
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- token keys -------------------------------------------------------------------------------------------------------


def test_a_key_in_kms_makes_the_tokens_that_a_file_with_the_same_key_makes(kms: "KMSClient") -> None:
    keys = load_token_keys(f"awskms:{imported_token_key(kms, MATERIAL)}", production=True)
    assert keys == TokenKeys(1, {1: derive_field_keys(MATERIAL)})
    assert keys.tokens("ip", [bytes([199, 172, 111, 135])]) == ["ip.v1.2AfzR3o0qJtJJfL3mnNip7js1AzUruuewBbX9C9xXL0"]


def test_of_several_versions_the_highest_is_the_current_one(kms: "KMSClient") -> None:
    other = bytes(32)
    one, two = imported_token_key(kms, MATERIAL), imported_token_key(kms, other)
    keys = load_token_keys(f"awskms:v2={two},v1={one}", production=False)
    assert keys == TokenKeys(2, {1: derive_field_keys(MATERIAL), 2: derive_field_keys(other)})


def test_kms_is_asked_once_for_each_field_and_version_and_looked_at_once_a_version(
    kms: "KMSClient", kms_wire: Wire
) -> None:
    load_token_keys(f"awskms:v1={token_key(kms)},v2={token_key(kms)}", production=False)
    assert len(kms_wire.asked("GenerateMac")) == 6
    assert len(kms_wire.asked("DescribeKey")) == 2
    assert {call.action for call in kms_wire.calls} == {"GenerateMac", "DescribeKey"}


@pytest.mark.parametrize("by", ["KeyId", "Arn"])
def test_a_key_may_be_named_by_its_id_and_by_its_arn(kms: "KMSClient", by: str) -> None:
    alias = token_key(kms)
    name = kms.describe_key(KeyId=alias)["KeyMetadata"][by]  # type: ignore[literal-required]
    assert load_token_keys(f"awskms:{name}", production=False) == load_token_keys(f"awskms:{alias}", production=False)


def test_two_versions_that_are_one_key_are_no_rotation(kms: "KMSClient") -> None:
    alias = token_key(kms)
    again = named(kms, kms.describe_key(KeyId=alias)["KeyMetadata"]["KeyId"])
    assert refused(lambda: load_token_keys(f"awskms:v1={alias},v2={again}", production=False)).startswith(
        "two versions of LOGINPIPE_TOKEN_KEYS are one KMS key: "
    )


def test_the_current_one_of_two_versions_must_be_enabled_too(kms: "KMSClient") -> None:
    one, two = token_key(kms), token_key(kms)
    kms.disable_key(KeyId=kms.describe_key(KeyId=two)["KeyMetadata"]["KeyId"])
    assert two in refused(lambda: load_token_keys(f"awskms:v1={one},v2={two}", production=False))


def test_keys_in_kms_are_not_rotated_here_but_it_is_said_how() -> None:
    message = refused(lambda: rotate_token_keys("awskms:alias/one", production=False))
    assert "make an HMAC_256 key for GENERATE_VERIFY_MAC" in message
    assert message.endswith("set LOGINPIPE_TOKEN_KEYS to awskms:v1=alias/one,v2=alias/tokens-2")
    message = refused(lambda: rotate_token_keys("awskms:v1=alias/one,v3=alias/three", production=False))
    assert message.endswith("awskms:v1=alias/one,v3=alias/three,v4=alias/tokens-4")


# --- the seal key -----------------------------------------------------------------------------------------------------


def only(sealed: Sealed, fingerprint: str) -> bytes:
    (wrapped,) = (key.wrapped_key for key in sealed.data_keys if key.recipient == fingerprint)
    return wrapped


def test_what_is_sealed_with_a_key_of_kms_opens_by_its_decrypt(kms: "KMSClient") -> None:
    alias = seal_key(kms)
    (recipient,) = load_seal_keys(f"awskms:{alias}", fingerprint=None, production=False)
    sealed = seal([("token", SECRET)], "ip", [recipient])
    data_key = kms.decrypt(
        KeyId=alias,
        CiphertextBlob=only(sealed, recipient.fingerprint),
        EncryptionAlgorithm="RSAES_OAEP_SHA_256",
    )["Plaintext"]
    assert open_value(sealed.values[0], data_key, [recipient.fingerprint]) == SECRET


def test_the_key_of_kms_and_the_offline_one_open_the_same_value(kms: "KMSClient", key_files: KeyFiles) -> None:
    alias = seal_key(kms)
    offline = read_seal_key(key_files.seal_public)
    uris = f"awskms:{alias},file:{key_files.seal_public}"
    unpinned = load_seal_keys(uris, fingerprint=None, production=False)
    fingerprints = [key.fingerprint for key in unpinned]
    recipients = load_seal_keys(uris, fingerprint=",".join(reversed(fingerprints)), production=True)
    assert recipients == unpinned
    assert recipients[1] == offline
    sealed = seal([("token", SECRET)], "ip", recipients)
    by_kms = kms.decrypt(
        KeyId=alias, CiphertextBlob=only(sealed, fingerprints[0]), EncryptionAlgorithm="RSAES_OAEP_SHA_256"
    )["Plaintext"]
    private = serialization.load_pem_private_key(key_files.seal_private.read_bytes(), None)
    assert isinstance(private, rsa.RSAPrivateKey)
    (wrapped,) = (key for key in sealed.data_keys if key.recipient == offline.fingerprint)
    assert unwrap(wrapped, private) == by_kms
    assert open_value(sealed.values[0], by_kms, fingerprints) == SECRET


def test_the_pipeline_asks_kms_for_the_public_half_and_for_nothing_else(kms: "KMSClient", kms_wire: Wire) -> None:
    (recipient,) = load_seal_keys(f"awskms:{seal_key(kms)}", fingerprint=None, production=False)
    seal([("token", SECRET)] * 300, "ip", [recipient])
    assert [call.action for call in kms_wire.calls] == ["DescribeKey", "GetPublicKey"]


def test_an_alias_that_was_moved_to_another_key_is_noticed(kms: "KMSClient") -> None:
    alias, other = seal_key(kms), seal_key(kms)
    (recipient,) = load_seal_keys(f"awskms:{alias}", fingerprint=None, production=False)
    kms.update_alias(AliasName=alias, TargetKeyId=kms.describe_key(KeyId=other)["KeyMetadata"]["KeyId"])
    message = refused(lambda: load_seal_keys(f"awskms:{alias}", fingerprint=recipient.fingerprint, production=False))
    assert message.startswith(f"the KMS key {alias} has the fingerprint ")
    assert "the key was swapped" in message


# --- refusals, each with its own message ------------------------------------------------------------------------------

LOADS: dict[str, Callable[[str], object]] = {
    "token keys": lambda name: load_token_keys(f"awskms:{name}", production=False),
    "seal key": lambda name: load_seal_keys(f"awskms:{name}", fingerprint=None, production=False),
}
MAKES: "dict[str, Callable[[KMSClient], str]]" = {"token keys": token_key, "seal key": seal_key}

each = pytest.mark.parametrize("which", LOADS)


@each
def test_a_key_that_does_not_exist(kms: "KMSClient", which: str) -> None:
    assert refused(lambda: LOADS[which]("alias/nothing")) == (
        "the KMS key alias/nothing does not exist in this account and region: create it, or fix its name or AWS_REGION"
    )


@each
def test_a_key_that_is_disabled(kms: "KMSClient", which: str) -> None:
    alias = MAKES[which](kms)
    kms.disable_key(KeyId=kms.describe_key(KeyId=alias)["KeyMetadata"]["KeyId"])
    assert refused(lambda: LOADS[which](alias)) == (
        f"the KMS key {alias} is not enabled, its state is Disabled: enable it, or name another"
    )


@each
def test_a_key_that_is_to_be_deleted(kms: "KMSClient", which: str) -> None:
    alias = MAKES[which](kms)
    kms.schedule_key_deletion(KeyId=kms.describe_key(KeyId=alias)["KeyMetadata"]["KeyId"], PendingWindowInDays=7)
    assert "its state is PendingDeletion" in refused(lambda: LOADS[which](alias))


@pytest.mark.parametrize(
    ("which", "action", "wanted"),
    [
        ("token keys", "DescribeKey", "kms:DescribeKey and kms:GenerateMac"),
        ("token keys", "GenerateMac", "kms:DescribeKey and kms:GenerateMac"),
        ("seal key", "DescribeKey", "kms:DescribeKey and kms:GetPublicKey"),
        ("seal key", "GetPublicKey", "kms:DescribeKey and kms:GetPublicKey"),
    ],
)
def test_a_key_that_these_credentials_may_not_use(
    kms: "KMSClient", kms_wire: Wire, which: str, action: str, wanted: str
) -> None:
    alias = MAKES[which](kms)
    kms_wire.on(action, answers(refusal("AccessDeniedException")))
    assert refused(lambda: LOADS[which](alias)) == (
        f"the KMS key {alias} may not be used with these credentials (AccessDeniedException): grant {wanted}"
    )


@pytest.mark.parametrize(
    ("spec", "usage"), [("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT"), ("HMAC_512", "GENERATE_VERIFY_MAC")]
)
def test_token_keys_of_another_kind(kms: "KMSClient", spec: str, usage: str) -> None:
    alias = new_key(kms, spec, usage)
    assert refused(lambda: LOADS["token keys"](alias)) == (
        f"the KMS key {alias} is of {spec} for {usage}: name one of HMAC_256 for GENERATE_VERIFY_MAC"
    )


@pytest.mark.parametrize(
    ("spec", "usage"),
    [
        ("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT"),
        ("HMAC_256", "GENERATE_VERIFY_MAC"),
        ("RSA_3072", "SIGN_VERIFY"),
        ("ECC_NIST_P256", "SIGN_VERIFY"),
    ],
)
def test_a_seal_key_of_another_kind(kms: "KMSClient", spec: str, usage: str) -> None:
    alias = new_key(kms, spec, usage)
    assert refused(lambda: LOADS["seal key"](alias)) == (
        f"the KMS key {alias} is of {spec} for {usage}: name one of RSA_3072 for ENCRYPT_DECRYPT"
    )


def test_a_seal_key_that_is_too_short(kms: "KMSClient") -> None:
    alias = new_key(kms, "RSA_2048", "ENCRYPT_DECRYPT")
    assert refused(lambda: LOADS["seal key"](alias)) == (
        f"the KMS key {alias} must be an RSA key of 3072 bits or more: make one of RSA_3072"
    )


def test_a_longer_seal_key_is_taken(kms: "KMSClient") -> None:
    alias = new_key(kms, "RSA_4096", "ENCRYPT_DECRYPT")
    (recipient,) = load_seal_keys(f"awskms:{alias}", fingerprint=None, production=False)
    assert isinstance(recipient, SealKey)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("DisabledException", "is disabled: enable it, or name another"),
        ("KMSInvalidStateException", "cannot be used in the state it is in: "),
        ("InvalidKeyUsageException", "is for another use: "),
        ("InvalidArnException", "is no name of a key: "),
        ("KeyUnavailableException", "is not available at the moment: try again later"),
        ("ExpiredTokenException", "cannot be used: AWS refuses the credentials (ExpiredTokenException): renew them"),
        ("InvalidSignatureException", "cannot be used: AWS refuses the signature (InvalidSignatureException): "),
        ("ThrottlingException", "is throttled by AWS (ThrottlingException): try again later"),
        ("KMSInternalException", "is unavailable for now (its endpoint answered KMSInternalException): "),
        ("Unheard", "cannot be used: AWS answered Unheard"),
    ],
)
def test_what_aws_may_still_answer_is_told_apart(kms: "KMSClient", kms_wire: Wire, code: str, said: str) -> None:
    """The key is checked first and used later. It can be disabled in between."""
    alias = token_key(kms)
    kms_wire.on("GenerateMac", answers(refusal(code)))
    assert refused(lambda: LOADS["token keys"](alias)).startswith(f"the KMS key {alias} {said}")


@each
def test_an_endpoint_that_is_no_kms(kms: "KMSClient", kms_wire: Wire, which: str) -> None:
    kms_wire.on("*", answers(PLAIN_WEB_SERVER))
    assert refused(lambda: LOADS[which]("alias/a")) == (
        "the KMS key alias/a is at an endpoint that does not answer as AWS does: fix AWS_ENDPOINT_URL, or unset it"
    )


@each
def test_an_endpoint_out_of_reach(kms: "KMSClient", monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    monkeypatch.setattr("loginpipe.common.aws._ATTEMPTS", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", "http://127.0.0.1:1")
    assert refused(lambda: LOADS[which]("alias/a")).startswith("the KMS key alias/a: the endpoint is unreachable: ")


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("AWS_REGION", "", "KMS: no AWS region is set: set AWS_REGION"),
        ("AWS_PROFILE", "nobody", "KMS: the profile in AWS_PROFILE does not exist: fix its name"),
        ("AWS_ENDPOINT_URL_KMS", "localhost:4566", "KMS: AWS_ENDPOINT_URL is not a URL: "),
    ],
)
def test_what_is_missing_on_this_machine_is_named(
    kms: "KMSClient", monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    if value:
        monkeypatch.setenv(variable, value)
    else:
        monkeypatch.delenv(variable)
    assert refused(lambda: LOADS["token keys"]("alias/a")).startswith(said)


def test_a_malformed_mac_is_never_taken_for_a_key(kms: "KMSClient", kms_wire: Wire) -> None:
    alias = token_key(kms)
    kms_wire.on("GenerateMac", lambda call, forward: success({**forward(call).content, "Mac": "AAAA"}))
    assert "does not answer as AWS does" in refused(lambda: LOADS["token keys"](alias))
