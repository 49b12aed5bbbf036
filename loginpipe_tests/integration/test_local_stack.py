"""The embedded services: they start, answer, keep their data, and end, however their users end."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import psutil
import psycopg2
import pytest
from dagster._core.secrets.env_file import get_env_var_dict
from dotenv import dotenv_values

from loginpipe.common.errors import LocalStackError, QueueError
from loginpipe.local import aws
from loginpipe.local.environment import create_login_queue, dagster_home, environment, sqs_client, write_env_file
from loginpipe.local.processes import Record
from loginpipe.local.stack import LocalStack, attach_or_start, down, running, running_stack, up
from loginpipe.sqs.client import Queue, read_depth
from loginpipe.sqs.sending import send_bodies
from loginpipe_tests.commands import command_line
from loginpipe_tests.ports import free_port


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not below tmp_path: pytest makes that private to its user, and if that is root, Postgres runs as another user.
    folder = Path(tempfile.mkdtemp(prefix="loginpipe-test-"))
    yield folder
    down(folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def shared_stack() -> Iterator[LocalStack]:
    with running_stack() as stack:
        yield stack


def login_queue(sqs: Any, name: str) -> Queue:
    return Queue(name, create_login_queue(sqs, name), sqs)


def query(database_url: str, statement: str) -> Any:
    connection = psycopg2.connect(database_url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else None
    finally:
        connection.close()


def pids(folder: Path) -> dict[str, int]:
    recorded = json.loads((folder / "stack.json").read_text())["processes"]
    return dict(zip(("supervisor", "postgres", "aws"), (record["pid"] for record in recorded), strict=True))


def ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def until(holds: Callable[[], bool], what: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def until_gone(processes: dict[str, int]) -> None:
    until(lambda: all(map(ended, processes.values())), "all services gone")


HOLDER = """
import signal, time
from loginpipe.local.stack import running_stack
# A shell without job control starts what it puts in the background, maybe these tests, with Ctrl-C ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    with running_stack() as stack:
        try:
            print(stack.folder, flush=True)
            while True:
                time.sleep(0.1)
        except KeyboardInterrupt:
            import psycopg2
            psycopg2.connect(stack.database_url).close()
            print("still answers", flush=True)
            raise
except KeyboardInterrupt:
    print(stack.folder.exists(), flush=True)
"""


@pytest.fixture
def holder() -> Iterator["subprocess.Popen[str]"]:
    """Yield a program that holds a throwaway stack and has printed its folder."""
    program = [sys.executable, "-c", HOLDER]
    with subprocess.Popen(
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        yield process
        process.kill()


def test_both_services_answer_and_the_databases_are_there(shared_stack: LocalStack) -> None:
    assert query(shared_stack.database_url, "SELECT current_database()") == [("loginpipe",)]
    assert query(shared_stack.database_url, "SHOW timezone") == [("UTC",)]
    assert query(shared_stack.database_url, "SHOW max_connections") == [("200",)]
    assert sqs_client(shared_stack).list_queues()["ResponseMetadata"]["HTTPStatusCode"] == 200


def test_sqlalchemy_finds_dagsters_database_whatever_pgport_says(
    shared_stack: LocalStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy import create_engine, text

    monkeypatch.setenv("PGPORT", "6543")
    engine = create_engine(shared_stack.dagster_postgres_url)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT current_database()")) == "dagster"
    engine.dispose()


def test_no_service_listens_beyond_this_machine(shared_stack: LocalStack) -> None:
    listening = {
        connection.laddr.ip
        for pid in pids(shared_stack.folder).values()
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_a_throwaway_stack_is_gone_after_its_block_even_when_that_fails() -> None:
    held: list[LocalStack] = []
    processes: dict[str, int] = {}

    def fail_within_the_block() -> None:
        with running_stack() as stack:
            held.append(stack)
            processes.update(pids(stack.folder))
            assert not any(map(ended, processes.values()))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_within_the_block()
    assert all(map(ended, processes.values()))
    assert not held[0].folder.exists()


def test_the_services_go_when_the_program_that_uses_them_is_killed(holder: "subprocess.Popen[str]") -> None:
    assert holder.stdout is not None
    folder = Path(holder.stdout.readline().strip())
    processes = pids(folder)
    holder.kill()
    until_gone(processes)
    until(lambda: not folder.exists(), "the folder deleted")


def test_ctrl_c_leaves_the_services_to_the_program_until_it_is_done(holder: "subprocess.Popen[str]") -> None:
    assert holder.stdout is not None
    holder.stdout.readline()
    os.killpg(holder.pid, signal.SIGINT)
    assert holder.stdout.read().split("\n") == ["still answers", "False", ""]


def test_up_twice_is_one_stack_and_down_twice_stops_it_once(folder: Path) -> None:
    assert running(folder) is None
    stack = up(folder)
    processes = pids(folder)
    assert up(folder) == running(folder) == stack
    assert pids(folder) == processes
    with attach_or_start(folder) as attached:
        assert attached == stack
    assert running(folder) == stack
    with pytest.raises(LocalStackError, match="loginpipe local down"), running_stack(folder):
        pass
    assert running(folder) == stack
    assert down(folder)
    assert all(map(ended, processes.values()))
    assert running(folder) is None
    assert not down(folder)


def test_rows_and_messages_outlive_down_and_up_at_the_same_addresses(folder: Path) -> None:
    first = up(folder)
    query(first.database_url, "CREATE TABLE kept AS SELECT 42 AS value")
    send_bodies(login_queue(sqs_client(first), "login-queue"), ["kept"])
    down(folder)
    with attach_or_start(folder) as second:
        assert second == first
        assert query(second.database_url, "SELECT value FROM kept") == [(42,)]
        url = create_login_queue(sqs_client(second), "login-queue")
        assert sqs_client(second).receive_message(QueueUrl=url)["Messages"][0]["Body"] == "kept"
    assert running(folder) is None
    assert folder.exists()


def test_an_endpoint_whose_port_was_taken_moves_and_its_queues_say_so(folder: Path) -> None:
    first = up(folder)
    create_login_queue(sqs_client(first), "login-queue")
    down(folder)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", int(first.endpoint_url.rpartition(":")[2])))
        other.listen()
        second = up(folder)
    assert second.endpoint_url != first.endpoint_url
    url = sqs_client(second).get_queue_url(QueueName="login-queue")["QueueUrl"]
    assert url.startswith(second.endpoint_url)


def test_a_port_that_is_taken_between_choice_and_use_is_chosen_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        choices = iter([taken, free_port()])
        monkeypatch.setattr(aws, "_free_port", lambda: next(choices))
        records: list[Record] = []
        _, port = aws.start_aws(folder, port=None, throwaway=True, note=records.append, stopped=Event().wait)
        try:
            assert port != taken
            assert len(records) == 2
        finally:
            assert [record.stop() for record in records] == [False, True]


def test_two_programs_that_start_one_folder_at_once_get_one_stack(folder: Path) -> None:
    with ThreadPoolExecutor() as threads:
        outcomes = [future.exception() for future in [threads.submit(up, folder) for _ in range(3)]]
    assert outcomes.count(None) == 1
    assert all("already runs" in str(outcome) for outcome in outcomes if outcome is not None)
    assert running(folder) is not None


@pytest.mark.parametrize("fix", [up, down])
def test_what_a_killed_supervisor_left_is_stopped_first(folder: Path, fix: Callable[[Path], object]) -> None:
    query(up(folder).database_url, "CREATE TABLE kept ()")
    left = pids(folder)
    psutil.Process(left["supervisor"]).kill()
    until(lambda: ended(left["supervisor"]), "the supervisor gone")
    assert not ended(left["postgres"])
    assert running(folder) is None
    fix(folder)
    assert all(map(ended, left.values()))
    here = {process.pid for process in psutil.process_iter() if names(process, folder)}
    assert here == (set(pids(folder).values()) if fix is up else set())
    query(up(folder).database_url, "SELECT FROM kept")


def test_a_postgres_that_no_one_wrote_down_is_stopped_before_another_starts_on_its_data(folder: Path) -> None:
    up(folder)
    left = pids(folder)
    for name in ("supervisor", "aws"):
        psutil.Process(left[name]).kill()
    until(lambda: ended(left["supervisor"]), "the supervisor gone")
    (folder / "stack.json").unlink()
    assert query(up(folder).database_url, "SELECT 1") == [(1,)]
    assert ended(left["postgres"])


def names(process: psutil.Process, folder: Path) -> bool:
    try:
        return any(str(folder.resolve()) in argument for argument in process.cmdline())
    except psutil.Error:
        return False


def test_a_stranger_with_a_recorded_process_id_is_left_alone(folder: Path) -> None:
    up(folder)
    down(folder)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        state = json.loads((folder / "stack.json").read_text())
        for record in state["processes"]:
            record["pid"] = stranger.pid
        (folder / "stack.json").write_text(json.dumps({**state, "socket_folder": str(folder / "postgres")}))
        (folder / "postgres" / "postmaster.pid").write_text(f"{stranger.pid}\n")
        assert running(folder) is None
        assert not down(folder)
        up(folder)
        assert stranger.poll() is None
        assert stranger.stdin is not None
        stranger.stdin.close()


def test_when_one_service_dies_the_other_is_stopped_and_the_log_says_why(folder: Path) -> None:
    up(folder)
    processes = pids(folder)
    psutil.Process(processes["aws"]).kill()
    until_gone(processes)
    assert running(folder) is None
    assert "the AWS endpoint ended with code -9" in (folder / "supervisor.log").read_text()


def test_a_service_that_does_not_start_is_named_with_the_end_of_its_log(folder: Path) -> None:
    up(folder)
    down(folder)
    (folder / "postgres" / "postgresql.conf").write_text("no_such_setting = 1")
    with pytest.raises(LocalStackError, match=r"Postgres ended with code 1: .*contains errors.*postgres\.log") as error:
        up(folder)
    assert "\n" not in str(error.value)
    assert not down(folder)


def test_in_a_deep_folder_the_socket_is_elsewhere_and_the_urls_say_where(folder: Path) -> None:
    deep = folder / "a folder's name with spaces, commas & signs" / ("deep" * 20)
    stack = up(deep)
    sockets = Path(json.loads((deep / "stack.json").read_text())["socket_folder"])
    assert deep not in sockets.parents
    assert stat.S_IMODE((sockets / ".s.PGSQL.5432").stat().st_mode) == 0o700
    assert query(stack.database_url, "SELECT 1") == [(1,)]
    down(deep)
    assert not sockets.exists()


def test_the_login_queue_is_made_once_with_its_dead_letter_queue(shared_stack: LocalStack) -> None:
    sqs = sqs_client(shared_stack)
    url = create_login_queue(sqs, "made-once")
    assert create_login_queue(sqs, "made-once") == url
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert attributes["VisibilityTimeout"] == "30"
    redrive = json.loads(attributes["RedrivePolicy"])
    assert redrive["deadLetterTargetArn"].endswith(":made-once-dlq")
    assert int(redrive["maxReceiveCount"]) == 5
    dead_letters = sqs.get_queue_url(QueueName="made-once-dlq")["QueueUrl"]
    kept = sqs.get_queue_attributes(QueueUrl=dead_letters, AttributeNames=["MessageRetentionPeriod"])
    assert kept["Attributes"]["MessageRetentionPeriod"] == str(14 * 24 * 60 * 60)


def test_bodies_are_sent_in_batches_that_the_limit_of_one_mebibyte_allows(shared_stack: LocalStack) -> None:
    sqs = sqs_client(shared_stack)
    queue = login_queue(sqs, "large-and-many")
    added: list[int] = []
    bodies = ["é" * 400_000, "x" * 300_000, *(str(number) for number in range(95)), "y" * 1_000_000]
    assert send_bodies(queue, bodies, added.append) == 98
    assert sum(added) == 98
    assert max(added) == 10
    assert read_depth(queue).visible == 98


def test_sending_says_how_many_messages_were_refused_and_why(shared_stack: LocalStack) -> None:
    sqs = sqs_client(shared_stack)
    queue = login_queue(sqs, "refusing")
    sqs.set_queue_attributes(QueueUrl=queue.url, Attributes={"MaximumMessageSize": "1024"})
    with pytest.raises(QueueError, match=r"^2 messages were refused \(\w+\) and 3 sent: "):
        send_bodies(queue, ["a", "b" * 2000, "c", "d" * 2000, "e"])


def test_sending_to_a_queue_that_is_not_there_says_so(shared_stack: LocalStack) -> None:
    absent = Queue("absent", f"{shared_stack.endpoint_url}/000000000000/absent", sqs_client(shared_stack))
    with pytest.raises(QueueError, match="'absent' does not exist"):
        send_bodies(absent, ["a"])


@pytest.mark.parametrize("folder", ["plain", 'it\'s a #1 folder \\ really & "more"'])
def test_the_env_file_is_read_back_the_same_by_dotenv_dagster_and_shells(
    shared_stack: LocalStack, tmp_path: Path, folder: str
) -> None:
    values = environment(shared_stack, tmp_path / folder)
    assert write_env_file(tmp_path / ".env", values) == []
    assert dotenv_values(tmp_path / ".env") == values
    assert get_env_var_dict(str(tmp_path)) == values
    for shell in ("sh", "bash"):
        assert _sourced(shell, tmp_path, {}) == values
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600


def _sourced(shell: str, folder: Path, exported: dict[str, str]) -> dict[str, str]:
    script = "set -a; . ./.env; env -0"
    printed = subprocess.run(
        [shell, "-c", script], cwd=folder, env=exported, capture_output=True, text=True, check=True
    )
    pairs = (entry.split("=", 1) for entry in printed.stdout.split("\0") if entry)
    return {name: value for name, value in pairs if name not in {"PWD", "OLDPWD", "SHLVL", "_"}}


def test_the_env_file_leaves_what_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_env_file(tmp_path / ".env", {"QUEUE": "ours", "PORT": "1"})
    monkeypatch.setenv("QUEUE", "exported & ${PORT}")
    expected = {"QUEUE": "exported & ${PORT}", "PORT": "1"}
    assert get_env_var_dict(str(tmp_path)) == expected
    assert _sourced("sh", tmp_path, {"QUEUE": expected["QUEUE"]}) == expected


def test_lines_of_the_users_own_stay_and_win(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("# mine\nexport QUEUE='my own'\nEMPTY=\n\nOTHER=1")
    for port in ("1", "2"):
        path.write_text(path.read_text() + f"ADDED_BELOW_{port}=yes\n" if port == "2" else path.read_text())
        assert write_env_file(path, {"QUEUE": "ours", "EMPTY": "filled", "PORT": port}) == ["QUEUE"]
    assert dotenv_values(path) == {
        "QUEUE": "my own",
        "EMPTY": "filled",
        "OTHER": "1",
        "ADDED_BELOW_2": "yes",
        "PORT": "2",
    }
    assert path.read_text().startswith("# mine\nexport QUEUE='my own'\nEMPTY=\n\nOTHER=1\n")
    assert path.read_text().count("\nPORT=") == 1


def test_a_value_that_no_env_file_can_hold_is_refused(tmp_path: Path) -> None:
    for value in ("two\nlines", "${HOME}", "a}", "`id`"):
        with pytest.raises(LocalStackError, match="KEYS cannot be written"):
            write_env_file(tmp_path / ".env", {"KEYS": value})
    assert not (tmp_path / ".env").exists()


def test_in_another_folder_than_the_projects_nothing_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("loginpipe.local.stack.up", lambda _: pytest.fail("services were started"))
    assert (
        "has no dagster.yaml: run the command in the project's folder"
        in command_line(monkeypatch, capsys)("local", "up").error
    )
    assert list(tmp_path.iterdir()) == []


def test_the_dagster_home_is_the_folder_with_the_projects_file(tmp_path: Path) -> None:
    with pytest.raises(LocalStackError, match="run the command in the project's folder"):
        dagster_home(tmp_path)
    (tmp_path / "dagster.yaml").touch()
    assert dagster_home(tmp_path) == tmp_path.resolve()
