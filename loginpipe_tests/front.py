"""A port with TLS and passwords in front of the embedded Postgres, which has neither and listens on a socket only."""

import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from psycopg2.extensions import parse_dsn

from loginpipe.postgres import dagster_storage

_SSL_REQUEST: Final = 80877103
_GSS_REQUEST: Final = 80877104
_CLEAR_PASSWORD: Final = b"R" + struct.pack("!II", 8, 3)
_REFUSED: Final = b"SFATAL\0C28P01\0Mpassword authentication failed\0\0"
_CHUNK_BYTES: Final = 1 << 16


class Certificates:
    """A CA of this test, and a certificate that it signed for a host."""

    def __init__(self, folder: Path, host: str) -> None:
        self.authority = folder / "authority.pem"
        self.chain = folder / "server.pem"
        key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test's authority")])
        now = datetime.now(UTC)

        def certificate(of: x509.Name, public: Any, *more: tuple[x509.ExtensionType, bool]) -> x509.Certificate:
            builder = x509.CertificateBuilder(name, of, public, x509.random_serial_number(), now, now + timedelta(1))
            for extension, critical in more:
                builder = builder.add_extension(extension, critical)
            return builder.sign(key, hashes.SHA256())

        authority_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        authority = certificate(
            name,
            key.public_key(),
            (x509.BasicConstraints(True, None), True),
            (x509.KeyUsage(False, False, False, False, False, True, True, False, False), True),
            (authority_id, False),
        )
        server = certificate(
            x509.Name([]),
            server_key.public_key(),
            (x509.SubjectAlternativeName([x509.DNSName(host)]), True),
            (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority_id), False),
        )
        self.authority.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
        self.chain.write_bytes(
            server_key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + server.public_bytes(serialization.Encoding.PEM)
        )


class Front:
    """A port that leads to a database of the embedded server. It is a context manager.

    Attributes:
        url: URL of the database on this port, for host ``localhost`` and the role of the original URL, without a
        password.
        port: the port on 127.0.0.1.
        sent: the data that clients sent after their login.
        passwords: the passwords that clients sent.
    """

    def __init__(
        self,
        database_url: str,
        *,
        certificates: Certificates | None = None,
        accepts: Callable[[str, str], bool] | None = None,
    ) -> None:
        """Open the port.

        Args:
            database_url: URL with the server's socket.
            certificates: for TLS with clients that ask for it.
            accepts: returns True if the password of a role is right. If None, no password is asked for.
        """
        there = parse_dsn(database_url)
        self._socket = f"{there['host']}/.s.PGSQL.{there['port']}"
        self._context: ssl.SSLContext | None = None
        if certificates:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(certificates.chain)
        self._accepts = accepts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._clients: list[socket.socket] = []
        self.port = int(self._listener.getsockname()[1])
        self.url = f"postgresql://{there['user']}@localhost:{self.port}/{there['dbname']}"
        self.sent = b""
        self.passwords: list[str] = []

    def __enter__(self) -> "Front":
        self._go(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        # They are closed only after no thread waits on them, because a closed socket has no file descriptor to wait on.
        for each in (self._listener, *self._clients):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in (self._listener, *self._clients):
            each.close()

    def _go(self, do: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=do, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._clients.append(client)
                self._go(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError, EOFError):
            begin, client = self._begin(client)
            with client, socket.socket(socket.AF_UNIX) as server:
                if self._lets_in(client, begin):
                    server.connect(self._socket)
                    server.sendall(begin)
                    self._pass_on(client, server)

    def _begin(self, client: socket.socket) -> tuple[bytes, socket.socket]:
        """Return the first message of a client and the connection to it, encrypted if the client asked for that."""
        while True:
            head = _exactly(client, 8)
            length, code = struct.unpack("!II", head)
            if code == _SSL_REQUEST and self._context:
                client.sendall(b"S")
                client = self._context.wrap_socket(client, server_side=True)
                self._clients.append(client)
            elif code in {_SSL_REQUEST, _GSS_REQUEST}:
                client.sendall(b"N")
            else:
                return head + _exactly(client, length - 8), client

    def _lets_in(self, client: socket.socket, begin: bytes) -> bool:
        if self._accepts is None:
            return True
        words = begin[8:].decode().split("\0")
        role = dict(zip(words[::2], words[1::2], strict=False))["user"]
        client.sendall(_CLEAR_PASSWORD)
        (length,) = struct.unpack("!xI", _exactly(client, 5))
        password = _exactly(client, length - 4).rstrip(b"\0").decode()
        self.passwords.append(password)
        if self._accepts(role, password):
            return True
        client.sendall(b"E" + struct.pack("!I", len(_REFUSED) + 4) + _REFUSED)
        return False

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        while True:
            decrypted = isinstance(client, ssl.SSLSocket) and client.pending()
            for each in [client] if decrypted else select.select([client, server], [], [])[0]:
                data = each.recv(_CHUNK_BYTES)
                if not data:
                    return
                if each is client:
                    self.sent += data
                (server if each is client else client).sendall(data)


def _exactly(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        more = connection.recv(length - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def as_in_a_new_process() -> None:
    """Take away the hook with which an earlier test in this process changed how SQLAlchemy connects."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    if event.contains(Engine, "do_connect", dagster_storage._connect):
        event.remove(Engine, "do_connect", dagster_storage._connect)
