"""Users without a tracking id share no device: counts of duplicates leave placeholders out."""

from contextlib import closing
from hashlib import md5
from pathlib import Path
from typing import Any

import pytest

from loginpipe.masking.key_files import generate_token_keys, rotate_token_keys
from loginpipe.postgres.connections import connect
from loginpipe.postgres.days import stale_days
from loginpipe.postgres.insights import DUPLICATES, refresh_duplicates
from loginpipe_tests.conftest import Pipeline
from loginpipe_tests.wire import ingest, login, metadata

NIL = "00000000-0000-0000-0000-000000000000"


def counted(pipeline: Pipeline) -> dict[str, list[int]]:
    """Recompute the days that are due, as the job does; return the users of each shared device and address."""
    with closing(connect(pipeline.database_url)) as connection:
        for day, tables in sorted(stale_days(connection).items()):
            for table in DUPLICATES.keys() & tables:
                refresh_duplicates(connection, table, day)
    return shown(pipeline)


def shown(pipeline: Pipeline) -> dict[str, list[int]]:
    return {
        name: [users for (users,) in pipeline.rows(f"SELECT users FROM loginpipe.{name} ORDER BY 1")]
        for name in ("duplicate_devices", "duplicate_ips", "shared_devices", "shared_ips")
    }


def only(*users: int) -> dict[str, list[int]]:
    names = ("duplicate_devices", "duplicate_ips", "shared_devices", "shared_ips")
    return {name: list(users) for name in names}


def as_many(users: int, **fields: Any) -> list[str]:
    """Return logins of ``users`` users, which share these fields and no others."""
    name = "-".join(map(str, fields.values()))
    usual = [{"device_id": f"device-{name}-{i}", "ip": f"2001:db8::{len(name)}:{i}"} for i in range(users)]
    return [login(**{**each, **fields, "user_id": f"{name}-{i}"}) for i, each in enumerate(usual)]


def test_logins_with_a_placeholder_are_rows_and_no_duplicates(pipeline: Pipeline) -> None:
    bodies = [
        *as_many(3, device_id=NIL),
        *as_many(3, device_id="Unknown"),
        *as_many(3, device_id=0),
        *as_many(3, ip="0.0.0.0"),
        *as_many(3, ip="::"),
        *as_many(2, device_id="phone", ip="203.0.113.9"),
    ]
    result = ingest(pipeline, *bodies)
    assert pipeline.rows("SELECT count(*) FROM user_logins") == [(len(bodies),)]
    assert counted(pipeline) == only(2)
    plotted = metadata(result)["masked_logins"]
    assert plotted["device_id_seen_before"] == plotted["ip_seen_before"] == pytest.approx(1 / len(bodies))
    with closing(connect(pipeline.database_url)) as connection:
        ((day,),) = pipeline.rows("SELECT min(create_date) FROM user_logins")
        # The 6 devices of the logins with a placeholder as address, and the phone.
        assert refresh_duplicates(connection, "duplicate_devices", day).seen == 7


def test_a_value_that_is_listed_later_is_left_out_of_earlier_days_too_and_counts_again_once_it_is_not(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest(pipeline, *as_many(3, device_id="Test-Device", ip="192.0.2.1"), *as_many(2, device_id="a", ip="192.0.2.2"))
    # Kept as yesterday's, because a day that is over is computed in another way than today.
    pipeline.execute("UPDATE user_logins SET create_date = create_date - 1")
    pipeline.execute("INSERT INTO loginpipe.day_changes (day) SELECT DISTINCT create_date FROM user_logins")
    assert counted(pipeline) == only(2, 3)
    ((marked,),) = pipeline.rows("SELECT count(*) FROM loginpipe.placeholder_tokens")

    monkeypatch.setenv("LOGINPIPE_PLACEHOLDERS", "Test-Device, 192.0.2.1")
    ingest(pipeline, login(user_id="another"))
    assert shown(pipeline) == only(2)
    assert counted(pipeline) == only(2)

    monkeypatch.delenv("LOGINPIPE_PLACEHOLDERS")
    # No login comes, so that nothing else makes the day due.
    assert pipeline.run().success
    assert pipeline.rows("SELECT count(*) FROM loginpipe.placeholder_tokens") == [(marked,)]
    assert counted(pipeline) == only(2, 3)


def test_placeholders_are_known_under_every_key_version_also_once_an_old_one_is_gone(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "token_keys.json"
    generate_token_keys(path, development=True)
    monkeypatch.setenv("LOGINPIPE_TOKEN_KEYS", f"file:{path}")
    ingest(pipeline, *as_many(2, device_id=NIL), *as_many(2, device_id="null"))
    rotate_token_keys(path)
    ingest(pipeline, *as_many(1, device_id=NIL, locale="x"))
    versions = "SELECT DISTINCT made_by FROM loginpipe.placeholder_tokens ORDER BY 1"
    assert pipeline.rows(versions) == [("v1",), ("v2",)]
    assert counted(pipeline) == only()


def test_an_older_scheme_marks_its_own_values_which_stay_marked_after_the_way_out(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setenv("LOGINPIPE_MASKING", "compat-md5")
        ingest(pipeline, *as_many(2, device_id="NULL", ip="0.0.0.0"), *as_many(2, device_id="phone", ip="192.0.2.1"))
        assert counted(pipeline) == only(2)
    ingest(pipeline, *as_many(2, device_id="NULL", ip="0.0.0.0"))
    assert counted(pipeline) == only(2)
    null = md5(b"NULL").hexdigest()
    assert pipeline.rows("SELECT field FROM loginpipe.placeholder_tokens WHERE token = %s", null) == [("device_id",)]
