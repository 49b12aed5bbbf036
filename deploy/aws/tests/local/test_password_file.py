"""What docs/aws.md says of the password of Dagster's storage, asked of libpq: containers here and others rely on it."""

import json
import re
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer

import pytest

from conftest import AWS


@pytest.fixture
def asked_for_a_password() -> Iterator[tuple[str, list[str]]]:
    """A server that asks whoever signs in for a password in clear: its URL without one, and what it was told."""
    told: list[str] = []

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.read(struct.unpack("!i", self.rfile.read(4))[0] - 4)
            self.wfile.write(b"R" + struct.pack("!ii", 8, 3))
            if self.rfile.read(1) == b"p":
                told.append(self.rfile.read(struct.unpack("!i", self.rfile.read(4))[0] - 4)[:-1].decode())

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        # As Dagster opens it, by SQLAlchemy; `sslmode` of the page would ask for TLS first.
        yield f"postgresql+psycopg2://dagster@127.0.0.1:{port}/dagster?sslmode=disable", told
        server.shutdown()


def signs_in(url: str) -> str:
    from sqlalchemy import create_engine
    from sqlalchemy.exc import OperationalError

    with pytest.raises(OperationalError) as caught:
        create_engine(url).connect()
    return str(caught.value)


def test_libpq_takes_the_password_of_a_url_without_one_from_the_password_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked_for_a_password: tuple[str, list[str]]
) -> None:
    url, told = asked_for_a_password
    file = tmp_path / "pgpass"
    port = url.split(":")[-1].split("/")[0]
    file.write_text(f"*:{port}:*:loginpipe:other\n*:{port}:*:dagster:a\\:b\\\\c\n*:{port}:*:dagster:later\n")
    file.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(file))
    signs_in(url)
    assert told == ["a:b\\c"]
    # Read again with each connection.
    file.write_text(f"*:{port}:*:dagster:turned\n")
    signs_in(url)
    assert told == ["a:b\\c", "turned"]


@pytest.mark.parametrize("mode", [0o640, 0o604], ids=oct)
def test_libpq_ignores_a_password_file_that_others_may_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked_for_a_password: tuple[str, list[str]], mode: int
) -> None:
    url, told = asked_for_a_password
    file = tmp_path / "pgpass"
    file.write_text("*:*:*:dagster:word\n")
    file.chmod(mode)
    monkeypatch.setenv("PGPASSFILE", str(file))
    assert "no password supplied" in signs_in(url)
    assert told == []


def test_the_line_that_the_page_writes_is_one_that_libpq_reads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked_for_a_password: tuple[str, list[str]]
) -> None:
    page = (AWS.parents[1] / "docs" / "aws.md").read_text()
    (program,) = re.findall(r"jq --raw-output '(.*)' > /run/loginpipe/pgpass", page)
    url, told = asked_for_a_password
    secret = json.dumps({"username": "dagster", "password": "a:b\\c"})
    line = subprocess.run(["jq", "--raw-output", program], input=secret, capture_output=True, text=True, check=True)
    file = tmp_path / "pgpass"
    file.write_text(line.stdout.replace(":5432:", f":{url.split(':')[-1].split('/')[0]}:"))
    file.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(file))
    signs_in(url)
    assert told == ["a:b\\c"]
