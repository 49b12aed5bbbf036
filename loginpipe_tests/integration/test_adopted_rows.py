"""Rows of an adopted table whose meaning differs from ours: reported at adoption and by doctor, without a value."""

from collections.abc import Sequence
from contextlib import closing
from hashlib import md5, sha256

import psycopg2
import pytest

from loginpipe_tests.commands import Command, command_line, findings

TABLE = """
    CREATE TABLE public.user_logins (
        user_id varchar(128), device_type varchar(32), masked_ip varchar(256), masked_device_id varchar(256),
        locale varchar(32), app_version integer, create_date date
    )
"""
ADVICE = "compare versions of these rows apart from new ones, or convert them; no setting changes what is written"
IPS, DEVICES = [f"10.0.0.{i}" for i in range(4)], [f"593-47-592{i}" for i in range(4)]
Row = tuple[str | None, str | None, int | None]
TOKENS: list[Row] = [
    ("ip.v1." + "A" * 43, "dev.v1." + "A" * 43, 2_003_000),
    ("ip.v1." + "B" * 43, "dev.v2." + "A" * 43, 96_000),
]


def hashed(masked: Sequence[str], *versions: int) -> list[Row]:
    return [(value, value, version) for value, version in zip(masked, versions, strict=False)]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return command_line(monkeypatch, capsys)


def fill(url: str, rows: Sequence[Row]) -> None:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(TABLE)
        for ip, device, version in rows:
            cursor.execute(
                "INSERT INTO user_logins VALUES ('ann', 'ios', %s, %s, NULL, %s, '2024-01-01')", (ip, device, version)
            )


def other_scheme(column: str, form: str, settings: str) -> str:
    return (
        f"{column}: 4 of 4 rows hold {form}, and LOGINPIPE_MASKING is hmac-sha256: new values do not join with them; "
        f"to go on with theirs, set it to {settings}"
    )


SHA256 = ("64 hexadecimal digits", "compat-sha256 or compat-sha256-salted, with its salt in LOGINPIPE_COMPAT_SALT")
MD5 = ("32 hexadecimal digits", "compat-md5")
WITHOUT_DOTS = (
    "app_version: 3 of 4 rows are below 1,000, as 230 is where dots were left out of 2.3.0, and loginpipe writes "
    f"2003000: {ADVICE}"
)
ALL_SMALL = (
    "app_version: none of 4 rows reaches 1,000,000, which is version 1.0.0 as loginpipe writes it: unless all are of "
    f"versions before that, {ADVICE}"
)
CLEAR_ADDRESS = (
    "masked_ip: 4 of 4 rows hold what looks like an address in clear: mask it; loginpipe leaves rows that were there "
    "as they are"
)
UNKNOWN = (
    "masked_device_id: 4 of 4 rows hold values of no form that loginpipe makes: they do not join with new ones, and "
    "may be clear"
)
CASES: dict[str, tuple[list[Row], list[str]]] = {
    "plain SHA-256, versions without dots": (
        hashed([sha256(ip.encode()).hexdigest() for ip in IPS], 230, 96, 10123, 153),
        [WITHOUT_DOTS, other_scheme("masked_ip", *SHA256), other_scheme("masked_device_id", *SHA256)],
    ),
    "MD5, four digits": (
        hashed([md5(ip.encode(), usedforsecurity=False).hexdigest() for ip in IPS], 1241, 1242, 1300, 1301),
        [ALL_SMALL, other_scheme("masked_ip", *MD5), other_scheme("masked_device_id", *MD5)],
    ),
    "clear": (
        [(ip, device, 2_003_000) for ip, device in zip(IPS, DEVICES, strict=True)],
        [CLEAR_ADDRESS, UNKNOWN],
    ),
    "ours": (TOKENS, []),
    "empty cells": ([(None, None, None)], []),
    "no rows": ([], []),
}


@pytest.mark.parametrize("case", CASES)
def test_rows_of_another_meaning_are_named_at_adoption_and_by_doctor_and_no_value_is(
    case: str,
    empty_database_url: str,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, expected = CASES[case]
    fill(empty_database_url, rows)
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", empty_database_url)
    done = command("migrate", "--json")
    assert (done.json["adopted"], done.json["rows"]) == (True, expected)
    assert command("migrate", "--json").json["rows"] == [], "the second time it is not adopted"
    rows_of_doctor = findings()["rows"]
    assert rows_of_doctor.ok
    read = max((sum(cell is not None for cell in column) for column in zip(*rows, strict=True)), default=0)
    assert rows_of_doctor.message == (
        f"warning: {'; '.join(expected)}" if expected else f"{read} rows were checked, and mean the same as new ones"
    )
    clear = [cell for row in rows for cell in row[:2] if cell]
    assert not [cell for cell in clear if cell in done.out + done.err + rows_of_doctor.message]


def test_a_person_is_shown_the_same_and_the_scheme_in_force_is_none(
    empty_database_url: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(empty_database_url, hashed([sha256(ip.encode()).hexdigest() for ip in IPS], 230, 96, 153, 153))
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", empty_database_url)
    monkeypatch.setenv("LOGINPIPE_MASKING", "compat-sha256")
    done = command("migrate")
    assert done.code == 0
    assert "is adopted unchanged" in done.out
    of_rows = [line for line in done.out.splitlines() if "4 of 4 rows" in line]
    assert [line.partition(" are ")[0] for line in of_rows] == ["public.user_logins: app_version: 4 of 4 rows"]
