"""Everything that the documents name exists: metrics, settings, tests, revisions, make targets, files, commands."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from loginpipe.cli import app
from loginpipe.common.settings import PREFIX, Settings
from loginpipe.logins.delays import DELAY_BOUNDS
from loginpipe.logins.rejects import MEANINGS, Reason
from loginpipe.monitoring.metrics import lag_metric, queue_metrics, table_metrics
from loginpipe.postgres.batches import QueueTotals, Totals
from loginpipe.postgres.migrate import HEAD
from loginpipe.postgres.vault import VaultTotals
from loginpipe.sqs.client import Depth
from loginpipe.sqs.dead_letters import DeadLetterDepth, Owners

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "loginpipe_tests"
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")]
MONITORING = [
    path for folder in ("prometheus", "grafana") for path in (ROOT / "deploy" / folder).rglob("*") if path.is_file()
]

ROLES = {"loginpipe_admin", "loginpipe_analyst", "loginpipe_owner", "loginpipe_pipeline", "loginpipe_writer"}
FOLDERS = {"loginpipe_aws", "loginpipe_tests"}


def named(pattern: str, paths: list[Path]) -> dict[str, str]:
    """Return every match of a pattern in some files → one of the files that contain it."""
    return {name: str(path.relative_to(ROOT)) for path in paths for name in re.findall(pattern, path.read_text())}


def metrics() -> Iterator[str]:
    """Yield the name of every sample of `loginpipe metrics`, and of every family except counters."""
    depth = Depth(1, 1, 1)
    totals = QueueTotals(Counter(), (1,) * (len(DELAY_BOUNDS) + 1), 1.0, 1.0, 1.0)
    problems: Counter[tuple[str, str]] = Counter({("missing", "ip"): 1})
    for family in (
        *queue_metrics("logins", depth, DeadLetterDepth(2, 0, 0, 1, Owners(ours=1, others=1))),
        *table_metrics(Totals({"logins": totals}, problems), VaultTotals(1, {1: 1.0})),
        lag_metric("logins", depth, totals, now=1.0),
    ):
        assert family.samples, family.name
        yield from (sample.name for sample in family.samples)
        if family.type != "counter":
            yield family.name
    # The metrics of `PipelineCollector` itself.
    yield from re.findall(r'_gauge\(\s*"(\w+)"', (ROOT / "loginpipe" / "monitoring" / "metrics.py").read_text())


def test_every_metric_that_is_named_exists() -> None:
    found = named(r"\bloginpipe_[a-z_]+", [*DOCUMENTS, *MONITORING])
    wrong = {name: where for name, where in found.items() if name not in {*metrics(), *ROLES, *FOLDERS}}
    assert len(found) > 20
    assert wrong == {}


def test_every_setting_that_is_named_exists() -> None:
    there = {PREFIX + name.upper() for name in Settings.model_fields}
    # The variables that the compose files use.
    there |= set(named(r"\$\{(LOGINPIPE_[A-Z_]+)", [*ROOT.glob("*.yml"), *(ROOT / "deploy" / "compose").glob("*.yml")]))
    # The changelog may also name settings that were removed.
    found = named(r"\bLOGINPIPE_[A-Z_]*[A-Z]", [path for path in DOCUMENTS if path.name != "CHANGELOG.md"])
    assert len(found) > 20
    assert {name: where for name, where in found.items() if name not in there} == {}


def test_every_setting_is_in_the_table_of_settings() -> None:
    rows = re.findall(r"^\| `(LOGINPIPE_[A-Z_]+)` \|", (ROOT / "docs" / "settings.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(PREFIX + name.upper() for name in Settings.model_fields)


def test_every_reason_has_a_meaning_and_is_in_the_table_of_reasons() -> None:
    text = (ROOT / "docs" / "tables.md").read_text()
    assert list(MEANINGS) == list(Reason)
    assert [reason for reason in Reason if f"`{reason}`" not in text] == []


def test_every_code_with_which_something_is_refused_by_us_is_in_the_runbook() -> None:
    from loginpipe.sqs import sending

    text = (ROOT / "docs" / "operations.md").read_text()
    for code in (sending.TOO_LONG, sending.TOO_MANY_ATTRIBUTES, "NotConfirmed"):
        assert f"`{code}`" in text


@pytest.mark.parametrize("document", ["README.md", "docs/how-it-works.md", "docs/security.md"])
def test_every_test_that_holds_us_to_a_promise_exists(document: str) -> None:
    """A path without a folder is in the folder of the one before it, as in "`integration/test_a.py`, `test_b.py`"."""
    paths = re.findall(r"`((?:\w+/)*)((?:test_)?\w+\.py)`", (ROOT / document).read_text())
    assert len(paths) > 5
    folder, missing = "", []
    for named_folder, name in paths:
        folder = named_folder or folder
        if not (TESTS / folder / name).is_file():
            missing.append(folder + name)
    assert missing == []


def code() -> Iterator[tuple[Path, str]]:
    """Yield the lines of the blocks of code and the code within sentences, each with its document."""
    for document in DOCUMENTS:
        for block, within in re.findall(r"(?m)^ {4,}(\S.*)|`([^`\n]+)`", document.read_text().replace("\\\n", " ")):
            yield document, block or within


def test_everything_to_be_made_can_be_made() -> None:
    targets = re.findall(r"^([.a-z][a-z./-]*(?: [a-z-]+)*):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    there = {target for line in targets for target in line.split()}
    words = {
        word: document.name
        for document, line in code()
        for command in re.findall(r"\bmake((?: +[^\s\"')|;&#]+)+)", line)
        for word in re.sub(r" -C \S+", "", command).split()
        if "=" not in word and not word.startswith("-")
    }
    assert {"demo", "base", "image", "kubernetes", ".venv-aws/installed"} <= words.keys()
    assert {word: where for word, where in words.items() if word not in there} == {}


# Made by `make` or by the reader, or names of secrets.
NO_FILES = re.compile(r"\.venv|.*\.env$|.*NAME\.json$|loginpipe/(?:database/|oidc)")


def test_every_path_of_the_repository_that_is_named_exists() -> None:
    """A path begins at the root, at the document, in a package, or in the folder of the scripts of AWS."""
    folders = (ROOT, ROOT / "loginpipe", TESTS, ROOT / "deploy" / "aws")
    missing, found = [], set()
    for document, line in code():
        places = (document.parent, *folders)
        for path in re.findall(r"(?<![\w/:.\-@$*<}…])((?:[\w.-]+/)+[\w.-]*)(?![\w/:…*$])", line):
            first, _, _ = path.partition("/")
            if NO_FILES.match(path) or not any((place / first).is_dir() for place in places):
                continue
            found.add(path)
            if not any((place / path).exists() for place in places):
                missing.append(f"{document.relative_to(ROOT)}: {path}")
    assert {"deploy/kubernetes/values.yaml", "./check-quotas.sh", "policies/deploy.json", "logins/parsing.py"} <= found
    assert missing == []


def test_the_revisions_that_the_documents_show_are_those_of_today() -> None:
    after = f"{int(HEAD) + 1:04}"
    text = (ROOT / "docs" / "upgrading.md").read_text()
    assert re.findall(r"^\| (\d{4}) \|", text, re.MULTILINE) == [f"{number:04}" for number in range(1, int(HEAD) + 1)]
    assert f"(at {HEAD}, needs {after})" in text
    assert f"is at {after}, and this code (loginpipe 0.1.0) knows {HEAD} at most" in text
    assert f"loginpipe migrate --to {HEAD}" in text
    assert f"`{after}_country.py`" in (ROOT / "CONTRIBUTING.md").read_text()


def test_every_command_of_ours_that_is_named_exists_with_its_options() -> None:
    wrong = []
    # Also in containers, in tasks of AWS and after a time of cron.
    before = r"(?:^|[*&|] +| exec [\w-]+ |run-task\.sh [\w-]+ )(?:[A-Z_]+=\S+ )*"
    named = {
        (command, document.relative_to(ROOT))
        for document, line in code()
        for command in re.findall(before + r"(?:\.venv/bin/)?loginpipe ([a-z][^#|&>]*)", line)
    }
    for line, document in named:
        words = line.split()
        command = typer.main.get_command(app)
        while isinstance(command, TyperGroup) and words and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        options = {"--help", *(option for each in command.params for option in each.opts)}
        unknown = [word for word in words if word.startswith("--") and word not in options]
        if unknown or (isinstance(command, TyperGroup) and words and not words[0].startswith("--")):
            wrong.append(f"{document}: loginpipe {line}")
    assert len(named) > 60
    assert {"dlq redrive --per-second 200", "doctor", "backup create /var/backups/loginpipe"} <= {
        command.strip() for command, _ in named
    }
    assert wrong == []


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^a-z0-9_ -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_of_the_documents_leads_somewhere() -> None:
    broken = []
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!\w+:)([^)\s]+)\)", document.read_text()):
            path, _, anchor = target.partition("#")
            leads_to = (document.parent / path).resolve() if path else document
            if not leads_to.exists() or (anchor and anchor not in anchors(leads_to)):
                broken.append(f"{document.relative_to(ROOT)}: {target}")
    assert broken == []
