"""No file and no command uses words that readers do not understand."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import typer

from loginpipe.cli import app

PROJECT = Path(__file__).resolve().parents[2]

# The files to check.
READ = (
    "loginpipe", "docs", "deploy", ".github", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "dagster.yaml",
    ".env.example", "Makefile", "pyproject.toml", "docker-compose.yml",
)  # fmt: skip
WORDS = {
    r"bit(?:e|es|ing)": "batch",
    r"mend(?:s|ed|ing)?": "fix",
    r"anew": "again",
    r"nobody": "no one, or the passive",
    r"somebody": "someone, or who it is",
    r"handovers?": "pass",
    r"hand(?:s|ed|ing)?[ _-]back": "return, release",
    r"books": "counts, run record, reconciliation",
    r"begun": "started",
    r"judg(?:e|ed|es|ing)": "evaluate, validate",
    r"stall(?:s|ed|ing)?": "in-flight limit reached",
    r"standing": "status",
    r"set[ _-]aside": "reject, quarantine",
    r"under[ _-]way": "active, in progress, in flight",
    r"at work": "active, running",
    r"tens": "chunks",
    r"faults?": "error, violation",
    r"contenders?": "baseline",
    r"out[ _-]of[ _-]reach": "unreachable",
    r"patience": "timeout, retry budget",
    r"ended[ _-]well": "succeeded",
}
# Names of others: SQS's field of a failed entry, in any spelling, and Debian's unprivileged user.
NAMES_OF_OTHERS = re.compile(
    r"sender_?fault|postgres_fault|--owner=nobody|USER nobody|\"alert_email\", \"nobody\"", re.IGNORECASE
)

# A word also counts inside an identifier: `_nobody_writes`, `is_judged`.
_WORDS = re.compile("|".join(rf"(?P<w{i}>(?<![a-z0-9]){w}(?![a-z0-9]))" for i, w in enumerate(WORDS)), re.IGNORECASE)
_BETTER = tuple(WORDS.values())


def found_in(text: str, where: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        for word in _WORDS.finditer(NAMES_OF_OTHERS.sub("", line)):
            better = _BETTER[int((word.lastgroup or "w0")[1:])]
            yield f"{where}:{number}: {word[0]!r}: write {better!r}"


def files() -> list[Path]:
    """Return the tracked files; without git, all files."""
    git = shutil.which("git")
    if git and (PROJECT / ".git").exists():
        listed = subprocess.run(
            [git, "-C", str(PROJECT), "ls-files", "-z", "--", *READ], capture_output=True, text=True, check=True
        )
        found = [PROJECT / name for name in listed.stdout.split("\0") if name]
    else:
        roots = [PROJECT / name for name in READ]
        found = [file for root in roots for file in ([root] if root.is_file() else root.rglob("*")) if file.is_file()]
    return sorted(file for file in found if file.is_file())


def helps(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    """Yield the name and the whole help of a command and of its subcommands."""
    yield context.command_path, "\n".join(_texts(command))
    for name, below in getattr(command, "commands", {}).items():
        yield from helps(below, click.Context(below, info_name=name, parent=context))


def _texts(command: click.Command) -> Iterator[str]:
    yield command.help or ""
    for parameter in command.params:
        yield getattr(parameter, "help", None) or ""


def test_no_file_uses_a_word_that_readers_stumbled_over() -> None:
    wrong: list[str] = []
    for file in files():
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # an image
        wrong += found_in(text, str(file.relative_to(PROJECT)))
    assert not wrong, "\n" + "\n".join(wrong)


def test_no_command_uses_such_a_word_in_its_help() -> None:
    program = typer.main.get_command(app)
    shown = dict(helps(program, click.Context(program, info_name="loginpipe")))
    assert len(shown) > 30, sorted(shown)
    wrong = [line for name, text in shown.items() for line in found_in(text, f"{name} --help")]
    assert not wrong, "\n" + "\n".join(wrong)


def test_each_word_is_found_also_in_an_identifier_and_names_of_others_are_not() -> None:
    assert list(found_in("anew\n  def _nobody_writes", "a.py")) == [
        "a.py:1: 'anew': write 'again'",
        "a.py:2: 'nobody': write 'no one, or the passive'",
    ]
    assert not list(found_in("SenderFault sender_fault default arbiter recommended surrogateescape", "a.py"))
