"""The templates of an installation that uses every context value, made by `python app.py` as an operator makes them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from aws_cdk.assertions import Template

from iam import Account

AWS: Final = Path(__file__).parents[2]
EXAMPLE: Final = AWS / "tests" / "context.json"
SYNTHESISED: Final = AWS / "cdk.out.example"
STACKS: Final = ("LoginpipeData", "LoginpipeSetup", "LoginpipeServices")


def run_app(folder: Path, **context: Any) -> "subprocess.CompletedProcess[str]":
    """Run the app as `cdk --context name=value …` does: in production, unless another environment is among them."""
    values = {**json.loads((AWS / "cdk.json").read_text())["context"], "environment": "production", **context}
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "CDK_"))},
        "CDK_CONTEXT_JSON": json.dumps(values),
        "CDK_OUTDIR": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return subprocess.run(
        [sys.executable, "app.py"], cwd=AWS, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="session")
def synthesised() -> Path:
    """The folder of the templates; it stays, for the tests of ``tests/local``."""
    shutil.rmtree(SYNTHESISED, ignore_errors=True)
    done = run_app(SYNTHESISED, **json.loads(EXAMPLE.read_text()))
    assert done.returncode == 0, done.stderr
    return SYNTHESISED


@pytest.fixture(scope="session")
def bodies(synthesised: Path) -> dict[str, dict[str, Any]]:
    """Stack → its template."""
    return {name: json.loads((synthesised / f"{name}.template.json").read_text()) for name in STACKS}


@pytest.fixture(scope="session")
def account(bodies: Mapping[str, dict[str, Any]]) -> Account:
    """All stacks together, references resolved."""
    return Account(bodies)


@pytest.fixture(scope="session")
def data(bodies: Mapping[str, dict[str, Any]]) -> Template:
    return Template.from_json(bodies["LoginpipeData"])


@pytest.fixture(scope="session")
def services(bodies: Mapping[str, dict[str, Any]]) -> Template:
    return Template.from_json(bodies["LoginpipeServices"])
