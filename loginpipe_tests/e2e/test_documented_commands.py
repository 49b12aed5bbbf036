"""Every command that the documents show in a code block: run here unchanged, or listed with the reason why not.

A part of what it prints is compared as well.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from loginpipe.local.postgres import psql
from loginpipe_tests.e2e.project import ROOT, Project, login_events

# The embedded server's package warns of it once, where it is imported first.
pytestmark = pytest.mark.filterwarnings("ignore:XDG_RUNTIME_DIR")

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OURS = ("loginpipe", "dagster", "dg")
OTHERS = ("make", "docker", "aws", "psql", "dbt", "pip", "kubectl", "helm", "deploy/[a-z/.-]+")
COMMAND = re.compile(rf"^(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?(?P<program>{'|'.join((*OURS, *OTHERS))}) ")

# Placeholder in a document → the name of its value here.
PLACEHOLDERS = {
    "TOKEN": "token",
    "dev.v1.…": "token",
    "MESSAGE_ID": "rejected",
    "USER_ID": "user",
    "7f0c3f6e-…": "request",
    "2026-03-14": "day",
    "/var/backups/loginpipe": "backups",
    "logins-20261121T021500Z.dump": "dump",
}

# Command → why it is not run here, and what runs it instead.
NOT_RUN = {
    r"aws ": "needs an account of AWS",
    r"docker ": "needs Docker: deploy/compose/verify.sh brings the services up in the workflows",
    r"deploy/compose/verify.sh": "needs Docker: the workflows run it",
    r"make (demo|image|image-scan)\b": "needs Docker or a fresh clone: the workflows run it",
    r"make test\b": "is this run",
    r"(?:[A-Z_]+=\S+ )*make chaos\b": "takes minutes: the weekly workflow runs it",
    r"loginpipe metrics$": "serves until it is interrupted: integration/test_metrics.py",
    r"loginpipe local down": "ends the services: what follows each file of tests here",
    r"loginpipe migrate --to ": "changes the tables of the other commands: integration/test_upgrades.py",
    r"loginpipe pii approve ": "needs a second custodian: integration/custody/test_pii_commands.py",
}

# Beginning of a command → what it prints when it does what the documents say of it. The first match counts.
PRINTS = {
    r"(\.venv/bin/)?loginpipe send ": r"sent \d+ messages to queue",
    r"loginpipe local up": r"To look into the tables:\n.*psql",
    r".*(dg launch|dagster asset materialize) ": r"finished: received \d+ messages",
    r"loginpipe doctor": r"(?s)✓ queue .*✓ database .*✓ token keys .*✓ clocks .*Dagster's daemon ",
    r"loginpipe rejects list --json": r'"reasons": \["missing"',
    r"loginpipe rejects list": r"message +sent \(UTC\) +violations",
    r"loginpipe rejects show ": r"(?s)reasons +missing.*missing means: ",
    r"loginpipe rejects replay .* --dry-run": r"\d+ would be sent",
    r"loginpipe dlq status": r"\d+ waiting.*move there after 5 receives",
    r"loginpipe dlq redrive --dry-run": r"\d+ would be moved",
    r"loginpipe dlq redrive": r"\d+ moved",
    r"loginpipe archive list": r"day +rows +bytes +verified",
    r"loginpipe archive verify": r"1 of 1 archived days are intact",
    r"loginpipe archive restore ": r"exactly the rows of its file",
    r"loginpipe backup create ": r"backups/.*\.dump\n",
    r"loginpipe backup verify ": r"the backup is intact",
    r".*loginpipe check ": r"nothing was written or deleted",
    r"loginpipe pii request ": r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\n",
    r"loginpipe pii recover .* --show": r"^dev\.v1\.\S+ +device_id +\S+ +token\n",
    r"loginpipe pii recover .* --output found.csv": r"1 values are in found\.csv, which only you can read",
    r"loginpipe pii drill --sample 50": r"\d+ stored values were opened and match their tokens",
    r"loginpipe pii drill": r"recovery works: 2 values were sealed, released and opened",
    r"loginpipe pii audit verify .*--anchor-file": r"entries are intact and match 1 anchors",
    r"loginpipe pii erase ": r"erased: \d+ logins, \d+ sealed values",
    r"loginpipe extras backfill ": r"opened \d+ messages; country of 0 is in clear now",
}


@dataclass(frozen=True)
class Shown:
    document: str
    line: str

    def __str__(self) -> str:
        return f"{self.document}: {self.line}"


def shown() -> Iterator[Shown]:
    """Yield the commands in code blocks, each with the first document that shows it, without comments and prompts."""
    seen: set[str] = set()
    for document in DOCUMENTS:
        blocks = re.findall(r"(?m)^ {4,}(.*)$", document.read_text().replace("\\\n", " "))
        lines = [re.sub(r"\s+#\s.*|^\$ ", "", line).strip() for line in blocks]
        for line in lines:
            if COMMAND.match(f"{line} ") and line not in seen:
                seen.add(line)
                yield Shown(document.name, line)


def why_not(command: Shown) -> str | None:
    return next((reason for start, reason in NOT_RUN.items() if re.match(start, command.line)), None)


@dataclass(frozen=True)
class Installation:
    """A project with logins of today and of an archived day, a rejected message and a dead letter."""

    project: Project
    known: dict[str, str]

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        for written, name in PLACEHOLDERS.items():
            line = line.replace(written, self.value(name) if written in line else "")
        folder = self.project.folder
        (folder / "found.csv").unlink(missing_ok=True)
        environment = self.project.environment()
        # The project's programs and those of the embedded server, as a user has them in PATH.
        programs = f"{Path(self.project.command('loginpipe')).parent}:{psql().parent}"
        return subprocess.run(
            ["bash", "-c", line],
            cwd=folder,
            env={
                **environment,
                "PATH": f"{programs}:{environment['PATH']}",
                "LOGINPIPE_ARCHIVE_URL": (folder / "archive").as_uri(),
                "LOGINPIPE_FIRST_DAY": self.known["day"],
            },
            input="y\n",  # the answer to the question of an erasure
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def value(self, name: str) -> str:
        if name == "dump":
            return next((self.project.folder / "backups").glob("*.dump")).name
        if name == "request":
            return self.run(
                "loginpipe pii request TOKEN --purpose 'a test of the documents' --ticket T-1"
            ).stdout.strip()
        return self.known[name]


@pytest.fixture(scope="module")
def installation(project: Project) -> Installation:
    (project.folder / "backups").mkdir()
    (project.folder / ".venv").symlink_to(Path(sys.executable).parents[1])
    good = login_events(20, null_locales=0)
    (project.folder / "login.json").write_text(json.dumps(good[0]))
    (project.folder / "events.jsonl").write_text("\n".join(map(json.dumps, good)))
    (project.folder / "bad.json").write_text(json.dumps({"user_id": "without an address"}))
    for file in ("events.jsonl", "bad.json"):
        project.run("loginpipe", "send", "--file", file)
    project.run("dg", "launch", "--assets", "group:login_ingest")
    ((token, user),) = project.rows("SELECT masked_device_id, user_id FROM user_logins LIMIT 1")
    ((rejected,),) = project.rows("SELECT message_id::text FROM loginpipe.rejected_messages LIMIT 1")
    day = datetime.now(UTC).date() - timedelta(days=3)
    project.execute(
        f"""INSERT INTO user_logins SELECT user_id, device_type, masked_ip, masked_device_id, locale, app_version,
            DATE '{day}' FROM user_logins LIMIT 5;
        INSERT INTO loginpipe.day_changes (day) VALUES ('{day}')"""
    )
    there = Installation(
        project, {"token": token, "user": user, "rejected": rejected, "day": f"{day}", "backups": "backups"}
    )
    for line in (
        "dg launch --assets login_archive --partition 2026-03-14",
        "loginpipe pii audit verify --write-anchor anchors.txt",
    ):
        done = there.run(line)
        assert done.returncode == 0, done.stderr[-2000:]
    return there


def test_every_command_that_is_not_run_or_whose_output_is_known_is_still_shown() -> None:
    assert len(list(shown())) > 50
    assert [start for start in (*NOT_RUN, *PRINTS) if not any(re.match(start, each.line) for each in shown())] == []


@pytest.mark.parametrize("command", [each for each in shown() if why_not(each) is None], ids=str)
def test_a_command_of_the_documents_does_what_they_show(installation: Installation, command: Shown) -> None:
    done = installation.run(command.line)
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed[-4000:]
    expected = next(output for start, output in PRINTS.items() if re.match(start, command.line))
    assert re.search(expected, printed), printed[-4000:]
