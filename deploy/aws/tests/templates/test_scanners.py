"""What other people's tools say of the templates."""

import json
import subprocess
import sys
from pathlib import Path

from loginpipe_aws.exceptions import EXCEPTIONS

SCRIPTS = Path(sys.executable).parent


def run(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([str(SCRIPTS / command[0]), *command[1:]], capture_output=True, text=True, check=False)


def test_cfn_lint_finds_nothing(synthesised: Path) -> None:
    done = run("cfn-lint", *sorted(str(path) for path in synthesised.glob("*.template.json")))
    assert done.returncode == 0, done.stdout
    assert done.stdout == ""


def test_checkov_finds_nothing_but_the_exceptions_that_are_listed_with_their_reasons(synthesised: Path) -> None:
    offline = ("--framework", "cloudformation", "--skip-download")
    done = run("checkov", "--directory", str(synthesised), *offline, "--output", "json")
    report = json.loads(done.stdout)
    failed = [f"{check['check_id']} {check['resource']}" for check in report["results"]["failed_checks"]]
    assert failed == []
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["passed"] > 300
    skipped = {
        check["check_id"]: check["check_result"]["suppress_comment"] for check in report["results"]["skipped_checks"]
    }
    assert set(skipped) == {check for _, check, _ in EXCEPTIONS}
    assert all(skipped.values())
