"""Runs on a table that existed before, with its own constraints and triggers."""

import re
from contextlib import closing
from pathlib import Path

import pytest

from loginpipe.common.logins_table import USER_LOGINS_COLUMNS
from loginpipe.ingest.record import Recorder
from loginpipe.local.stack import LocalStack
from loginpipe.postgres.migrate import migrate
from loginpipe.postgres.session import Session
from loginpipe_tests.batches import masking_of, received
from loginpipe_tests.commands import Command, command_line, findings
from loginpipe_tests.conftest import OWNER, PIPELINE, KeyFiles, Pipeline, as_role, execute
from loginpipe_tests.wire import (
    Custodian,
    cause_of_failure,
    checks,
    eventually,
    login,
    logins,
    metadata,
    take,
    users,
)

ROOT = Path(__file__).parents[2]

TABLE = """
    CREATE TABLE public.user_logins (
        user_id varchar(128), device_type varchar(32), masked_ip varchar(256), masked_device_id varchar(256),
        locale varchar(32) NOT NULL, app_version integer CONSTRAINT only_released CHECK (app_version >= 1000000),
        create_date date
    )
"""


@pytest.fixture
def adopted(pipeline: Pipeline, empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """Return the pipeline on a table that allows no unreleased version and no missing locale."""
    execute(empty_database_url, TABLE)
    assert migrate(empty_database_url).adopted
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", as_role(empty_database_url, PIPELINE))
    return Pipeline(pipeline.queue, empty_database_url, pipeline.instance)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return command_line(monkeypatch, capsys)


def test_rows_that_the_table_refuses_are_rejected_and_hold_up_no_others(
    adopted: Pipeline, key_files: KeyFiles, command: Command
) -> None:
    refused = {
        login(user_id="unreleased", app_version="0.96"): "only_released",
        login(user_id="no locale", locale=None): "locale",
    }
    good = logins(20)
    adopted.send([*good[:7], *refused, *good[7:], "{}"])
    result = take(adopted, 10)
    assert result.success
    assert users(adopted) == sorted(f"user-{i}" for i in range(20))
    opened = Custodian(adopted, key_files).bodies()
    found = adopted.rows(
        "SELECT message_id::text, fields FROM loginpipe.rejected_messages WHERE reasons = '{refused_by_database}'"
    )
    assert {opened[message_id].decode(): fields for message_id, fields in found} == {
        body: [about] for body, about in refused.items()
    }
    assert adopted.rows("SELECT sum(received), sum(inserted), sum(rejected) FROM loginpipe.batches") == [(23, 20, 3)]
    assert adopted.depth() == (0, 0)
    outcome = metadata(result)
    assert outcome["rejected_logins"]["reasons"] == {"refused_by_database": 2, "missing": 1}
    assert outcome["user_logins_table"]["deleted"] == 23
    assert checks(result)["counts_add_up"]
    listed = command("rejects", "list", "--reason", "refused_by_database", "--json").json
    assert sorted(reject["message_id"] for reject in listed) == sorted(message_id for message_id, _ in found)
    assert sorted(reject["fields"] for reject in listed) == [["locale"], ["only_released"]]


def test_a_refused_row_that_is_delivered_again_is_a_duplicate_and_is_not_tried_on_the_table(
    adopted: Pipeline, key_files: KeyFiles
) -> None:
    messages = received([login(app_version="0.96"), login()])
    with closing(Session(as_role(adopted.database_url, PIPELINE))) as session:
        recorder = Recorder(session, masking_of(key_files), queue="queue")
        first, again = ([batch.record for batch in recorder.record(messages)] for _ in range(2))
    assert sorted((record.received, record.inserted, record.rejected) for record in first) == [(1, 0, 1), (1, 1, 0)]
    assert [(record.received, record.duplicates) for record in again] == [(2, 2)], "in one batch"
    assert adopted.rows("SELECT count(*) FROM loginpipe.rejected_messages") == [(1,)]


def test_a_trigger_that_drops_rows_fails_the_run_before_anything_is_deleted(adopted: Pipeline) -> None:
    execute(
        adopted.database_url,
        """
        CREATE FUNCTION drop_some() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RETURN CASE WHEN NEW.user_id = 'user-3' THEN NULL ELSE NEW END;
        END $$;
        CREATE TRIGGER drop_some BEFORE INSERT ON user_logins FOR EACH ROW EXECUTE FUNCTION drop_some()
        """,
    )
    adopted.send(logins(5))
    failed = take(adopted, 5)
    assert cause_of_failure(failed) == (
        "SchemaError: user_logins took 4 of 5 rows: a trigger or a rule keeps rows out of it; nothing was recorded, "
        "see them with \\d public.user_logins in psql and remove what does it"
    )
    assert users(adopted) == []
    for table in ("ingested_messages", "rejected_messages", "batches"):
        assert adopted.rows(f"SELECT count(*) FROM loginpipe.{table}") == [(0,)]
    eventually(lambda: adopted.depth() == (5, 0), "the messages back on the queue")
    execute(adopted.database_url, "DROP TRIGGER drop_some ON user_logins")
    assert take(adopted, 5).success
    assert len(users(adopted)) == 5


WITH_ALL_OF_IT = """
    CREATE TABLE public.customers (name varchar(128) PRIMARY KEY);
    INSERT INTO public.customers SELECT 'user-' || n FROM generate_series(0, 9) AS n;
    CREATE FUNCTION public.in_small_letters() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN NEW.device_type := lower(NEW.device_type); RETURN NEW; END';
    CREATE FUNCTION public.look_away() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE TABLE public.user_logins (
        create_date date, id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        user_id text CONSTRAINT customers_only REFERENCES public.customers,
        device_type varchar(8), masked_ip text, masked_device_id varchar(64), locale varchar(32) NOT NULL,
        app_version integer CONSTRAINT only_released CHECK (app_version >= 1000000),
        loaded_at timestamptz NOT NULL DEFAULT now(), seen text GENERATED ALWAYS AS (device_type || '!') STORED,
        CONSTRAINT one_a_locale UNIQUE (user_id, locale)
    );
    CREATE TABLE public.notes (login uuid CONSTRAINT of_a_login REFERENCES public.user_logins);
    CREATE TRIGGER tidy BEFORE INSERT ON public.user_logins FOR EACH ROW EXECUTE FUNCTION public.in_small_letters();
    CREATE TRIGGER after_it AFTER INSERT ON public.user_logins EXECUTE FUNCTION public.look_away();
    CREATE TRIGGER before_it_goes BEFORE DELETE ON public.user_logins EXECUTE FUNCTION public.look_away();
    CREATE RULE keep AS ON DELETE TO public.user_logins WHERE OLD.user_id = 'user-0' DO INSTEAD NOTHING;
"""
SAID = (
    (
        "device_type is character varying(8), shorter than character varying(32): logins with a longer one are "
        "rejected; docs/tables.md has the statements that widen it"
    ),
    (
        "id, loaded_at, seen: columns of the table's own, which logins leave to their defaults; the archive does not "
        "hold them, so a month that retention drops comes back without their values"
    ),
    (
        "the columns are in the order create_date, user_id, device_type, masked_ip, masked_device_id, locale, "
        "app_version: logins are stored by name, and only `SELECT *` shows it"
    ),
    "constraint only_released, CHECK ((app_version >= 1000000)): logins that it refuses are rejected",
    "rule keep rewrites every DELETE: erasing a user fails; run `DROP RULE keep ON public.user_logins`",
    "trigger before_it_goes, look_away(): erasing a user may fail, or leave rows",
    (
        "constraint customers_only, FOREIGN KEY (user_id) REFERENCES customers(name): logins without a row there are "
        "rejected"
    ),
    (
        "trigger after_it, look_away(): a run fails where it raises an error, those of class 22 and 23 aside, which "
        "reject the login"
    ),
    (
        "locale is NOT NULL: logins without one are rejected; run `ALTER TABLE public.user_logins ALTER COLUMN locale "
        "DROP NOT NULL` to take them"
    ),
    (
        "constraint of_a_login of notes, FOREIGN KEY (login) REFERENCES user_logins(id), refers to this table: erasing "
        "a user fails where a row does; let it be ON DELETE CASCADE or SET NULL"
    ),
    (
        "trigger tidy, in_small_letters(): what it changes in a login is stored so; a run fails where it drops one or "
        "raises an error, those of class 22 and 23 aside, which reject the login"
    ),
    "one_a_locale, UNIQUE (user_id, locale): a second login of the same values is rejected; drop it to keep all",
)


def test_what_a_table_does_to_logins_is_said_by_migrate_and_doctor_and_comes_true(
    pipeline: Pipeline, empty_database_url: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(empty_database_url, WITH_ALL_OF_IT)
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", empty_database_url)
    done = command("migrate")
    assert done.code == 0, done.err
    first, *lines = done.out.splitlines()
    assert first.endswith("; the existing table public.user_logins is adopted unchanged")
    assert lines == [f"public.user_logins: {line}" for line in SAID]
    assert command("migrate", "--json").json["findings"] == list(SAID)

    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", as_role(empty_database_url, PIPELINE))
    said = findings()["table"]
    assert said.ok
    assert said.message == f"warning: public.user_logins: {'; '.join(SAID)}"

    adopted = Pipeline(pipeline.queue, empty_database_url, pipeline.instance)
    refused = {
        login(user_id="user-1", device_type="refrigerator"): "row",
        login(user_id="nobody"): "customers_only",
        login(user_id="user-2", locale=None): "locale",
        login(user_id="user-3", app_version="0.96"): "only_released",
    }
    adopted.send(
        [*refused, login(user_id="user-4", device_type="iOS"), login(user_id="user-4"), login(user_id="user-5")]
    )
    result = take(adopted, 10)
    assert result.success
    assert users(adopted) == ["user-4", "user-5"]
    assert sorted(adopted.rows("SELECT fields[1] FROM loginpipe.rejected_messages")) == sorted(
        (about,) for about in [*refused.values(), "one_a_locale"]
    )
    stored = adopted.rows(
        "SELECT DISTINCT device_type = lower(device_type), seen = device_type || '!' FROM user_logins"
    )
    assert stored == [(True, True)]
    assert adopted.rows("SELECT count(*) FROM user_logins WHERE id IS NULL OR loaded_at IS NULL") == [(0,)]


def test_partitions_with_something_of_their_own_are_named_once_for_all_that_are_alike(empty_database_url: str) -> None:
    months = "".join(
        f"CREATE TABLE public.m{n} PARTITION OF public.user_logins (CONSTRAINT known_{n} CHECK (locale <> 'XX'), "
        f"CONSTRAINT bounds_{n} CHECK (create_date >= '2019-0{n}-01'), UNIQUE (masked_ip)) "
        f"FOR VALUES FROM ('2019-0{n}-01') TO ('2019-0{n + 1}-01');"
        for n in (1, 2, 3)
    )
    execute(
        empty_database_url,
        f"""
        CREATE TABLE public.user_logins (
            {", ".join(f"{name} {kind}" for name, kind in USER_LOGINS_COLUMNS)}
        ) PARTITION BY RANGE (create_date);
        {months}
        CREATE TABLE public.m4 PARTITION OF public.user_logins FOR VALUES FROM ('2019-04-01') TO ('2019-05-01')
            PARTITION BY LIST (locale);
        """,
    )
    assert migrate(empty_database_url).findings == (
        (
            "constraint known_1 of 3 of its partitions, CHECK (((locale)::text <> 'XX'::text)): logins that it refuses "
            "are rejected"
        ),
        "partition m4 is partitioned itself, by LIST (locale): logins that none of its partitions takes are rejected",
        (
            "m1_masked_ip_key of 3 of its partitions, UNIQUE (masked_ip): a second login of the same values is "
            "rejected; drop it to keep all"
        ),
        (
            "partitions: loginpipe did not create 4 of them, such as public.m1: it adds partitions for "
            "other days and never drops these; switch off the job that creates them, or both create partitions for the "
            "same days"
        ),
    )


def test_a_database_of_another_encoding_is_named_and_rejects_what_it_lacks(
    stack: LocalStack, roles: None, key_files: KeyFiles
) -> None:
    execute(stack.database_url, "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    url = stack.database_url.replace("/loginpipe?", "/latin?")
    try:
        assert migrate(url).findings == (
            (
                "the database's encoding is LATIN1: logins with characters that it lacks are rejected; only UTF8 takes "
                "them all"
            ),
        )
        messages = received([login(user_id="zoë"), login(user_id="Зоя")])
        with closing(Session(as_role(url, PIPELINE))) as session:
            recorded = list(Recorder(session, masking_of(key_files), queue="queue").record(messages))
        assert sorted((batch.record.inserted, batch.record.rejected) for batch in recorded) == [(0, 1), (1, 0)]
    finally:
        execute(stack.database_url, "DROP DATABASE latin WITH (FORCE)")


VIEWS = """
    SELECT relname, pg_get_viewdef(oid), obj_description(oid, 'pg_class'), relowner::regrole::text
    FROM pg_class WHERE relkind = 'v' AND relnamespace = 'loginpipe'::regnamespace ORDER BY 1
"""


def test_the_statements_of_the_documentation_widen_a_column_and_leave_all_else_as_it_was(
    pipeline: Pipeline, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = empty_database_url.split("/")[3].split("?", maxsplit=1)[0]
    execute(empty_database_url, f"ALTER DATABASE {name} OWNER TO {OWNER}")
    owner_url = as_role(empty_database_url, OWNER)
    execute(owner_url, TABLE.replace("device_type varchar(32)", "device_type varchar(8)"))
    assert "device_type is character varying(8)" in migrate(owner_url).findings[0]
    monkeypatch.setenv("LOGINPIPE_DATABASE_URL", as_role(empty_database_url, PIPELINE))
    adopted = Pipeline(pipeline.queue, empty_database_url, pipeline.instance)
    grants, views = findings()["grants"], adopted.rows(VIEWS)
    assert grants.ok

    documented = (ROOT / "docs" / "tables.md").read_text()
    (statements,) = re.findall(r"^    DO \$\$\n.*?^    END \$\$;$", documented, re.MULTILINE | re.DOTALL)
    execute(owner_url, statements)
    assert findings()["grants"] == grants
    assert adopted.rows(VIEWS) == views
    assert not [finding for finding in migrate(owner_url).findings if "device_type" in finding]
    adopted.send([login(user_id="ann", device_type="refrigerator")])
    assert take(adopted, 1).success
    assert adopted.rows("SELECT user_id, device_type FROM loginpipe.user_logins_canonical") == [("ann", "refrigerator")]
