"""What an operator is told of values that are missing or wrong, and what can be deployed before all are known."""

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import EXAMPLE, run_app


def stacks(folder: Path) -> set[str]:
    return {path.name.split(".")[0] for path in folder.glob("*.template.json")}


def test_with_the_values_of_cdk_json_alone_the_data_can_be_deployed(tmp_path: Path) -> None:
    done = run_app(tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert stacks(tmp_path / "out") == {"LoginpipeData"}
    assert "LoginpipeSetup and LoginpipeServices are left out: context value image_tag is not set" in done.stderr


def test_without_a_way_in_for_people_the_one_off_tasks_can_be_deployed(tmp_path: Path) -> None:
    context = {**json.loads(EXAMPLE.read_text()), "web_networks": []}
    done = run_app(tmp_path / "out", **context)
    assert stacks(tmp_path / "out") == {"LoginpipeData", "LoginpipeSetup"}
    assert "LoginpipeServices is left out: context value web_networks is empty" in done.stderr


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("region", "Frankfurt", "must be a region, as in eu-central-1"),
        ("vpc_cidr", "8.8.0.0/16", "must be private IPv4 networks: nothing here is for the internet"),
        ("database_networks", ["0.0.0.0/0"], "must be private IPv4 networks: nothing here is for the internet"),
        ("database_networks", ["10.0.0.1/16"], "must be private networks, as in 10.0.0.0/16"),
        ("sender_arns", ["*"], "must be a list of ARNs of IAM roles or users"),
        ("database_connections", 10, "must be a whole number from 50 to 5000"),
        ("database_storage_most_gib", 100, "must be a whole number from 101 to 65536"),
        ("read_replica", "perhaps", "must be true or false"),
        ("alert_email", "nobody", "must be an address"),
    ],
    ids=["region", "vpc", "everybody", "host bits", "any sender", "connections", "storage", "flag", "address"],
)
def test_a_wrong_value_stops_it_with_one_line_that_names_it_and_the_rule(
    tmp_path: Path, name: str, value: Any, rule: str
) -> None:
    done = run_app(tmp_path / "out", **{name: value})
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "!!" not in line]
    assert line == f"context value {name} {rule}"
