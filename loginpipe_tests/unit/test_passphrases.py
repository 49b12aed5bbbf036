"""Private keys with a passphrase: only it opens them, in `cryptography` and OpenSSL, and guessing it is expensive."""

import base64
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from loginpipe.masking.encrypted_pem import encrypted_pem
from loginpipe.masking.key_files import generate_seal_key, read_seal_key

PASSPHRASE = "a horse, caf\u00e9 and 4 staples"


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=3072)


@pytest.fixture(scope="module")
def pem(key: rsa.RSAPrivateKey) -> bytes:
    return encrypted_pem(key, PASSPHRASE)


def test_the_passphrase_as_utf_8_opens_it(key: rsa.RSAPrivateKey, pem: bytes) -> None:
    opened = serialization.load_pem_private_key(pem, PASSPHRASE.encode())
    assert isinstance(opened, rsa.RSAPrivateKey)
    assert opened.private_numbers() == key.private_numbers()


@pytest.mark.parametrize("wrong", [PASSPHRASE + "x", PASSPHRASE.upper(), PASSPHRASE.replace("\u00e9", "e"), " "])
def test_another_passphrase_does_not(pem: bytes, wrong: str) -> None:
    # After a wrong passphrase, the padding is right by chance once in 256 times, but the content is no key.
    with pytest.raises(ValueError, match=r"password|deserialize"):
        serialization.load_pem_private_key(pem, wrong.encode())


def test_without_a_passphrase_it_does_not_open(pem: bytes) -> None:
    with pytest.raises(TypeError):
        serialization.load_pem_private_key(pem, None)


def test_the_key_is_nowhere_in_it(key: rsa.RSAPrivateKey, pem: bytes) -> None:
    der = base64.b64decode(b"".join(pem.splitlines()[1:-1]))
    prime = key.private_numbers().p.to_bytes(192, "big")
    assert prime[:16] not in der


def test_no_two_are_alike(key: rsa.RSAPrivateKey, pem: bytes) -> None:
    assert encrypted_pem(key, PASSPHRASE) != pem


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_opens_it_and_finds_scrypt_at_the_cost_that_owasp_asks_for(pem: bytes, tmp_path: Path) -> None:
    """Whoever uses the break-glass key in ten years may not have our code."""
    path = tmp_path / "key.pem"
    path.write_bytes(pem)
    opened = subprocess.run(
        ["openssl", "pkey", "-in", path, "-passin", "stdin", "-noout", "-check"],
        input=PASSPHRASE.encode() + b"\n", check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert b"valid" in opened.stdout + opened.stderr
    shown = subprocess.run(
        ["openssl", "asn1parse", "-in", path], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    assert [word for word in ("PBES2", "scrypt", "aes-256-cbc") if word not in shown] == []
    numbers = [int(line.rsplit(":", 1)[1], 16) for line in shown.splitlines() if "INTEGER" in line]
    assert numbers == [2**14, 8, 5]


def test_a_seal_key_is_made_with_its_private_half_behind_a_passphrase(tmp_path: Path) -> None:
    public = tmp_path / "seal_public.pem"
    private = generate_seal_key(public, PASSPHRASE)
    assert private.stat().st_mode & 0o777 == 0o600
    opened = serialization.load_pem_private_key(private.read_bytes(), PASSPHRASE.encode())
    assert opened.public_key() == read_seal_key(public).public_key
