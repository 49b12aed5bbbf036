"""The log of a run as a production machine gets it: lines of JSON on stderr, with no value of a login."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from loginpipe.defs.ingest.job import INGEST_JOB
from loginpipe.masking.key_files import generate_token_keys, read_seal_key
from loginpipe_tests.canary import BAD, GOOD, MARKERS, found
from loginpipe_tests.conftest import KeyFiles, Pipeline

DAGSTER = str(Path(sys.executable).parent / "dagster")


@pytest.fixture
def production(pipeline: Pipeline, key_files: KeyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What production demands, and a Dagster instance of this test's own with the project's `python_logs`."""
    keys = tmp_path / "token_keys.json"
    generate_token_keys(keys, development=False)
    settings = {
        "LOGINPIPE_ENV": "production",
        "LOGINPIPE_TOKEN_KEYS": f"file:{keys}",
        "LOGINPIPE_SEAL_KEY_FINGERPRINT": read_seal_key(key_files.seal_public).fingerprint,
        "LOGINPIPE_BATCH_MESSAGES": str(len(GOOD) + len(BAD)),
        "DAGSTER_HOME": str(tmp_path),
        # One of the command's own, from before it loads our code.
        "PYTHONWARNINGS": "ignore",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    project = yaml.safe_load((Path(__file__).parents[2] / "dagster.yaml").read_text())
    instance = {"telemetry": {"enabled": False}, "python_logs": project["python_logs"]}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(instance))


def run(level: str, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.setenv("LOGINPIPE_LOG_LEVEL", level)
    done = subprocess.run(
        [DAGSTER, "job", "execute", "-m", "loginpipe.definitions", "-j", INGEST_JOB],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert found({"stdout": done.stdout, "stderr": done.stderr}, MARKERS) == []
    return [json.loads(line) for line in done.stderr.splitlines()]


@pytest.mark.usefixtures("production")
def test_a_run_in_production_logs_json_with_run_job_and_step_and_no_value_of_a_login(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.send([*GOOD, *BAD])
    lines = run("INFO", monkeypatch)
    ((run_id,),) = pipeline.rows("SELECT run_id::text FROM loginpipe.batches")
    assert {line["run_id"] for line in lines} == {run_id}
    assert {line["job"] for line in lines} == {INGEST_JOB}
    assert {"timestamp", "level", "logger", "event"} <= set.intersection(*map(set, lines))
    (line,) = [line for line in lines if line["level"] == "info"]
    assert line["step"] == "ingest"
    assert line["event"] == (
        f"finished: received {len(GOOD) + len(BAD)} messages in 1 batches; inserted {len(GOOD)} logins, skipped 0 "
        f"duplicates, rejected {len(BAD)} messages"
    )
    assert (line["received"], line["batches"], line["deleted"]) == (len(GOOD) + len(BAD), 1, len(GOOD) + len(BAD))
    assert (line["accepted"], line["rejected"]) == (len(GOOD), len(BAD))
    assert (line["inserted"], line["duplicates"]) == (len(GOOD), 0)
    assert line["seconds"] > 0
    assert line["delay_p95_seconds"] > 0


@pytest.mark.usefixtures("production")
def test_the_level_decides_what_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGINPIPE_SEAL_KEY", "off")
    monkeypatch.delenv("LOGINPIPE_SEAL_KEY_FINGERPRINT")
    lines = run("WARNING", monkeypatch)
    assert {(line["level"], line["resource"]) for line in lines} == {("warning", "masking")}
    assert "LOGINPIPE_SEAL_KEY is off" in lines[0]["event"]
