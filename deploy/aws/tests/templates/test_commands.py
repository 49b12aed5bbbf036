"""The commands of AWS in pages and scripts: each exists, and takes the options that it is given."""

import re
from pathlib import Path
from typing import Final

import boto3
import pytest
from botocore import xform_name

from conftest import AWS

ROOT: Final = AWS.parents[1]
PAGES: Final = (
    *(ROOT / "docs" / f"{name}.md" for name in ("aws", "backups", "upgrading")),
    AWS / "README.md",
    AWS / "run-task.sh",
    AWS / "copy-image.sh",
    AWS / "check-quotas.sh",
)
OF_THE_CLI: Final = {
    ("ecr", "get-login-password"): set[str](),
    ("logs", "tail"): set[str](),
    ("rds", "generate-db-auth-token"): {"hostname", "port", "username"},
}
"""Commands that the command line adds to the services' own, with their options."""
OF_ALL: Final = {"query", "output", "region", "profile"}


def commands(page: Path) -> list[tuple[str, str, set[str]]]:
    """Service, command and options of each `aws …` in code."""
    text = page.read_text()
    if page.suffix == ".md":
        text = "\n".join(
            [
                *(line for line in text.splitlines() if line.startswith("    ")),
                *(
                    code
                    for line in text.splitlines()
                    if not line.startswith("    ")
                    for code in re.findall("`([^`]+)`", line)
                ),
            ]
        )
    joined = text.replace("\\\n", " ")
    found = re.findall(r"\baws ([a-z][a-z0-9]+) (?:(wait) )?([a-z][a-z0-9-]+)([^\n|]*)", joined)
    return [
        (service, f"wait {command}" if wait else command, set(re.findall(r"(?<=\s--)[a-z][a-z0-9-]+", rest)))
        for service, wait, command, rest in found
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_exists(page: Path) -> None:
    for service, command, options in commands(page):
        assert not (options - OF_ALL) - known_options(service, command), (service, command)


def test_the_pages_do_have_commands() -> None:
    found = {(service, command) for page in PAGES for service, command, _ in commands(page)}
    assert len(found) > 15
    assert ("rds", "restore-db-instance-to-point-in-time") in found
    assert ("rds", "wait db-instance-available") in found


def test_every_command_of_the_cdk_is_told_of_which_environment() -> None:
    found = re.findall(r"\bcdk (?:bootstrap|deploy|destroy|diff|synth)\b.*", (AWS / "README.md").read_text())
    assert len([line for line in found if " --context environment=production " in line]) == 3
    # Prose names a command without its options.
    assert [line for line in found if "--context environment=" not in line and "`" not in line] == []


def known_options(service: str, command: str) -> set[str]:
    """Return the options that a command has; of a flag also its opposite."""
    if (service, command) in OF_THE_CLI:
        return OF_THE_CLI[service, command]
    client = boto3.client(service, region_name="eu-central-1")
    if command.startswith("wait "):
        name = command.removeprefix("wait ").replace("-", "_")
        assert name in client.waiter_names, command
        # A waiter has the options of what it asks again and again.
        model = client.get_waiter(name).config.operation
    else:
        names = {xform_name(each, "-"): each for each in client.meta.service_model.operation_names}
        assert command in names, command
        model = names[command]
    members = client.meta.service_model.operation_model(model).input_shape.members
    options = {xform_name(name, "-") for name in members}
    flags = {f"no-{xform_name(name, '-')}" for name, shape in members.items() if shape.type_name == "boolean"}
    return options | flags
