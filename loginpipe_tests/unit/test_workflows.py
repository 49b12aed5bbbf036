"""The workflows of ``.github``: what they may do, what they run, and that they run what `make` runs.

`make workflows` checks their form against GitHub's schema, and looks for ways to misuse them.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[2]
FILES = {path.stem: path.read_text() for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))}
WORKFLOWS: dict[str, dict[Any, Any]] = {name: yaml.safe_load(text) for name, text in FILES.items()}
JOBS = {f"{name}/{job}": content for name, flow in WORKFLOWS.items() for job, content in flow["jobs"].items()}
RUNNING = {name: job for name, job in JOBS.items() if "steps" in job}
STEPS = [(name, step) for name, job in RUNNING.items() for step in job["steps"]]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TRIGGERS = True
"""What YAML 1.1 makes of the key ``on``."""


def test_the_workflows_are_those_of_a_change_an_image_a_release_and_a_deployment() -> None:
    assert set(WORKFLOWS) == {"ci", "image", "release", "deploy"}


@pytest.mark.parametrize("name", FILES)
def test_every_action_is_pinned_by_its_commit_with_its_version_beside_it(name: str) -> None:
    used = re.findall(r"uses: (\S+)(.*)$", FILES[name], re.MULTILINE)
    assert used
    others = [(action, comment) for action, comment in used if not action.startswith("$/")]
    assert [
        action
        for action, comment in others
        if not re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", action) or not re.fullmatch(r" # v\d+\.\d+\.\d+", comment)
    ] == []


def test_an_action_is_of_one_version_everywhere() -> None:
    used = {step["uses"] for _, step in STEPS if "uses" in step}
    assert len(used) == len({action.split("@")[0] for action in used})


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_may_do_nothing_but_what_a_job_says(name: str) -> None:
    assert WORKFLOWS[name]["permissions"] == {}
    assert all("permissions" in job for job in WORKFLOWS[name]["jobs"].values())


def test_only_releases_and_deployments_are_known_to_others_and_one_job_alone_writes() -> None:
    def jobs_with(permission: str, access: str) -> set[str]:
        return {name for name, job in JOBS.items() if job["permissions"].get(permission) == access}

    assert jobs_with("id-token", "write") == {"release/package", "release/image", "deploy/look", "deploy/deploy"}
    assert jobs_with("contents", "write") == {"release/publish"}
    assert {what for job in JOBS.values() for what in job["permissions"]} == {"contents", "id-token", "attestations"}


@pytest.mark.parametrize("name", RUNNING)
def test_every_job_ends_by_itself_on_a_named_machine(name: str) -> None:
    assert 0 < RUNNING[name]["timeout-minutes"] <= 90
    assert RUNNING[name]["runs-on"] == "ubuntu-24.04"


@pytest.mark.parametrize("name", WORKFLOWS)
def test_runs_of_one_kind_do_not_overtake_each_other_and_only_a_pull_requests_is_cut_short(name: str) -> None:
    concurrency = WORKFLOWS[name]["concurrency"]
    assert concurrency["group"].startswith(f"{name}-")
    pull_requests = "pull_request" in WORKFLOWS[name][TRIGGERS]
    cancelled = "${{ github.event_name == 'pull_request' }}"
    assert concurrency["cancel-in-progress"] == (cancelled if pull_requests else False)


def test_code_of_a_pull_request_never_runs_with_the_rights_of_the_repository() -> None:
    assert not {"pull_request_target", "workflow_run"} & {
        event for flow in WORKFLOWS.values() for event in flow[TRIGGERS]
    }


def test_a_checkout_leaves_no_token_behind() -> None:
    checkouts = [step for _, step in STEPS if step.get("uses", "").startswith("actions/checkout@")]
    assert checkouts
    assert {step["with"]["persist-credentials"] for step in checkouts} == {False}


def test_no_secret_is_kept_for_the_workflows_and_no_command_is_put_together_from_expressions() -> None:
    assert [name for name, text in FILES.items() if re.search(r"\bsecrets\b|AWS_SECRET|AWS_ACCESS_KEY", text)] == []
    assert [(name, step["run"]) for name, step in STEPS if "${{" in step.get("run", "")] == []


def test_what_reaches_aws_waits_for_an_environment() -> None:
    reaching = {
        name: RUNNING[name].get("environment")
        for name, step in STEPS
        if step.get("uses", "").startswith("aws-actions/configure-aws-credentials@")
    }
    assert reaching == {
        "release/image": "release",
        "deploy/look": "${{ inputs.environment }}-look",
        "deploy/deploy": "${{ inputs.environment }}",
    }
    assert JOBS["deploy/deploy"]["needs"] == "look"


def test_a_release_is_tested_first_and_told_last() -> None:
    needs = {job: JOBS[f"release/{job}"].get("needs") for job in WORKFLOWS["release"]["jobs"]}
    assert needs == {"ci": None, "package": "ci", "image": "ci", "publish": ["package", "image"]}


def test_a_deployment_migrates_before_the_services_change() -> None:
    (deployment,) = ["\n".join(step.get("run", "") for step in RUNNING["deploy/deploy"]["steps"])]
    order = [
        deployment.index(part)
        for part in ("gh attestation verify", "LoginpipeSetup", "migrate-on-ecs.sh", "LoginpipeServices")
    ]
    assert order == sorted(order)
    stacks = (ROOT / "deploy" / "aws" / "loginpipe_aws" / "stacks.py").read_text()
    assert {"LoginpipeData", "LoginpipeSetup", "LoginpipeServices"} <= set(re.findall(r'"(Loginpipe\w+)"', stacks))


def test_the_tests_run_on_every_python_that_the_package_is_for() -> None:
    declared = {c.rsplit(" ", 1)[1] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)}
    assert set(JOBS["ci/test"]["strategy"]["matrix"]["python"]) == declared
    bounds = {entry["versions"]: entry["python"] for entry in JOBS["ci/dependencies"]["strategy"]["matrix"]["include"]}
    assert bounds == {"lowest": min(declared), "latest": max(declared)}


def test_what_the_workflows_make_is_a_target_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+(?: [a-z-]+)*):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))
    known = {target for line in targets for target in line.split()}
    made = {word for _, step in STEPS for word in re.findall(r"\bmake ([a-z-]+)", step.get("run", ""))}
    assert made == {"check", "test", "audit", "workflows", "release-files"}
    assert made | set(JOBS["ci/dependencies"]["strategy"]["matrix"]["include"][0]["versions"].split()) <= known


def test_updates_are_looked_for_in_everything_that_others_make_and_wait_a_week() -> None:
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())["updates"]
    assert {update["package-ecosystem"] for update in updates} == {"pip", "docker", "docker-compose", "github-actions"}
    assert all(update["cooldown"]["default-days"] >= 7 for update in updates)
    folders = {folder for update in updates for folder in update["directories"]}
    assert [folder for folder in folders if not (ROOT / folder.strip("/")).is_dir()] == []
