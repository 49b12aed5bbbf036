"""The command line for an operator: what it prints, where, and with which exit code."""

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import pytest
import typer

from loginpipe import cli
from loginpipe.local.environment import create_login_queue, sqs_client
from loginpipe.local.stack import LocalStack
from loginpipe.masking.key_files import generate_seal_key, private_half, read_seal_key, read_token_keys
from loginpipe.sqs import dead_letters
from loginpipe.sqs.client import Queue, read_depth
from loginpipe_tests.commands import Command, Done
from loginpipe_tests.conftest import KeyFiles, Pipeline, execute
from loginpipe_tests.next_version import next_version
from loginpipe_tests.wire import eventually, ingest, login, logins, take

LOGINPIPE = str(Path(sys.executable).parent / "loginpipe")
WHY = ("--purpose", "a test of the replay", "--ticket", "TEST-1")


def in_a_process(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    names = ("PATH", "HOME", "LANG", "TMPDIR", "COVERAGE_PROCESS_CONFIG")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    return subprocess.run(
        [LOGINPIPE, *arguments],
        cwd=folder,
        env={**kept, "AWS_EC2_METADATA_DISABLED": "true", **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


# --- help -------------------------------------------------------------------------------------------------------------


def commands() -> Iterator[str]:
    """Yield every command, as typed."""

    def below(command: Any, path: str) -> Iterator[str]:
        for name, each in getattr(command, "commands", {}).items():
            yield from below(each, f"{path} {name}".strip())
        if not hasattr(command, "commands"):
            yield path

    return below(typer.main.get_command(cli.app), "")


def test_these_are_the_commands() -> None:
    assert {
        "demo", "dev", "local up", "local down", "migrate", "send", "doctor", "rejects list", "rejects show",
        "extras backfill", "rejects replay", "dlq status", "dlq redrive", "keys generate", "keys rotate", "keys status",
        "pii request", "pii approve", "pii recover", "pii erase", "pii rotate", "pii drill", "pii second-person",
        "pii discard", "pii audit list", "pii audit verify", "alerts test", "check",
    } <= set(commands())  # fmt: skip


@pytest.mark.parametrize("command", list(commands()))
def test_every_command_has_help_with_an_example_of_its_own(loginpipe: Command, command: str) -> None:
    done = loginpipe(*command.split(), "--help")
    assert (done.code, done.err) == (0, "")
    words = " ".join(done.out.replace("│", " ").split())
    assert f"Usage: loginpipe {command} " in words
    assert "Example: " in words
    assert f"loginpipe {command}" in words.partition("Example: ")[2]


@pytest.mark.parametrize("group", ["", "alerts", "local", "rejects", "extras", "dlq", "keys", "pii", "pii audit"])
def test_a_group_without_a_command_lists_what_there_is(loginpipe: Command, group: str) -> None:
    done = loginpipe(*group.split())
    below = {command.removeprefix(group).split()[0] for command in commands() if command.startswith(group)}
    assert below
    assert not [name for name in below if name not in done.out + done.err]


def test_the_program_itself_answers_help_and_ends_an_error_in_one_line(tmp_path: Path) -> None:
    helped = in_a_process("--help", folder=tmp_path)
    assert helped.returncode == 0
    assert "rejects" in helped.stdout
    failed = in_a_process("migrate", folder=tmp_path)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr == "error: LOGINPIPE_DATABASE_URL is not set: set it to postgresql://user@host/database\n"


def test_the_program_says_its_version(loginpipe: Command) -> None:
    assert loginpipe("--version") == Done(0, f"loginpipe {version('loginpipe')}\n", "")


@pytest.mark.parametrize(
    ("typed", "offered"), [("rej", "rejects"), ("rejects list --reason invalid_a", "invalid_address")]
)
def test_a_shell_completes_commands_and_reasons(tmp_path: Path, typed: str, offered: str) -> None:
    words = f"loginpipe {typed}"
    asked = {"_LOGINPIPE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    done = in_a_process(folder=tmp_path, **asked)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [offered], "")
    assert "--install-completion" in in_a_process("--help", folder=tmp_path).stdout


def test_on_windows_it_says_in_one_line_where_it_runs(loginpipe: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(SystemExit, match=r"^error: loginpipe runs on Linux, macOS and WSL 2: .*install it in WSL 2$"):
        cli.main()


def test_a_variable_that_is_no_setting_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LOGINPIPE_SOMETHING=1\nLOGINPIPE_IMAGE=x\n")
    mistyped = {"LOGINPIPE_BATCH_MESAGES": "10", "LOGINPIPE_SEAL_KEY": "off", "LOGINPIPE_TOKEN_KEYS": "file:keys.json"}
    done = in_a_process("keys", "generate", "--json", folder=tmp_path, **mistyped)
    assert done.returncode == 0
    assert json.loads(done.stdout) == {"token_keys": "keys.json", "seal_keys": []}
    assert done.stderr.splitlines() == [
        "LOGINPIPE_BATCH_MESAGES is not a setting and is ignored: did you mean LOGINPIPE_BATCH_MESSAGES?",
        "LOGINPIPE_SOMETHING is not a setting and is ignored: unset it",
    ]


def test_the_ui_is_not_started_on_a_port_that_is_taken_nor_anything_before_it(
    loginpipe: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert loginpipe("dev", "--port", port).error == (
            f"port {port} of 127.0.0.1 cannot be used (Address already in use): choose another with --port"
        )
    assert list(tmp_path.iterdir()) == []
    assert loginpipe("local", "down", "--json").json == {"stopped": False}


# --- errors -----------------------------------------------------------------------------------------------------------

NOWHERE = {
    "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    "AWS_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
}
SOCKET = "postgresql://postgres@/nothing?host=/nowhere"


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a private seal key that nothing was sealed for."""
    public = tmp_path_factory.mktemp("other") / "seal_public.pem"
    generate_seal_key(public)
    return str(private_half(public))


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        ("migrate", {}, "LOGINPIPE_DATABASE_URL is not set: "),
        ("migrate", {"LOGINPIPE_DATABASE_URL": SOCKET}, "cannot connect to the database nothing at /nowhere: "),
        ("migrate", {"LOGINPIPE_DATABASE_URL": "mysql://u:geheim@h/n"}, "invalid setting: LOGINPIPE_DATABASE_URL: "),
        (
            "migrate",
            {"LOGINPIPE_DATABASE_URL": "postgresql://u:geheim@db.example.com/n", "LOGINPIPE_ENV": "production"},
            "production demands verified TLS to the database n at db.example.com: ",
        ),
        ("send", {}, "specify one of --count and --file"),
        ("send --count 1 --file x", {}, "specify one of --count and --file"),
        (
            "send --count 1",
            {"LOGINPIPE_ENV": "production"},
            "--count sends generated events, which a production queue must not receive: ",
        ),
        ("send --count 1", {"LOGINPIPE_ENV": "staging"}, "invalid setting: LOGINPIPE_ENV: "),
        ("send --count 1", {"LOGINPIPE_RECEIVERS": "0"}, "invalid setting: LOGINPIPE_RECEIVERS: "),
        ("send --count 1", {"AWS_EC2_METADATA_DISABLED": "true"}, "queue 'login-queue': no AWS region is set: "),
        ("send --count 1", NOWHERE, "queue 'login-queue': the endpoint is unreachable: "),
        ("send --file absent.json", NOWHERE, "absent.json cannot be read as UTF-8 text: "),
        ("check --count 1", NOWHERE, "queue 'login-queue': the endpoint is unreachable: "),
        ("check --file absent.jsonl", {}, "absent.jsonl cannot be read as UTF-8 text: "),
        ("dlq status", NOWHERE, "queue 'login-queue': the endpoint is unreachable: "),
        ("dlq redrive", NOWHERE, "queue 'login-queue': the endpoint is unreachable: "),
        ("rejects list", {}, "LOGINPIPE_DATABASE_URL is not set: "),
        ("rejects list --reason nope", {}, "there is no reason 'nope': use one of body_damaged, not_unicode, "),
        (
            "rejects replay --reason nope --purpose of-a-test --ticket T-1",
            {},
            "there is no reason 'nope': use one of ",
        ),
        ("rejects list", {"LOGINPIPE_DATABASE_URL": SOCKET}, "cannot connect to the database nothing at /nowhere: "),
        ("rejects show 5f0c6d2e-7f0a-4d3b-9a51-2f6f0b7f9c11", {}, "LOGINPIPE_DATABASE_URL is not set: "),
        (
            "rejects replay --purpose because-it-is-so --ticket 1 --private-key absent.pem",
            NOWHERE,
            "the private key file absent.pem cannot be read ",
        ),
        ("keys generate", {}, "LOGINPIPE_TOKEN_KEYS is not set: "),
        ("keys generate", {"LOGINPIPE_TOKEN_KEYS": "file:tokens.json"}, "LOGINPIPE_SEAL_KEY is not set: "),
        (
            "keys generate",
            {"LOGINPIPE_TOKEN_KEYS": "awskms:alias/tokens", "LOGINPIPE_SEAL_KEY": "off"},
            "neither LOGINPIPE_TOKEN_KEYS nor LOGINPIPE_SEAL_KEY names a file: ",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
def test_what_is_wrong_is_one_line_and_exit_code_1(
    loginpipe: Command, monkeypatch: pytest.MonkeyPatch, arguments: str, environment: dict[str, str], said: str
) -> None:
    monkeypatch.setattr("loginpipe.common.aws._ATTEMPTS", 1)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    error = loginpipe(*arguments.split()).error
    assert error.startswith(said)
    assert "geheim" not in error


@pytest.mark.parametrize(
    "arguments",
    [
        "send --count none",
        "send --count 0",
        "check --count 0",
        "rejects show x",
        "rejects replay",
        "rejects replay --purpose because-it-is-so",
        "rejects list --since then",
        "nothing",
    ],
)
def test_what_is_typed_wrong_is_exit_code_2_and_no_traceback(loginpipe: Command, arguments: str) -> None:
    done = loginpipe(*arguments.split())
    assert (done.code, done.out) == (2, "")
    assert "Usage: " in done.err
    assert "Traceback" not in done.err


def test_a_database_that_is_not_migrated_is_named_by_every_command_that_needs_it(
    loginpipe: Command, monkeypatch: pytest.MonkeyPatch, empty_database_url: str, queue: Queue, key: str
) -> None:
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", empty_database_url)
    monkeypatch.setenv("LOGINPIPE_QUEUE", queue.name)
    for arguments in (
        ("rejects", "list"),
        ("rejects", "show", str(uuid4())),
        ("rejects", "replay", *WHY, "--private-key", key),
        ("dlq", "redrive"),
    ):
        assert "loginpipe migrate" in loginpipe(*arguments).error


@pytest.mark.usefixtures("aws")
def test_a_queue_that_does_not_exist_is_named_by_every_command_that_needs_it(
    loginpipe: Command, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("LOGINPIPE_QUEUE", "no-such-queue")
    for arguments in (
        ("send", "--count", "1"),
        ("check", "--count", "1"),
        ("dlq", "status"),
        ("dlq", "redrive"),
        ("rejects", "replay", *WHY, "--private-key", key),
    ):
        assert loginpipe(*arguments).error.startswith("queue 'no-such-queue' does not exist in this account and region")


# --- send -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared_queue(stack: LocalStack) -> Queue:
    client = sqs_client(stack)
    name = f"sent-{uuid4().hex}"
    return Queue(name, create_login_queue(client, name), client)


@pytest.fixture
def target(shared_queue: Queue, aws: None, monkeypatch: pytest.MonkeyPatch) -> Queue:
    """Return the queue in the settings; it is empty."""
    shared_queue.client.purge_queue(QueueUrl=shared_queue.url)
    monkeypatch.setenv("LOGINPIPE_QUEUE", shared_queue.name)
    return shared_queue


def bodies(queue: Queue) -> list[str]:
    """Return the bodies of all messages that the queue delivers now, sorted."""
    found: list[str] = []
    while answer := queue.client.receive_message(QueueUrl=queue.url, MaxNumberOfMessages=10).get("Messages"):
        found += [message["Body"] for message in answer]
    return sorted(found)


def test_generated_events_are_as_many_as_asked_for_and_the_same_for_the_same_seed(
    loginpipe: Command, target: Queue
) -> None:
    assert loginpipe("send", "--count", 25, "--seed", 7, "--json").json == {"queue": target.name, "sent": 25}
    sent = bodies(target)
    assert len(sent) == 25
    done = loginpipe("send", "--count", 25, "--seed", 7)
    assert (done.code, done.out) == (0, f"sent 25 messages to queue '{target.name}'\n")
    assert bodies(target) == sent
    loginpipe("send", "--count", 25, "--seed", 8)
    assert bodies(target) != sent


EVENTS = [{"user_id": "a", "n": 1}, {"user_id": "é😀", "n": None}, {"user_id": "two\nlines"}]


@pytest.mark.parametrize(
    ("content", "sent"),
    [
        (json.dumps(EVENTS), EVENTS),
        (json.dumps(EVENTS, indent=2, ensure_ascii=False), EVENTS),
        (f"\n  {json.dumps(EVENTS)}\n", EVENTS),
        ("[]", []),
        ("\n".join(map(json.dumps, EVENTS)), EVENTS),
        ("\r\n".join(map(json.dumps, EVENTS)) + "\r\n\r\n", EVENTS),
        ("", []),
    ],
    ids=["array", "indented array", "array in white space", "empty array", "lines", "lines of Windows", "empty file"],
)
def test_a_file_is_sent_event_by_event(
    loginpipe: Command, target: Queue, tmp_path: Path, content: str, sent: list[Any]
) -> None:
    (tmp_path / "events.json").write_bytes(content.encode())
    assert loginpipe("send", "--file", "events.json", "--json").json["sent"] == len(sent)
    assert sorted(json.dumps(json.loads(body)) for body in bodies(target)) == sorted(map(json.dumps, sent))


def test_lines_are_sent_as_they_are_whatever_they_hold(loginpipe: Command, target: Queue, tmp_path: Path) -> None:
    lines = [*logins(2), "nonsense", '{"a": ', '"[1]"']
    (tmp_path / "events.txt").write_text("\n".join(lines))
    assert loginpipe("send", "--file", "events.txt", "--json").json["sent"] == 5
    assert bodies(target) == sorted(lines)


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85"], ids=ascii)
def test_only_a_line_feed_ends_a_line(loginpipe: Command, target: Queue, tmp_path: Path, character: str) -> None:
    """A text in JSON may contain any of these."""
    line = json.dumps({"user_id": f"a{character}b"}, ensure_ascii=False)
    (tmp_path / "events.txt").write_text(f"{line}\n{line}\n", encoding="utf-8")
    assert loginpipe("send", "--file", "events.txt", "--json").json["sent"] == 2
    assert bodies(target) == [line, line]


def test_a_byte_order_mark_is_no_part_of_the_first_event(loginpipe: Command, target: Queue, tmp_path: Path) -> None:
    (tmp_path / "events.json").write_text(json.dumps(EVENTS), encoding="utf-8-sig")
    assert loginpipe("send", "--file", "events.json", "--json").json["sent"] == 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe[", "cannot be read as UTF-8 text"),
        (b"[1, 2", "begins with [ but is not a JSON array"),
        (b'[{"a": 1}] [{"b": 2}]', "begins with [ but is not a JSON array"),
        (b"[" * 100_000, "begins with [ but is not a JSON array"),
        (b'["\\ud800"]', "events.json"),
    ],
    ids=["not UTF-8", "cut off", "two arrays", "nested too deep", "lone surrogate"],
)
def test_a_file_that_cannot_be_sent_is_named_in_one_line_and_nothing_is_sent(
    loginpipe: Command, target: Queue, tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "events.json").write_bytes(content)
    error = loginpipe("send", "--file", "events.json").error
    assert "events.json" in error
    assert said in error
    assert read_depth(target).total == 0


def test_in_production_a_file_may_be_sent(
    loginpipe: Command, target: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGINPIPE_ENV", "production")
    (tmp_path / "events.txt").write_text(login())
    assert loginpipe("send", "--file", "events.txt", "--json").json == {"queue": target.name, "sent": 1}


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeyFiles:
    """Return the paths of the keys in the settings; the files do not exist yet."""
    monkeypatch.setenv("LOGINPIPE_TOKEN_KEYS", "file:keys/tokens.json")
    monkeypatch.setenv("LOGINPIPE_SEAL_KEY", "file:keys/seal_public.pem")
    return KeyFiles(tmp_path / "keys" / "tokens.json", tmp_path / "keys" / "seal_public.pem")


def contents(files: KeyFiles) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(files.token_keys.parent.iterdir())}


def test_keys_are_made_for_their_owner_alone_and_the_fingerprint_to_pin_is_printed(
    loginpipe: Command, files: KeyFiles
) -> None:
    done = loginpipe("keys", "generate")
    assert (done.code, done.err) == (0, "")
    assert set(contents(files)) == {"tokens.json", "seal_public.pem", "seal_private.pem"}
    for path in (files.token_keys, files.seal_private, files.seal_public):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_seal_key(files.seal_public).fingerprint in done.out.splitlines()[-1]
    assert str(files.seal_private.name) in done.out
    assert read_token_keys(files.token_keys).development
    secret = json.loads(files.token_keys.read_text())["keys"]["1"]
    assert secret not in done.out


def test_keys_are_never_overwritten(loginpipe: Command, files: KeyFiles) -> None:
    loginpipe("keys", "generate")
    before = contents(files)
    assert "keys/tokens.json exists, and keys are never overwritten" in loginpipe("keys", "generate").error
    files.token_keys.unlink()
    again = loginpipe("keys", "generate")
    assert again.code == 1
    assert "keys/seal_public.pem exists, and keys are never overwritten" in again.err
    assert {name: content for name, content in contents(files).items() if name != "tokens.json"} == {
        name: content for name, content in before.items() if name != "tokens.json"
    }


def test_only_the_missing_ones_are_made_if_that_is_asked_for(loginpipe: Command, files: KeyFiles) -> None:
    first = loginpipe("keys", "generate", "--if-missing")
    before = contents(files)
    again = loginpipe("keys", "generate", "--if-missing")
    assert again.code == 0
    assert contents(files) == before
    assert again.out.splitlines() == [first.out.splitlines()[-1]], "the fingerprint alone"
    files.token_keys.unlink()
    assert loginpipe("keys", "generate", "--if-missing").code == 0
    after = contents(files)
    assert set(after) == set(before)
    assert after["seal_public.pem"] == before["seal_public.pem"]
    assert after["tokens.json"] != before["tokens.json"]


def test_what_was_made_is_json_for_scripts(loginpipe: Command, files: KeyFiles) -> None:
    first = loginpipe("keys", "generate", "--json").json
    key = {"public": "keys/seal_public.pem", "fingerprint": read_seal_key(files.seal_public).fingerprint}
    assert first == {"token_keys": "keys/tokens.json", "seal_keys": [{**key, "private": "keys/seal_private.pem"}]}
    again = loginpipe("keys", "generate", "--if-missing", "--json").json
    assert again == {"token_keys": None, "seal_keys": [{**key, "private": None}]}


def test_with_sealing_off_token_keys_are_all_there_is(
    loginpipe: Command, files: KeyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGINPIPE_SEAL_KEY", "off")
    assert loginpipe("keys", "generate").code == 0
    assert set(contents(files)) == {"tokens.json"}


def test_keys_made_in_production_are_for_production(
    loginpipe: Command, files: KeyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGINPIPE_ENV", "production")
    monkeypatch.setenv("LOGINPIPE_SEAL_KEY", "off")
    assert loginpipe("keys", "generate").code == 0
    assert not read_token_keys(files.token_keys).development


# --- migrate ----------------------------------------------------------------------------------------------------------


def test_migrating_twice_changes_nothing_and_says_so(
    loginpipe: Command, monkeypatch: pytest.MonkeyPatch, empty_database_url: str
) -> None:
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", empty_database_url)
    first = loginpipe("migrate")
    assert first.code == 0
    assert first.err.startswith(f"set LOGINPIPE_FIRST_DAY={datetime.now(UTC).date():%Y-%m-}")
    assert first.out.startswith("migrated from an empty database to ")
    head = first.out.split()[-1]
    execute(empty_database_url, "INSERT INTO loginpipe.day_changes VALUES ('2026-02-28')")
    monkeypatch.setenv("LOGINPIPE_FIRST_DAY", "2026-02-28")
    again = loginpipe("migrate")
    assert (again.out, again.err) == (f"up to date at {head}\n", "")
    assert loginpipe("migrate", "--json").json == {
        "before": head, "after": head, "table": "public.user_logins", "adopted": False, "findings": [], "rows": [],
        "first_day": "2026-02-28",
    }  # fmt: skip


def test_migrations_are_undone_down_to_a_revision_and_made_again(
    loginpipe: Command, monkeypatch: pytest.MonkeyPatch, empty_database_url: str, tmp_path: Path
) -> None:
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", empty_database_url)
    with next_version(tmp_path / "versions") as head:
        assert loginpipe("migrate", "--to", "0001").error.endswith(" was never migrated: there is nothing to undo")
        assert loginpipe("migrate", "--json").json["after"] == head
        back = loginpipe("migrate", "--to", "0001")
        assert (back.code, back.out, back.err) == (0, f"migrated back from {head} to 0001\n", "")
        for revision in ("0001", head, "0000", "base", "-1"):
            assert f"is at 0001 and cannot go back to {revision}: " in loginpipe("migrate", f"--to={revision}").error
        assert loginpipe("migrate", "--json").json["before"] == "0001"
        assert loginpipe("migrate", "--to", "0001", "--json").json == {"before": head, "after": "0001"}

        loginpipe("migrate")
        columns = "message_id, user_id, device_type, masked_ip, masked_device_id, app_version, create_date, region"
        values = "gen_random_uuid(), 'ann', 'ios', 'ip', 'dev', 1, '2026-11-20', 'DE'"
        execute(empty_database_url, f"INSERT INTO loginpipe.login_extras ({columns}) VALUES ({values})")
        assert loginpipe("migrate", "--to", "0001").error.endswith(
            f"{head} is not undone: logins have a region, and no other place has it"
        )


# --- insights ---------------------------------------------------------------------------------------------------------


def test_duplicates_are_computed_again_from_the_table(
    loginpipe: Command, monkeypatch: pytest.MonkeyPatch, database_url: str, pipeline_url: str
) -> None:
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", pipeline_url)
    both = "('ann', 'ios', 'ip', 'dev', NULL, 1000000, %s), ('bob', 'ios', 'ip', 'dev', NULL, 1000000, %s)"
    execute(database_url, "INSERT INTO user_logins VALUES " + both.replace("%s", "'2026-11-16'"))
    again = loginpipe("insights", "rebuild")
    assert (again.code, again.out) == (0, "duplicate_devices: 1 days; duplicate_ips: 1 days\n")
    assert loginpipe("insights", "rebuild", "--json").json == {"duplicate_devices": 1, "duplicate_ips": 1}
    assert execute(database_url, "SELECT users, logins FROM loginpipe.shared_ips") == [(2, 2)]


# --- rejects ----------------------------------------------------------------------------------------------------------

SECRETS = ("203.0.113.77", "888-77-6666", "person@example.com")


@pytest.fixture
def with_rejects(pipeline: Pipeline) -> Pipeline:
    """Return a pipeline that has rejected four messages for three reasons, and holds two logins."""
    ip, device, user = SECRETS
    ingest(
        pipeline,
        *logins(2),
        login(ip=f"{ip}.9", device_id=device, user_id=user),
        login(ip=ip, device_id=device, user_id=user, app_version="beta"),
        login(ip=ip, device_id=" ", user_id=user, app_version="beta"),
        "nonsense",
    )
    return pipeline


def test_rejects_are_listed_shown_and_replayed_without_a_word_of_what_they_say(
    loginpipe: Command,
    with_rejects: Pipeline,
    key_files: KeyFiles,
    custodian_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    printed = []

    def command(*arguments: object) -> Done:
        done = loginpipe(*arguments)
        assert (done.code, done.err) == (0, "")
        printed.append(done.out)
        return done

    listed = command("rejects", "list", "--json").json
    assert sorted((reject["reasons"], reject["fields"]) for reject in listed) == [
        (["blank", "invalid_version"], ["device_id", "app_version"]),
        (["invalid_address"], ["ip"]),
        (["invalid_version"], ["app_version"]),
        (["not_json"], ["body"]),
    ]
    assert [reject["sent_at"] for reject in listed] == sorted((reject["sent_at"] for reject in listed), reverse=True)
    of_one_reason = command("rejects", "list", "--reason", "invalid_version", "--json").json
    assert len(of_one_reason) == 2
    assert command("rejects", "list", "--since", "2999-01-01", "--json").json == []
    assert command("rejects", "list", "--until", "2000-01-01T00:00:00", "--json").json == []
    assert len(command("rejects", "list", "--since", "2000-01-01", "--until", "2999-01-01", "--json").json) == 4

    one = listed[0]
    assert command("rejects", "show", one["message_id"], "--json").json == one
    shown = command("rejects", "show", one["message_id"]).out
    assert one["message_id"] in shown
    assert ", ".join(one["reasons"]) in shown

    table = command("rejects", "list").out
    for reject in listed:
        assert reject["message_id"] in table, "whole, so that it can be copied"
    assert "device_id: blank" in table

    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", custodian_url)
    # By default, the private key is the one beside the public key.
    replay = ("rejects", "replay", *WHY)
    assert command("rejects", "list", "--json").json == listed
    nothing = {"sent": 0, "still_bad": 4, "without_body": 0, "refused": {}}
    assert command(*replay, "--dry-run", "--json").json == {**nothing, "dry_run": True}
    named = ("--private-key", f"file:{key_files.seal_private}")
    assert command(*replay, *named, "--json").json == {**nothing, "dry_run": False}
    assert "0 sent to queue" in command(*replay).out
    assert not [secret for secret in SECRETS for text in printed if secret in text]
    assert with_rejects.depth() == (0, 0)


def test_what_is_not_all_not_there_or_not_to_be_opened_is_said_in_one_line(
    loginpipe: Command, with_rejects: Pipeline, key: str, custodian_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(loginpipe("rejects", "list", "--limit", 2, "--json").json) == 2
    done = loginpipe("rejects", "list", "--limit", 2)
    assert (done.code, done.err) == (0, "only the newest 2 are shown: use --limit to see more\n")
    missing = uuid4()
    assert loginpipe("rejects", "show", missing).error.startswith(f"no rejected message has the id {missing}: ")
    assert "42501" in loginpipe("rejects", "replay", *WHY).error, "the pipeline's own role may not open"
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", custodian_url)
    assert loginpipe("rejects", "replay", *WHY, "--private-key", key).error.startswith("data key ")
    short = ("rejects", "replay", "--purpose", "short", "--ticket", "TEST-1")
    assert loginpipe(*short).error.startswith("refused, and recorded as purpose_too_short: ")
    assert with_rejects.depth() == (0, 0)


def test_a_reject_that_has_become_good_is_replayed_once_and_no_longer_listed(
    loginpipe: Command,
    pipeline: Pipeline,
    key_files: KeyFiles,
    custodian_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline_url = os.environ["LOGINPIPE_DATABASE_URL"]
    ingest(pipeline, login(app_version="not yet"))
    # As if the rules had been stricter at that time: the sealed body is a good login.
    seal_again(pipeline, key_files, login(user_id="again"))
    replay = ("rejects", "replay", *WHY, "--private-key", key_files.seal_private)
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", custodian_url)
    dry = loginpipe(*replay, "--dry-run")
    assert dry.out == f"1 would be sent to queue '{pipeline.queue.name}'; 0 are still invalid and stay rejected\n"
    assert pipeline.depth() == (0, 0)
    counts = {"sent": 1, "still_bad": 0, "without_body": 0, "refused": {}}
    assert loginpipe(*replay, "--json").json == {**counts, "dry_run": False}
    assert loginpipe("rejects", "list", "--json").json == []
    (listed,) = loginpipe("rejects", "list", "--replayed", "--json").json
    assert listed["replayed_at"] is not None
    assert loginpipe(*replay, "--json").json["sent"] == 0
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", pipeline_url)
    assert take(pipeline, 1).success
    assert pipeline.rows("SELECT user_id FROM user_logins") == [("again",)]


def seal_again(pipeline: Pipeline, key_files: KeyFiles, body: str) -> None:
    """Replace the sealed body of the only reject."""
    from loginpipe.masking.sealing import seal
    from loginpipe.postgres.connections import connect, transaction

    ((message_id,),) = pipeline.rows("SELECT message_id::text FROM loginpipe.rejected_messages")
    sealed = seal([(message_id, body.encode())], "body", [read_seal_key(key_files.seal_public)])
    (key,), (value,) = sealed.data_keys, sealed.values
    connection = connect(pipeline.database_url)
    with transaction(connection) as cursor:
        cursor.execute(
            "INSERT INTO vault.data_keys (data_key_id, recipient, wrapped_key) VALUES (%s, %s, %s)",
            (str(key.data_key_id), key.recipient, key.wrapped_key),
        )
        cursor.execute(
            "UPDATE loginpipe.rejected_messages SET sealed_body = %s, data_key_id = %s, position = %s",
            (value.ciphertext, str(value.data_key_id), value.position),
        )
    connection.close()


# --- dead letters -----------------------------------------------------------------------------------------------------


@pytest.fixture
def dead(pipeline: Pipeline) -> Queue:
    """Return the pipeline's dead-letter queue, with two messages in it."""
    policy = dead_letters.redrive_policy(pipeline.queue)
    assert policy is not None
    pipeline.send(logins(2))

    def dead() -> bool:
        pipeline.queue.client.receive_message(QueueUrl=pipeline.queue.url, MaxNumberOfMessages=10, VisibilityTimeout=0)
        return read_depth(policy.dead_letters).visible == 2

    eventually(dead, "dead letters")
    return policy.dead_letters


def test_dead_letters_are_counted_looked_at_and_moved(loginpipe: Command, pipeline: Pipeline, dead: Queue) -> None:
    status = {"queue": dead.name, "max_receives": 5, "visible": 2, "in_flight": 0, "delayed": 0}
    status |= {"other_queues": 0, "looked_at": None}
    assert loginpipe("dlq", "status", "--json").json == status
    assert loginpipe("dlq", "status").out == (
        f"queue '{dead.name}': 2 waiting, 0 in flight, 0 delayed; messages move there after 5 receives\n"
    )
    counts = {"dropped": 0, "moved": 2, "left": 0, "refused": {}, "others": 0}
    assert loginpipe("dlq", "redrive", "--dry-run", "--json").json == {**counts, "dry_run": True}
    assert "2 would be moved to queue" in loginpipe("dlq", "redrive", "--dry-run").out
    later = loginpipe("dlq", "redrive", "--since", "2999-01-01", "--json")
    assert later.json == {"dropped": 0, "moved": 0, "left": 2, "refused": {}, "others": 0, "dry_run": False}
    earlier = loginpipe("dlq", "redrive", "--until", "2000-01-01 12:00:00", "--json")
    assert earlier.json == {"dropped": 0, "moved": 0, "left": 2, "refused": {}, "others": 0, "dry_run": False}
    assert loginpipe("dlq", "status", "--json").json == status

    assert loginpipe("dlq", "redrive", "--since", "2000-01-01", "--json").json == {**counts, "dry_run": False}
    assert loginpipe("dlq", "redrive").out == (
        f"0 moved to queue '{pipeline.queue.name}', 0 deleted because their outcome is recorded, 0 left\n"
    )
    assert take(pipeline, 2).success
    assert pipeline.rows("SELECT user_id FROM user_logins ORDER BY 1") == [("user-0",), ("user-1",)]


@pytest.mark.parametrize("command", ["status", "redrive"])
def test_a_queue_without_a_dead_letter_queue_is_one_line(
    loginpipe: Command, queue: Queue, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("LOGINPIPE_QUEUE", queue.name)
    queue.client.set_queue_attributes(QueueUrl=queue.url, Attributes={"RedrivePolicy": ""})
    assert loginpipe("dlq", command).error == (
        f"queue '{queue.name}' has no dead-letter queue: give it a redrive policy; see docs/aws.md"
    )


# --- the demonstration ------------------------------------------------------------------------------------------------


def test_the_demonstration_runs_from_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    with TemporaryDirectory() as temporary:
        done = in_a_process("demo", "--count", "50", "--json", folder=tmp_path, TMPDIR=temporary)
        left = [*Path(temporary).iterdir(), *tmp_path.iterdir()]
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    counts = result["counts"]
    assert counts["sent"] == counts["received"] == counts["deleted"] == 50
    assert counts["inserted"] + counts["rejected"] == 50
    assert counts["inserted"] == counts["accepted"] > 40
    assert sum(result["reasons"].values()) >= counts["rejected"] == 1
    assert result["run_seconds"] > 0
    one, two = result["tables"]["two logins from one device: one token"]
    assert (one["device_id, sent"], one["device_id, stored"]) == (two["device_id, sent"], two["device_id, stored"])
    assert one["user_id"] != two["user_id"]
    assert result["tables"]["the same messages, delivered again: nothing changes"] == [
        {"received": 10, "duplicates": 10, "inserted": 0, "rows before": 49, "rows after": 49}
    ]
    (rejected,) = result["tables"]["one rejected message"]
    assert rejected["reason"] in result["reasons"]
    (recovered,) = result["tables"]["the first of these devices, recovered by a custodian"]
    (stored, *_) = result["tables"]["devices seen more than once"]
    assert recovered["masked_device_id"] == stored["masked_device_id"]
    assert recovered["value"].count("-") == 2
    log = result["tables"]["its entries in the access log"]
    assert [entry["action"] for entry in log] == ["request", "release"]
    assert not [path for path in left if "loginpipe" in path.name]
