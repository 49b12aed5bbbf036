"""`loginpipe pii …` for a custodian: output, files, exit codes, and no clear value where none is allowed."""

import csv
import json
import logging
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import pytest

from loginpipe.logins.extras import UnknownFields
from loginpipe.masking.compat import SALTED, CompatMasking
from loginpipe.masking.key_files import generate_seal_key, private_half, read_seal_key
from loginpipe_tests.commands import Command, Done, command_line
from loginpipe_tests.custody import Store, made_up_token, plant_sealed, write_token_keys
from loginpipe_tests.integration.test_key_commands import at_a_terminal
from loginpipe_tests.wire import login

IP, DEVICE = "199.172.111.135", "593-47-5928"
WHY = ("--purpose", "a test of the commands", "--ticket", "TEST-1")


@dataclass(frozen=True)
class Custody:
    """The commands, run as the current login."""

    run: Command
    login_as: Callable[[str], None]
    folder: Path

    def __call__(self, *arguments: object) -> Done:
        return self.run("pii", *arguments)


@pytest.fixture
def keys_of_a_custodian(tmp_path: Path, seal_public: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    keys = tmp_path / "keys"
    keys.mkdir()
    write_token_keys(keys / "tokens.json", 1)
    monkeypatch.setenv("LOGINPIPE_TOKEN_KEYS", f"file:{keys / 'tokens.json'}")
    monkeypatch.setenv("LOGINPIPE_SEAL_KEY", f"file:{seal_public}")
    return tmp_path


@pytest.fixture
def pii(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    custodian_url: str,
    keys_of_a_custodian: Path,
    rotator: str,
) -> Custody:
    """Return the commands, with a custodian's settings and login."""

    def login_as(role: str) -> None:
        monkeypatch.setenv("LOGINPIPE_DATABASE_URL", custodian_url.replace("//custodian:", f"//{role}:"))

    login_as("custodian")
    return Custody(command_line(monkeypatch, capsys), login_as, keys_of_a_custodian)


@pytest.fixture
def tokens(store: Store) -> tuple[str, str]:
    (tokens,) = store.load(login())
    return tokens


def rows_in(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


# --- request, approve, recover ----------------------------------------------------------------------------------------


def test_a_request_prints_its_id_and_is_recovered_to_a_file_for_its_owner_alone(
    pii: Custody, tokens: tuple[str, str]
) -> None:
    requested = pii("request", *tokens, *WHY)
    assert requested.code == 0
    request_id = requested.out.strip()
    assert f"loginpipe pii recover {request_id} --output FILE" in requested.err
    path = pii.folder / "found.csv"
    done = pii("recover", request_id, "--output", path)
    assert (done.code, done.err) == (0, "")
    assert done.out == f"2 values are in {path}, which only you can read: delete it after use\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert rows_in(path) == [
        ["token", "field", "value", "checked_by"],
        [tokens[0], "ip", IP, "token"],
        [tokens[1], "device_id", DEVICE, "token"],
    ]
    assert pii("recover", request_id, "--output", pii.folder / "again.csv").error.startswith(
        "refused, and recorded as released_before: "
    )
    assert not (pii.folder / "again.csv").exists()


def test_tokens_are_recovered_in_one_go_in_the_order_asked(pii: Custody, tokens: tuple[str, str], store: Store) -> None:
    done = pii("recover", *reversed(tokens), *WHY, "--output", "found.csv", "--json")
    shown = done.json
    assert {name: shown[name] for name in ("recovered", "missing", "refused", "output")} == {
        "recovered": 2,
        "missing": [],
        "refused": [],
        "output": "found.csv",
    }
    assert rows_in(pii.folder / "found.csv")[1:] == [
        [tokens[1], "device_id", DEVICE, "token"],
        [tokens[0], "ip", IP, "token"],
    ]
    assert IP not in done.out + done.err
    assert store.rows("SELECT DISTINCT purpose, ticket FROM vault.access_log WHERE action = 'request'") == [
        ("a test of the commands", "TEST-1")
    ]


def test_values_are_shown_only_where_that_is_asked_for(pii: Custody, tokens: tuple[str, str]) -> None:
    assert pii("recover", tokens[0], *WHY).error == "specify one of --output and --show"
    assert pii("recover", tokens[0], *WHY, "--show", "--output", "x").error == "specify one of --output and --show"
    assert pii("recover", tokens[0], *WHY, "--show").out == f"{tokens[0]}  ip  {IP}  token\n"
    assert pii("recover", tokens[0], *WHY, "--show", "--json").json["values"] == [
        {"token": tokens[0], "field": "ip", "value": IP, "checked_by": "token"}
    ]


def test_what_a_sender_put_in_for_the_terminal_to_act_upon_is_shown_and_not_done(pii: Custody, store: Store) -> None:
    ((_, device),) = store.load(login(device_id="\x1b]0;owned\x07[bold]x[/] \x9b:smile:\r\nnext é"))
    done = pii("recover", device, *WHY, "--show")
    assert done.out == f"{device}  device_id  \\x1b]0;owned\\x07[bold]x[/] \\x9b:smile:\\r\\nnext é  token\n"
    assert pii("recover", device, *WHY, "--output", "found.csv").code == 0
    assert rows_in(pii.folder / "found.csv")[1][2] == "\x1b]0;owned\x07[bold]x[/] \x9b:smile:\r\nnext é"


def test_the_body_of_a_rejected_message_is_shown_by_its_id(pii: Custody, store: Store) -> None:
    (message_id,) = store.reject("no JSON, [red]but[/] \x1b[31mcolours")
    done = pii("recover", message_id, *WHY, "--show")
    assert done.out == f"{message_id}  body  no JSON, [red]but[/] \\x1b[31mcolours  message\n"


def test_a_request_that_wants_a_second_person_is_recovered_after_the_approval(
    pii: Custody, tokens: tuple[str, str]
) -> None:
    pii.login_as("loginpipe_owner")
    assert "each request needs the approval" in pii("second-person", "on", "--ticket", "TEST-2").out

    pii.login_as("custodian")
    stopped = pii("recover", tokens[0], *WHY, "--output", "found.csv").error
    request_id = stopped.split()[1]
    assert stopped == (
        f"request {request_id} needs approval: ask another custodian to run "
        f"`loginpipe pii approve {request_id}`, then run `loginpipe pii recover {request_id}`"
    )
    assert not (pii.folder / "found.csv").exists()
    assert pii("recover", request_id, "--show").error.startswith("refused, and recorded as needs_approval: ")
    assert pii("approve", request_id).error.startswith("refused, and recorded as own_request: ")
    requested = pii("request", tokens[1], *WHY, "--json").json
    assert requested["needs_approval"] is True

    pii.login_as("second_custodian")
    assert pii("approve", request_id).out == f"request {request_id} is approved\n"
    assert pii("approve", requested["request"], "--json").json == {"approved": requested["request"]}
    pii.login_as("custodian")
    assert pii("recover", request_id, "--show").out == f"{tokens[0]}  ip  {IP}  token\n"
    assert pii("recover", requested["request"], "--show").out == f"{tokens[1]}  device_id  {DEVICE}  token\n"

    pii.login_as("loginpipe_owner")
    assert pii("second-person", "off", "--ticket", "TEST-3", "--json").json == {"second_person": False}
    pii.login_as("custodian")
    assert pii("request", tokens[1], *WHY, "--json").json["needs_approval"] is False


def test_more_than_ten_values_are_recovered_only_where_that_is_said(pii: Custody, store: Store) -> None:
    devices = [device for _, device in store.load(*(login(device_id=f"device-{n}") for n in range(11)))]
    assert pii("recover", *devices, *WHY, "--show").error == "11 values are more than 10: give --limit 11"
    assert store.log() == [], "that is said before anything is requested"
    assert len(pii("recover", *devices, *WHY, "--show", "--limit", 11).out.splitlines()) == 11
    requested = pii("request", *devices, *WHY)
    assert "--limit 11" in requested.err
    refused = pii("recover", requested.out.strip(), "--output", "found.csv").error
    assert refused.startswith("the request has 11 values, more than --limit 10: none was opened; ")
    assert not (pii.folder / "found.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ip.v1.x", "--purpose", "only a purpose", "--show"), "specify both --purpose and --ticket, "),
        (("ip.v1.x", "--ticket", "TEST-1", "--show"), "specify both --purpose and --ticket, "),
        (("ip.v1.x", "--show"), "specify tokens with --purpose and --ticket, "),
        ((str(uuid4()), str(uuid4()), "--show"), "specify tokens with --purpose and --ticket, "),
        ((str(uuid4()), "--show"), "refused, and recorded as unknown_request: "),
        ((IP, *WHY, "--show"), "one of the values is neither a token nor a message id: "),
        (
            (str(uuid4()), *WHY, "--show"),
            "one of the values is neither a token nor the id of a message with sealed content",
        ),
        (
            (made_up_token("ip.v1", "x"), "--purpose", "short", "--ticket", "TEST-1", "--show"),
            "refused, and recorded as purpose_too_short: ",
        ),
        ((made_up_token("ip.v1", "x"), *WHY, "--show"), "no sealed value exists for these: "),
    ],
    ids=[
        "no ticket",
        "no purpose",
        "no request",
        "two",
        "unknown",
        "a value",
        "a device id",
        "a short purpose",
        "nothing there",
    ],
)
def test_what_cannot_be_recovered_is_one_line(pii: Custody, arguments: tuple[str, ...], said: str) -> None:
    error = pii("recover", *arguments).error
    assert error.startswith(said)
    assert IP not in error


def test_a_file_that_exists_is_found_before_anything_is_released(
    pii: Custody, tokens: tuple[str, str], store: Store
) -> None:
    (pii.folder / "found.csv").write_text("mine")
    (pii.folder / "link.csv").symlink_to(pii.folder / "nowhere")
    for name in ("found.csv", "link.csv"):
        assert pii("recover", *tokens, *WHY, "--output", name).error == (
            f"{name} exists and is not overwritten: specify another file"
        )
    assert "No such file or directory" in pii("recover", *tokens, *WHY, "--output", "no/folder/found.csv").error
    assert (pii.folder / "found.csv").read_text() == "mine"
    assert store.log() == []


def test_a_value_that_was_tampered_with_is_named_and_the_others_are_given_out(
    pii: Custody, tokens: tuple[str, str], store: Store
) -> None:
    for byte in (3, 4):
        store.execute(
            "UPDATE vault.sealed_values SET ciphertext = set_byte(ciphertext, %s, 0) WHERE token = %s", byte, tokens[0]
        )
    done = pii("recover", *tokens, *WHY, "--output", "found.csv")
    assert done.code == 1
    assert done.out.startswith("1 values are in found.csv")
    assert done.err == (
        f"error: the sealed ip of {tokens[0]} cannot be opened: it was altered, or sealed with another key; "
        "see docs/security.md\n"
    )
    assert [row[0] for row in rows_in(pii.folder / "found.csv")] == ["token", tokens[1]]
    alone = pii("recover", tokens[0], *WHY, "--output", "alone.csv")
    assert (alone.code, alone.out, alone.err) == (1, "", done.err)
    assert not (pii.folder / "alone.csv").exists(), "an empty file would look like an answer"
    in_json = pii("recover", *tokens, *WHY, "--output", "json.csv", "--json")
    assert in_json.code == 1
    assert json.loads(in_json.out)["refused"] == [{"token": tokens[0], "problem": "changed"}]


def test_what_is_missing_is_noted_beside_what_is_there(pii: Custody, tokens: tuple[str, str], store: Store) -> None:
    (nothing,) = store.keys.tokens("ip", [b"\x01\x02\x03\x04"])
    done = pii("recover", tokens[0], nothing, *WHY, "--show")
    assert (done.code, done.err) == (0, f"note: no sealed value exists for {nothing}\n")
    assert done.out == f"{tokens[0]}  ip  {IP}  token\n"


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def locked(tmp_path: Path, store: Store) -> tuple[Path, tuple[str, str]]:
    """Return a private key with a passphrase, and the tokens of values sealed for it."""
    public = tmp_path / "locked" / "seal_public.pem"
    generate_seal_key(public, "correct horse")
    (tokens,) = replace(store, recipients=(read_seal_key(public),)).load(login())
    return private_half(public), tokens


def test_the_passphrase_is_asked_for_hidden_and_shown_nowhere(
    pii: Custody, locked: tuple[Path, tuple[str, str]]
) -> None:
    path, tokens = locked
    command = ("pii", "recover", tokens[0], *WHY, "--private-key", str(path), "--show")
    code, seen = at_a_terminal(*command, types=["correct horse"])
    assert code == 0, seen
    assert f"Passphrase of {path}:" in seen
    assert f"{tokens[0]}  ip  {IP}" in seen
    assert "correct horse" not in seen


def test_a_wrong_passphrase_is_one_line_and_nothing_is_requested(
    pii: Custody, locked: tuple[Path, tuple[str, str]], store: Store
) -> None:
    path, tokens = locked
    command = ("pii", "recover", tokens[0], *WHY, "--private-key", f"file:{path}", "--output", "found.csv")
    code, seen = at_a_terminal(*command, types=["incorrect horse"])
    assert code == 1
    assert seen.rstrip().endswith(f"error: the passphrase is wrong for {path}: type it again")
    assert "horse" not in seen
    assert store.log() == []


def test_without_its_private_half_a_custodian_is_told_to_name_it(
    pii: Custody, tokens: tuple[str, str], monkeypatch: pytest.MonkeyPatch, seal_public: Path
) -> None:
    alone = pii.folder / "alone" / "seal_public.pem"
    alone.parent.mkdir()
    alone.write_bytes(seal_public.read_bytes())
    monkeypatch.setenv("LOGINPIPE_SEAL_KEY", f"file:{alone}")
    assert pii("recover", tokens[0], *WHY, "--show").error == (
        f"there is no private key at {private_half(alone)}: specify its place with --private-key"
    )
    done = pii("recover", tokens[0], *WHY, "--show", "--private-key", private_half(seal_public))
    assert done.out == f"{tokens[0]}  ip  {IP}  token\n"


def test_token_keys_that_are_not_this_databases_are_refused_before_anything_is_requested(
    pii: Custody, tokens: tuple[str, str], monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    """With such keys, every value would look planted."""
    write_token_keys(pii.folder / "others.json", 7)
    path = pii.folder / "others.json"
    path.write_text(path.read_text().replace('"7"', '"1"').replace('"current": 7', '"current": 1'))
    monkeypatch.setenv("LOGINPIPE_TOKEN_KEYS", f"file:{path}")
    assert "token key version 1 is not the key" in pii("recover", *tokens, *WHY, "--show").error
    assert store.log() == []


def test_tokens_of_a_salted_scheme_are_compared_where_the_salt_is_named(
    pii: Custody, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((ip, _),) = replace(store, compat=CompatMasking(SALTED, b"and pepper")).load(login())
    refused = pii("recover", ip, *WHY, "--show")
    assert (refused.code, refused.out) == (1, "")
    assert "no available key can check it" in refused.err
    salt = pii.folder / "salt"
    salt.touch(mode=0o600)
    salt.write_text("and pepper\n")
    monkeypatch.setenv("LOGINPIPE_COMPAT_SALT", f"file:{salt}")
    assert pii("recover", ip, *WHY, "--show").out == f"{ip}  ip  {IP}  token\n"


# --- audit ------------------------------------------------------------------------------------------------------------


def test_an_auditor_lists_what_happened(pii: Custody, tokens: tuple[str, str]) -> None:
    pii("recover", tokens[0], *WHY, "--show")
    pii("request", tokens[1], "--purpose", "[red]markup[/] :smile: \x1b[31m", "--ticket", "TEST-9")
    pii.login_as("auditor")
    listed = pii("audit", "list", "--json").json
    assert [(entry["seq"], entry["actor"], entry["action"]) for entry in listed] == [
        (3, "custodian", "request"),
        (2, "custodian", "release"),
        (1, "custodian", "request"),
    ]
    assert listed[2]["subjects"] == [tokens[0]]
    assert len(listed[0]["hash"]) == 64
    table = pii("audit", "list", "--actor", "custodian", "--since", "2026-01-01").out
    assert "a test of the commands" in table
    assert "[red]markup[/] :smile: \\x1b[31m" in table
    assert listed[2]["request_id"] in table
    assert [entry["seq"] for entry in pii("audit", "list", "--token", tokens[0], "--json").json] == [2, 1]
    assert pii("audit", "list", "--limit", 1).err == "only the newest 1 are shown: use --limit to see more\n"
    assert pii("audit", "list", "--actor", "nobody", "--json").json == []


def test_the_log_is_verified_and_its_head_kept(pii: Custody, tokens: tuple[str, str], store: Store) -> None:
    pii("recover", tokens[0], *WHY, "--show")
    pii.login_as("auditor")
    anchors = pii.folder / "anchors.txt"
    done = pii("audit", "verify", "--write-anchor", anchors)
    head = done.out.strip()
    assert (done.code, anchors.read_text()) == (0, f"{head}\n")
    assert head.startswith("2:")
    assert "without an anchor" in done.err
    pii.login_as("custodian")
    pii("request", tokens[0], *WHY)
    pii.login_as("auditor")
    again = pii("audit", "verify", "--anchor-file", anchors, "--write-anchor", anchors, "--anchor", head)
    assert again.code == 0
    assert "match 2 anchors" in again.err
    assert anchors.read_text() == f"{head}\n{again.out.strip()}\n"

    store.execute("ALTER TABLE vault.access_log DISABLE TRIGGER USER; DELETE FROM vault.access_log WHERE seq > 1")
    assert pii("audit", "verify").code == 0
    cut = "entries were cut off at the end: the last entry is 1, and the log had 3"
    assert pii("audit", "verify", "--anchor-file", anchors).error == (
        f"the access log is not intact: {cut}; see docs/security.md"
    )
    in_json = pii("audit", "verify", "--anchor-file", anchors, "--write-anchor", anchors, "--json")
    assert in_json.code == 1
    assert json.loads(in_json.out)["problems"] == [cut]
    assert len(anchors.read_text().splitlines()) == 2, "the head of a log that is not intact is no anchor"


def test_a_custodian_is_no_auditor_and_an_auditor_no_custodian(pii: Custody, tokens: tuple[str, str]) -> None:
    for arguments in (("audit", "list"), ("audit", "verify")):
        assert "42501" in pii(*arguments).error
    pii.login_as("auditor")
    assert "42501" in pii("request", tokens[0], *WHY).error


def test_an_anchor_that_is_none_is_one_line(pii: Custody) -> None:
    pii.login_as("auditor")
    assert pii("audit", "verify", "--anchor", "12:abc").error.startswith(
        "an anchor must be a number, a colon and 64 hex"
    )
    assert "cannot be read" in pii("audit", "verify", "--anchor-file", "absent.txt").error


# --- erase, rotate, drill ---------------------------------------------------------------------------------------------

USER = "424cdd21-063a-43a7-b91b-7ca1a833afae"


def test_a_user_is_erased_after_a_question_and_the_limits_are_said(
    pii: Custody, tokens: tuple[str, str], store: Store
) -> None:
    code, seen = at_a_terminal("pii", "erase", USER, *WHY, types=["n"])
    assert code == 1
    assert "This cannot be undone. Erase the user? [y/N]:" in seen
    assert store.rows("SELECT count(*) FROM user_logins") == [(1,)]
    code, seen = at_a_terminal("pii", "erase", USER, *WHY, types=["y"])
    assert code == 0
    assert "erased: 1 logins, 2 sealed values" in seen
    assert "backups" in seen
    assert "256 values" in " ".join(seen.split())
    assert USER not in seen
    assert store.rows("SELECT count(*) FROM user_logins") == [(0,)]
    again = pii("erase", USER, *WHY, "--yes")
    assert again.out == "erased: 0 logins, 0 sealed values\n"
    assert "No login had that user id." in again.err
    shown = pii("erase", USER, *WHY, "--yes", "--json").json
    assert (shown["logins"], shown["sealed_values"], shown["key_versions"], shown["kept"]) == (0, 0, [1], [])


def test_a_rotation_is_completed_and_then_there_is_nothing_to_do(pii: Custody, store: Store) -> None:
    store.load(login())
    pii.login_as("rotating_custodian")
    assert (
        pii("rotate", *WHY).out == "0 values now have a token of version 1 and a verified alias; 0 were sealed again\n"
    )
    assert store.log() == []
    (pii.folder / "keys" / "tokens.json").unlink()
    write_token_keys(pii.folder / "keys" / "tokens.json", 1, 2)
    assert pii("rotate", *WHY, "--json").json == {
        "version": 2,
        "rotated": 2,
        "sealed": 2,
        "corrected": 0,
        "unchecked": 0,
        "refused": [],
    }
    assert (
        pii("rotate", *WHY).out == "0 values now have a token of version 2 and a verified alias; 0 were sealed again\n"
    )


def test_a_rotation_that_meets_a_bad_value_names_it_and_ends_with_1(pii: Custody, store: Store) -> None:
    ((ip, _),) = store.load(login())
    store.execute("UPDATE vault.sealed_values SET field = 'device_id' WHERE token = %s", ip)
    pii.login_as("rotating_custodian")
    (pii.folder / "keys" / "tokens.json").unlink()
    write_token_keys(pii.folder / "keys" / "tokens.json", 1, 2)
    done = pii("rotate", *WHY)
    assert done.code == 1
    assert done.out == "1 values now have a token of version 2 and a verified alias; 1 were sealed again\n"
    assert done.err.startswith(f"error: the sealed device_id of {ip} cannot be opened: it was altered, ")


def test_a_rotation_that_wants_a_second_person_is_run_with_the_approved_request(
    pii: Custody, store: Store, tokens: tuple[str, str]
) -> None:
    pii.login_as("loginpipe_owner")
    pii("second-person", "on", "--ticket", "TEST-2")
    (pii.folder / "keys" / "tokens.json").unlink()
    write_token_keys(pii.folder / "keys" / "tokens.json", 1, 2)
    pii.login_as("rotating_custodian")
    stopped = pii("rotate", *WHY).error
    request_id = stopped.split()[1]
    assert stopped.endswith(f"then run `loginpipe pii rotate` again with --request {request_id}")
    pii.login_as("custodian")
    assert pii("approve", request_id).code == 0
    pii.login_as("rotating_custodian")
    assert pii("rotate", *WHY, "--request", request_id, "--json").json["rotated"] == 2


def test_a_drill_passes_in_one_line(pii: Custody, store: Store) -> None:
    pii.login_as("rotating_custodian")
    fingerprint = store.recipients[0].fingerprint
    done = pii("drill")
    assert (done.code, done.err) == (0, "")
    assert done.out == f"recovery works: 2 values were sealed, released and opened, with {fingerprint[:16]}…\n"
    assert pii("drill", "--json").json == {"values": 2, "opened_with": [fingerprint], "not_tried": []}
    assert store.rows("SELECT DISTINCT ticket FROM vault.access_log WHERE action = 'request'") == [("drill",)]


def test_a_drill_fails_where_recovery_would(pii: Custody, tmp_path: Path) -> None:
    pii.login_as("rotating_custodian")
    other = generate_seal_key(tmp_path / "other_public.pem")
    assert pii("drill", "--private-key", other).error.startswith("recovery does not work with this private key: ")


def test_a_drill_that_wants_a_second_person_is_finished_with_the_approved_request(pii: Custody) -> None:
    pii.login_as("loginpipe_owner")
    pii("second-person", "on", "--ticket", "TEST-2")
    pii.login_as("rotating_custodian")
    request_id = pii("drill").error.split()[1]
    pii.login_as("custodian")
    assert pii("approve", request_id).code == 0
    pii.login_as("rotating_custodian")
    assert pii("drill", "--request", request_id).out.startswith("recovery works: ")


def test_a_sample_names_a_value_that_was_altered_and_discard_deletes_it_and_no_other(
    pii: Custody, store: Store
) -> None:
    pii.login_as("rotating_custodian")
    assert pii("drill", "--sample", 5).error.startswith("no value is sealed yet: ")
    ((ip, device),) = store.load(login())
    done = pii("drill", "--sample", 5)
    assert (done.code, done.out) == (0, "2 stored values were opened and match their tokens\n")
    assert not [value for value in (IP, DEVICE) if value in done.out + done.err]

    store.execute("UPDATE vault.sealed_values SET ciphertext = overlay(ciphertext placing '\\x0000' from 4) "
                  "WHERE token = %s", device)  # fmt: skip
    done = pii("drill", "--sample", 5)
    assert (done.code, done.out) == (1, "1 stored values were opened and match their tokens\n")
    assert f"of {device} cannot be opened" in done.err
    assert "delete it with `loginpipe pii discard`, so that the value is sealed again" in " ".join(done.err.split())
    in_json = pii("drill", "--sample", 5, "--json")
    bad = [{"token": device, "problem": "changed"}]
    assert (in_json.code, json.loads(in_json.out)) == (1, {"values": 1, "unchecked": 0, "refused": bad})

    pii.login_as("custodian")
    first = pii("discard", ip, *WHY)
    assert (first.code, first.out) == (0, "0 of 1 values did not match their tokens and were deleted\n")
    shown = pii("discard", ip, device, *WHY, "--json").json
    assert (shown["discarded"], shown["problems"]) == (1, bad)
    assert store.rows("SELECT token FROM vault.sealed_values") == [(ip,)]
    assert store.log()[-1] == ("custodian", "discard", "sealed_values=1")
    assert store.load(login()) == [(ip, device)]
    pii.login_as("rotating_custodian")
    assert pii("drill", "--sample", 5, "--json").json == {"values": 2, "unchecked": 0, "refused": []}

    planted = plant_sealed(store, b"yet to come", b"made up")
    store.execute("DELETE FROM vault.data_keys WHERE data_key_id = "
                  "(SELECT data_key_id FROM vault.sealed_values WHERE token = %s)", ip)  # fmt: skip
    pii.login_as("custodian")
    # A value that another private key opens stays.
    other = generate_seal_key(pii.folder / "other_public.pem")
    assert pii("discard", device, *WHY, "--private-key", other, "--json").json["discarded"] == 0
    shown = pii("discard", device, planted, ip, *WHY, "--json").json
    problems = {problem["token"]: problem["problem"] for problem in shown["problems"]}
    assert problems == {planted: "planted", ip: "no_data_key"}
    assert store.rows("SELECT token FROM vault.sealed_values") == [(device,)]


def test_where_sealing_is_off_there_is_nothing_to_drill_or_to_rotate(
    pii: Custody, monkeypatch: pytest.MonkeyPatch, seal_public: Path
) -> None:
    monkeypatch.setenv("LOGINPIPE_SEAL_KEY", "off")
    private = private_half(seal_public)
    for arguments in (("drill",), ("rotate", *WHY)):
        assert "LOGINPIPE_SEAL_KEY is off" in pii(*arguments).error
        assert "LOGINPIPE_SEAL_KEY is off" in pii(*arguments, "--private-key", private).error


# --- extras backfill --------------------------------------------------------------------------------------------------


def backfill(pii: Custody, field: str, *arguments: object) -> Done:
    return pii.run("extras", "backfill", "--field", field, *WHY, *arguments)


def test_a_field_of_the_past_is_filled_in_on_the_record_and_a_second_time_changes_nothing(
    pii: Custody, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.load(*(login(user_id=f"u{i}", country="DE", n=10**30 + i) for i in range(300)))
    store.load(login(user_id="none", session="s"), login(user_id="nul", country="\x00"), login(user_id="plain"))
    named = replace(store, unknown_fields=UnknownFields(frozenset({"country"})))
    named.load(login(user_id="new", country="FR", session="s"))
    sealed = "SELECT message_id, sealed_extras, data_key_id, position FROM loginpipe.login_extras ORDER BY 1"
    before = store.rows(sealed)

    found = backfill(pii, "country", "--json").json
    assert found == {"field": "country", "opened": 302, "filled": 300, "not_storable": 1, "refused": []}
    clear = dict(store.rows("SELECT user_id, extras FROM loginpipe.login_extras"))
    assert clear == {
        **{f"u{i}": {"country": "DE"} for i in range(300)}, "none": None, "nul": None, "new": {"country": "FR"}
    }  # fmt: skip
    assert store.rows(sealed) == before, "it is a copy"
    messages = {i for (i,) in store.rows("SELECT message_id::text FROM loginpipe.login_extras WHERE user_id <> 'new'")}
    released = store.rows("SELECT subjects FROM vault.access_log WHERE action = 'release'")
    assert {subject for (subjects,) in released for subject in subjects} == messages

    again = backfill(pii, "country")
    assert (again.code, again.out) == (0, "opened 2 messages; country of 0 is in clear now\n")
    assert again.err == "note: 1 messages have values that jsonb cannot hold; they stay sealed\n"
    assert dict(store.rows("SELECT user_id, extras FROM loginpipe.login_extras")) == clear
    backfill(pii, "n", "--json").json  # noqa: B018
    assert store.rows(
        "SELECT extras::text FROM loginpipe.login_extras WHERE user_id = 'u7' AND extras->>'n' = %s", str(10**30 + 7)
    ) == [(f'{{"n": {10**30 + 7}, "country": "DE"}}',)]


def test_a_backfill_of_what_is_no_extra_and_with_another_key_fills_nothing(
    pii: Custody, store: Store, tmp_path: Path
) -> None:
    store.load(login(country="DE", client_ip="1.2.3.4"))
    assert backfill(pii, "ip").error == "ip is a field of the login itself, not an extra: specify another one"
    generate_seal_key(tmp_path / "other.pem")
    other = backfill(pii, "country", "--private-key", private_half(tmp_path / "other.pem"))
    assert "it needs the private key of " in other.error
    assert store.rows("SELECT extras FROM loginpipe.login_extras") == [(None,)]
    warned = backfill(pii, "client_ip")
    assert warned.err == "warning: client_ip looks like personal data, and analysts can read it in clear from now on\n"
    assert store.rows("SELECT extras FROM loginpipe.login_extras") == [({"client_ip": "1.2.3.4"},)]
    store.execute("UPDATE loginpipe.login_extras SET extras = NULL, sealed_extras = sealed_extras || sealed_extras")
    damaged = backfill(pii, "country")
    assert damaged.code == 1
    assert "the sealed extras of " in damaged.err
    store.execute("DELETE FROM loginpipe.login_extras")
    assert backfill(pii, "country").out == "opened 0 messages; country of 0 is in clear now\n"


# --- no clear value where none is allowed -----------------------------------------------------------------------------


def test_recovered_values_are_in_the_file_and_nowhere_else(
    pii: Custody, tokens: tuple[str, str], store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    printed = [pii("recover", *tokens, *WHY, "--output", "found.csv")]
    for statement in (
        "ALTER TABLE vault.sealed_values DROP CONSTRAINT sealed_values_of_a_masked_field",
        "ALTER TABLE vault.sealed_values DROP CONSTRAINT sealed_values_of_whole_blocks",
        "UPDATE vault.sealed_values SET field = 'body' WHERE field = 'ip'",
        "UPDATE vault.sealed_values SET ciphertext = ciphertext || ciphertext WHERE field = 'device_id'",
    ):
        store.execute(statement)
        printed.append(pii("recover", *tokens, *WHY, "--output", "second.csv"))
        (pii.folder / "second.csv").unlink(missing_ok=True)
    shown = "".join(done.out + done.err for done in printed) + caplog.text
    files = {path.name: path.read_text(errors="replace") for path in pii.folder.rglob("*") if path.is_file()}
    database = repr(store.rows("SELECT access_log::text FROM vault.access_log"))
    found = files.pop("found.csv")
    for value in (IP, DEVICE):
        assert value in found
        assert value not in shown
        assert value not in database
    assert not [name for name, text in files.items() if IP in text or DEVICE in text]
