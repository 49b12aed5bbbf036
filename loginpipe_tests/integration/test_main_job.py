"""The chain on a real queue and a real database, when all goes well."""

import json
import re
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import psycopg2
import pytest

from loginpipe.assets.group import CHAIN
from loginpipe.local.sample_events import sample_bodies
from loginpipe.logins.messages import Message, messages_frame
from loginpipe.logins.splitting import split_batch
from loginpipe.masking.key_files import read_token_keys
from loginpipe.masking.mask import mask_logins
from loginpipe.masking.sealing import Sealed
from loginpipe.postgres.load import load_logins
from loginpipe_tests.conftest import KeyFiles, Pipeline
from loginpipe_tests.wire import Custodian, login, logins, tables

TOKEN = re.compile(r"(ip|dev)\.v1\.[A-Za-z0-9_-]{43}")


@pytest.fixture(autouse=True)
def _one_receiver(monkeypatch: pytest.MonkeyPatch) -> None:
    """One empty long poll ends a run."""
    monkeypatch.setenv("LOGINPIPE_RECEIVERS", "1")


def ingested(pipeline: Pipeline, *bodies: str) -> dg.ExecuteInProcessResult:
    """Send messages and run the job."""
    pipeline.send(bodies)
    result = pipeline.run()
    assert result.success
    return result


def metadata_of(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    (event,) = result.asset_materializations_for_node("split_messages" if asset in SPLIT else asset)[slice_of(asset)]
    return {name: value.value for name, value in event.metadata.items()}


SPLIT = ("validated_logins", "rejected_logins")


def slice_of(asset: str) -> slice:
    place = SPLIT.index(asset) if asset in SPLIT else 0
    return slice(place, place + 1)
