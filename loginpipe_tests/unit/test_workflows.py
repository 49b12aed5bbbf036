"""The workflows of ``.github``: their permissions, their commands, and that they run what `make` runs.

`make workflows` checks them against GitHub's schema, and searches for ways to misuse them.
"""

import os
import re
import shutil
import subprocess
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
"""The key ``on`` as YAML 1.1 reads it."""
MAKEFILE = (ROOT / "Makefile").read_text()
SKIPPED = {"node_modules", "cdk.out.example"}
"""Generated folders, besides those whose names begin with a dot."""


def files_named(*patterns: str) -> list[Path]:
    """Return files of the project by name, in any folder except generated ones (environments, caches)."""
    found: list[Path] = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in SKIPPED and not name.startswith(".")]
        found += [path for name in names for path in [Path(folder, name)] if any(path.match(glob) for glob in patterns)]
    return sorted(found)


def folder_of(path: Path) -> str:
    """Return a file's folder in dependabot's notation: ``/`` or ``/deploy/aws``."""
    return f"/{path.parent.relative_to(ROOT).as_posix()}".rstrip(".")


def from_outside(image: str) -> bool:
    """Return True if others made an image; the names of our own show that they are ours."""
    return not re.match(r"(loginpipe[\w-]*:|\$\{LOGINPIPE_IMAGE)", image)


def bases(dockerfile: Path) -> set[str]:
    """Return the base images of a Dockerfile, without its own stages."""
    text = dockerfile.read_text()
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", text, re.MULTILINE))
    stages = set(re.findall(r"^FROM .* AS (\S+)$", text, re.MULTILINE))
    used = [
        re.sub(r"\$\{(\w+)\}", lambda found: arguments[found[1]], name) for name in re.findall(r"(?m)^FROM (\S+)", text)
    ]
    return set(used) - stages


def runs(job: str) -> str:
    """Return all commands of a job, in order."""
    return "\n".join(step.get("run", "") for step in RUNNING[job]["steps"])


def make(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run make in the project, with only the programs of ``path`` if it is given."""
    program = shutil.which("make")
    if program is None:
        pytest.skip("make is not installed")
    # `make test` passes its own options to every make below it.
    ours = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}}
    environment = {**ours, **({"PATH": path} if path else {})}
    return subprocess.run([program, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


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
        if not re.fullmatch(r"[\w.-]+/[\w.-]+(/[\w.-]+)?@[0-9a-f]{40}", action)
        or not re.fullmatch(r" # v\d+\.\d+\.\d+", comment)
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
    assert jobs_with("actions", "read") == {"deploy/look"}
    assert jobs_with("attestations", "write") == {"release/package", "release/image"}
    assert jobs_with("attestations", "read") == {"deploy/deploy"}
    asked = {what for job in JOBS.values() for what in job["permissions"]}
    assert asked == {"actions", "contents", "id-token", "attestations"}


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


def test_a_session_at_aws_lasts_as_long_as_its_job() -> None:
    sessions = {
        name: step["with"]["role-duration-seconds"]
        for name, step in STEPS
        if step.get("uses", "").startswith("aws-actions/configure-aws-credentials@")
    }
    assert sessions == {name: 60 * RUNNING[name]["timeout-minutes"] for name in sessions}
    longest = re.search(r"--max-session-duration (\d+)", (ROOT / "deploy" / "aws" / "README.md").read_text())
    assert longest is not None
    assert int(longest[1]) == max(sessions.values())


def test_a_deployment_that_no_one_has_to_approve_does_not_start_unless_that_was_asked_for() -> None:
    steps = RUNNING["deploy/look"]["steps"]
    (asks,) = [place for place, step in enumerate(steps) if "require-approver.sh" in step.get("run", "")]
    assert steps[asks]["run"] == 'deploy/aws/require-approver.sh "$ENVIRONMENT"'
    assert steps[asks]["env"]["WITHOUT_APPROVER"] == "${{ inputs.without_approver }}"
    assert "continue-on-error" not in steps[asks]
    # Both scripts ask GitHub.
    asking = [step for _, step in STEPS if re.search(r"\b(require-approver|copy-image)\.sh", step.get("run", ""))]
    assert [step["env"]["GH_TOKEN"] for step in asking] == ["${{ github.token }}"] * 2
    asked = WORKFLOWS["deploy"][TRIGGERS]["workflow_dispatch"]["inputs"]["without_approver"]
    assert (asked["type"], asked["default"]) == ("boolean", False)


def test_a_release_is_signed_by_attestations_or_else_with_kms_and_verified_in_the_same_way() -> None:
    signs = {step.get("if"): step for step in RUNNING["release/image"]["steps"] if "SIGNING_KEY" in step.get("if", "")}
    assert set(signs) == {"vars.SIGNING_KEY == ''", "vars.SIGNING_KEY != ''"}
    assert signs["vars.SIGNING_KEY == ''"]["uses"].startswith("actions/attest-build-provenance@")
    by_kms = signs["vars.SIGNING_KEY != ''"]
    assert 'sign --yes --key "$SIGNING_KEY" --tlog-upload=false "$IMAGE@$DIGEST" "$IMAGE@$LAMBDA"' in by_kms["run"]
    attests = [
        step["with"]["subject-digest"]
        for step in RUNNING["release/image"]["steps"]
        if "attest-build" in step.get("uses", "")
    ]
    assert attests == ["${{ steps.push.outputs.digest }}", "${{ steps.push.outputs.lambda }}"]
    (copies,) = [s for s in RUNNING["deploy/deploy"]["steps"] if "copy-image.sh" in s.get("run", "")]
    assert copies["env"]["SIGNING_KEY"] == "${{ vars.SIGNING_KEY }}"
    assert by_kms["env"]["COSIGN"] == WORKFLOWS["deploy"]["env"]["COSIGN"]
    (installs,) = [s for s in RUNNING["deploy/deploy"]["steps"] if 'go install "$COSIGN"' in s.get("run", "")]
    assert installs["if"] == "vars.SIGNING_KEY != ''"
    attested = [(name, step.get("if")) for name, step in STEPS if "attest-build" in step.get("uses", "")]
    assert attested == [(f"release/{job}", "vars.SIGNING_KEY == ''") for job in ("package", "image", "image")]


def test_a_release_is_tested_first_and_told_last() -> None:
    needs = {job: JOBS[f"release/{job}"].get("needs") for job in WORKFLOWS["release"]["jobs"]}
    # The image is pushed and signed after `package` has compared the tag with pyproject.toml and CHANGELOG.md.
    assert needs == {"ci": None, "package": "ci", "image": ["ci", "package"], "publish": ["package", "image"]}
    assert 'make release-files VERSION="${GITHUB_REF_NAME#v}"' in runs("release/package")


def test_a_release_is_built_on_a_base_that_is_named_by_its_digest_and_says_so() -> None:
    commands = runs("release/image")
    order = [commands.index(part) for part in ("make --silent base", 'make image BASE="$BASE"', "docker push")]
    assert order == sorted(order)
    # With --pull, the base would be the image that the tag names at that time.
    assert "--pull" not in commands
    assert len(re.findall(r"\bdocker build\b", commands)) == 1
    build = next(step for step in RUNNING["release/image"]["steps"] if "make image " in step.get("run", ""))
    assert build["env"] == {"BASE": "${{ steps.base.outputs.base }}"}
    assert JOBS["release/image"]["outputs"] == {
        "base": "${{ steps.base.outputs.base }}",
        "digest": "${{ steps.push.outputs.digest }}",
        "lambda": "${{ steps.push.outputs.lambda }}",
    }
    # The two images for AWS, each in its own build.
    assert 'for target in "" lambda; do' in commands
    assert '--build-arg IMAGE="loginpipe:local$suffix"' in commands
    for command in (
        'push digest "$TAGGED"',
        'push lambda "$TAGGED-lambda"',
        *(f'image-scan IMAGE="$TAGGED{of}"' for of in ("", "-lambda")),
    ):
        assert command in commands
    told = RUNNING["release/publish"]["steps"][-1]
    assert told["env"]["BASE"] == "${{ needs.image.outputs.base }}"
    assert told["env"]["DIGEST"] == "${{ needs.image.outputs.digest }}"
    assert told["env"]["LAMBDA"] == "${{ needs.image.outputs.lambda }}"
    assert '"$DIGEST" "$LAMBDA" "$BASE" >> release-notes.md' in told["run"]


def test_the_image_says_which_bytes_it_was_built_on_and_a_tag_is_refused() -> None:
    base = "python:3.11-slim@sha256:" + "0" * 64
    told = make("--dry-run", "image", f"BASE={base}", "BUILD_ARGS=--build-arg EXTRAS=archive").stdout.replace(
        "\\\n", ""
    )
    command = next(line for line in told.splitlines() if line.startswith("docker build"))
    assert f"--build-arg PYTHON_IMAGE={base}" in command
    assert f"--label org.opencontainers.image.base.digest={base.split('@')[1]}" in command
    assert "--build-arg EXTRAS=archive" in command
    refused = make("image", "BASE=python:3.11-slim", "IMAGE=loginpipe:never-built", path="/nowhere")
    assert refused.returncode != 0
    assert "BASE=python:3.11-slim has no digest: set BASE to the output of make base" in refused.stderr


def test_the_base_is_named_by_what_its_registry_said_and_not_at_all_where_it_said_nothing(tmp_path: Path) -> None:
    for name in ("sed", "sh", "test"):
        program = shutil.which(name)
        assert program is not None
        (tmp_path / name).symlink_to(program)
    docker = tmp_path / "docker"
    digest = "sha256:" + "1" * 64
    docker.write_text(
        f"#!/bin/sh\necho 3.11-slim: Pulling from library/python\necho Digest: {digest}\necho Status: new\n"
    )
    docker.chmod(0o755)
    said = make("--silent", "base", path=str(tmp_path))
    assert said.stdout == f"python:3.11-slim@{digest}\n"
    docker.write_text("#!/bin/sh\necho no route to host >&2\nexit 1\n")
    said = make("--silent", "base", path=str(tmp_path))
    assert said.returncode != 0
    assert "no digest of python:3.11-slim: start the Docker daemon" in said.stderr


def test_the_scanners_are_of_one_version_everywhere_and_what_is_missing_is_named(tmp_path: Path) -> None:
    pinned = dict(re.findall(r"^(SYFT|GRYPE)_VERSION := (\S+)$", MAKEFILE, re.MULTILINE))
    assert set(pinned) == {"SYFT", "GRYPE"}
    for job in ("image/image", "release/image"):
        steps = {step.get("id"): step for step in RUNNING[job]["steps"]}
        for name in ("syft", "grype"):
            assert steps[name]["with"] == {f"{name}-version": f"v{pinned[name.upper()]}"}
        (scan,) = [step for step in RUNNING[job]["steps"] if "make image-scan" in step.get("run", "")]
        assert scan["env"] == {name.upper(): f"${{{{ steps.{name}.outputs.cmd }}}}" for name in ("syft", "grype")}
    missing = make("image-scan", f"SYFT={tmp_path}/syft").stderr.splitlines()
    assert missing[0].startswith(f"image-scan needs syft {pinned['SYFT']}: install it from https://")
    syft = tmp_path / "syft"
    syft.write_text(f"#!/bin/sh\necho syft {pinned['SYFT']}\n")
    syft.chmod(0o755)
    missing = make("image-scan", f"SYFT={syft}", f"GRYPE={tmp_path}/grype").stderr.splitlines()
    assert missing[0].startswith(f"image-scan needs grype {pinned['GRYPE']}: install it from https://")


def test_a_deployment_migrates_before_the_services_change() -> None:
    (deployment,) = ["\n".join(step.get("run", "") for step in RUNNING["deploy/deploy"]["steps"])]
    order = [
        deployment.index(part)
        for part in (
            "copy-image.sh",
            "LoginpipeSetup",
            '"$INSTALLATION-migrate"',
            '"$INSTALLATION-check"',
            "LoginpipeServices",
        )
    ]
    assert order == sorted(order)
    scripts = re.findall(r"^deploy/aws/\S+\.sh", deployment, re.MULTILINE)
    assert len(scripts) == 3
    assert all(os.access(ROOT / script, os.X_OK) for script in scripts)
    stacks = (ROOT / "deploy" / "aws" / "loginpipe_aws" / "stacks.py").read_text()
    assert {"LoginpipeData", "LoginpipeSetup", "LoginpipeServices"} <= set(re.findall(r'"(Loginpipe\w+)"', stacks))


def test_only_who_says_so_deploys_despite_what_doctor_finds() -> None:
    asked = WORKFLOWS["deploy"][TRIGGERS]["workflow_dispatch"]["inputs"]["despite_doctor"]
    assert asked["type"] == "boolean"
    assert asked["default"] is False
    lenient = {step["run"]: step["continue-on-error"] for _, step in STEPS if "continue-on-error" in step}
    assert lenient == {'deploy/aws/run-task.sh "$INSTALLATION-check"': "${{ inputs.despite_doctor }}"}


def test_each_environment_that_can_be_chosen_has_its_values_and_every_cdk_command_is_told_which() -> None:
    chosen = WORKFLOWS["deploy"][TRIGGERS]["workflow_dispatch"]["inputs"]["environment"]["options"]
    assert set(chosen) == {path.stem for path in (ROOT / "deploy" / "aws" / "environments").glob("*.json")}
    assert WORKFLOWS["deploy"]["env"]["ENVIRONMENT"] == "${{ inputs.environment }}"
    commands = [step["run"] for _, step in STEPS if '"$CDK"' in step.get("run", "")]
    assert len(commands) == 3
    for command in commands:
        assert '--context environment="$ENVIRONMENT"' in command
        assert '--context image_tag="$VERSION"' in command
    # The values are those of the release, not of the branch that starts the workflow.
    checkouts = [step for name, step in STEPS if name[:7] == "deploy/" and "actions/checkout@" in step.get("uses", "")]
    assert [step["with"]["ref"] for step in checkouts] == ["refs/tags/v${{ inputs.version }}"] * 2


def test_the_region_of_a_deployment_is_that_of_its_values() -> None:
    for name in ("deploy/look", "deploy/deploy"):
        (values,) = [step for step in RUNNING[name]["steps"] if step.get("id") == "values"]
        assert '"deploy/aws/environments/$ENVIRONMENT.json"' in values["run"]
        (credentials,) = [step["with"] for step in RUNNING[name]["steps"] if "configure-aws" in step.get("uses", "")]
        assert credentials["aws-region"] == "${{ steps.values.outputs.region }}"


def test_the_tests_run_on_every_python_that_the_package_is_for() -> None:
    declared = {c.rsplit(" ", 1)[1] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)}
    assert set(JOBS["ci/test"]["strategy"]["matrix"]["python"]) == declared
    bounds = {entry["versions"]: entry["python"] for entry in JOBS["ci/dependencies"]["strategy"]["matrix"]["include"]}
    assert bounds == {"lowest": min(declared), "latest": max(declared)}


def test_what_the_workflows_make_is_a_target_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+(?: [a-z-]+)*):(?!=)", MAKEFILE, re.MULTILINE))
    assert made_by_workflows() <= {target for line in targets for target in line.split()}


def made_by_workflows() -> set[str]:
    """Return the targets that a workflow runs, by name or through the matrix of `ci/dependencies`."""
    commands = [
        word for _, step in STEPS for word in re.findall(r"\bmake (?:--silent )?([a-z-]+)", step.get("run", ""))
    ]
    return {*commands, *(entry["versions"] for entry in JOBS["ci/dependencies"]["strategy"]["matrix"]["include"])}


def test_whatever_make_checks_or_builds_a_workflow_checks_or_builds() -> None:
    shown = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))
    # Targets that show, measure or change something.
    others = {"help", "demo", "dev", "screenshots", "format", "constraints", "clean"}
    others |= {name for name in shown if re.fullmatch(r"bench(-.*)?", name)}
    assert others <= shown
    # `release-files` runs it.
    others.add("sbom")
    assert re.search(r"^release-files: sbom\b", MAKEFILE, re.MULTILINE)
    assert shown - others == made_by_workflows() - {"check"}


def test_every_pinned_dependency_is_held_against_those_known_to_be_vulnerable() -> None:
    pinned = {str(path.relative_to(ROOT)) for path in files_named("requirements*.txt", "constraints*.txt")}
    assert {"constraints.txt", "constraints-dev.txt", "deploy/aws/requirements.txt"} <= pinned
    commands = make("--dry-run", "audit").stdout
    (read,) = re.findall(r"^for file in (.*); do", commands, re.MULTILINE)
    assert set(read.split()) == pinned
    assert "--requirement $file" in commands


def test_updates_are_looked_for_in_everything_that_others_make_and_wait_a_week() -> None:
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())["updates"]
    assert {update["package-ecosystem"] for update in updates} == {"pip", "docker", "docker-compose", "github-actions"}
    assert all(update["cooldown"]["default-days"] >= 7 for update in updates)
    folders = {folder for update in updates for folder in update["directories"]}
    assert [folder for folder in folders if not (ROOT / folder.strip("/")).is_dir()] == []

    def looked_at(ecosystem: str) -> set[str]:
        return {folder for one in updates if one["package-ecosystem"] == ecosystem for folder in one["directories"]}

    requirements = files_named("requirements*.txt", "requirements*.in", "pyproject.toml")
    dockerfiles = [path for path in files_named("Dockerfile*") if any(map(from_outside, bases(path)))]
    services = {
        path: yaml.safe_load(path.read_text()).get("services", {})
        for path in files_named("docker-compose*.y*ml", "deploy/compose/*.yml")
    }
    compose = [
        path
        for path, ours in services.items()
        if any(from_outside(service.get("image", "loginpipe:local")) for service in ours.values())
    ]
    assert requirements
    assert dockerfiles
    assert compose
    assert looked_at("pip") == {folder_of(path) for path in requirements}
    assert looked_at("docker") == {folder_of(path) for path in dockerfiles}
    assert looked_at("docker-compose") == {folder_of(path) for path in compose}
    assert looked_at("github-actions") == {"/"}
