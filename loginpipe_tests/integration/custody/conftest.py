"""A database with logins in it, its custodians and their private key."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from loginpipe.custody.opening import Opener
from loginpipe.local.stack import LocalStack
from loginpipe.masking.key_files import generate_seal_key, private_half, read_seal_key
from loginpipe.postgres.connections import Connection
from loginpipe_tests.conftest import as_role, execute
from loginpipe_tests.custody import Store, connected, opener_of, token_keys

ROTATOR = "rotating_custodian"


@pytest.fixture(scope="session")
def seal_public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of the public seal key; the private key is beside it."""
    public = tmp_path_factory.mktemp("custody") / "seal_public.pem"
    generate_seal_key(public)
    return public


@pytest.fixture(scope="session")
def opener(seal_public: Path) -> Opener:
    return opener_of(private_half(seal_public))


@pytest.fixture
def store(database_url: str, seal_public: Path) -> Store:
    return Store(database_url, token_keys(1), (read_seal_key(seal_public),))


@pytest.fixture(scope="session")
def rotator(stack: LocalStack, roles: None) -> str:
    """Return a custodian who also has the pipeline's role, for a rotation or a drill."""
    execute(stack.database_url, f"CREATE ROLE {ROTATOR} LOGIN IN ROLE pii_custodian, loginpipe_writer")
    return ROTATOR


@pytest.fixture
def rotator_url(database_url: str, rotator: str) -> str:
    return as_role(database_url, rotator)


@pytest.fixture
def connections() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def custodian(connections: ExitStack, custodian_url: str) -> Connection:
    return connections.enter_context(connected(custodian_url))


@pytest.fixture
def second_custodian(connections: ExitStack, second_custodian_url: str) -> Connection:
    return connections.enter_context(connected(second_custodian_url))


@pytest.fixture
def rotating(connections: ExitStack, rotator_url: str) -> Connection:
    return connections.enter_context(connected(rotator_url))


@pytest.fixture
def auditor(connections: ExitStack, auditor_url: str) -> Connection:
    return connections.enter_context(connected(auditor_url))


@pytest.fixture
def owner(connections: ExitStack, owner_url: str) -> Connection:
    return connections.enter_context(connected(owner_url))
