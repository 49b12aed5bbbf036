"""The log of a run on a production machine: lines of JSON on stderr without a value of a login, also when shipped."""

import json
import logging
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from loginpipe.common.logs import JsonLines
from loginpipe.defs.ingest.job import INGEST_JOB
from loginpipe.masking.key_files import generate_token_keys, read_seal_key
from loginpipe_tests.canary import BAD, GOOD, MARKERS, found
from loginpipe_tests.conftest import KeyFiles, Pipeline
from loginpipe_tests.wire import eventually

DAGSTER = str(Path(sys.executable).parent / "dagster")
SHIPPER = Path(__file__).parents[2] / "deploy" / "elk" / "rsyslog.conf"
RSYSLOG = shutil.which("rsyslogd") or shutil.which("rsyslogd", path="/usr/sbin")


@pytest.fixture
def production(pipeline: Pipeline, key_files: KeyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set what production requires, and a Dagster instance of this test with the project's `python_logs`."""
    keys = tmp_path / "token_keys.json"
    generate_token_keys(keys, development=False)
    settings = {
        "LOGINPIPE_ENV": "production",
        "LOGINPIPE_TOKEN_KEYS": f"file:{keys}",
        "LOGINPIPE_SEAL_KEY_FINGERPRINT": read_seal_key(key_files.seal_public).fingerprint,
        # One batch, however long its receives take.
        "LOGINPIPE_BATCH_MESSAGES": str(len(GOOD) + len(BAD)),
        "LOGINPIPE_LINGER_SECONDS": "60",
        "DAGSTER_HOME": str(tmp_path),
        # Suppress a warning of the command itself, from before it loads our code.
        "PYTHONWARNINGS": "ignore",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    project = yaml.safe_load((Path(__file__).parents[2] / "dagster.yaml").read_text())
    instance = {"telemetry": {"enabled": False}, "python_logs": project["python_logs"]}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(instance))


def run(level: str, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.setenv("LOGINPIPE_LOG_LEVEL", level)
    done = subprocess.run(
        [DAGSTER, "job", "execute", "-m", "loginpipe.definitions", "-j", INGEST_JOB],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert found({"stdout": done.stdout, "stderr": done.stderr}, MARKERS) == []
    return [json.loads(line) for line in done.stderr.splitlines()]


@pytest.mark.usefixtures("production")
def test_a_run_in_production_logs_json_with_run_job_and_step_and_no_value_of_a_login(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.send([*GOOD, *BAD])
    lines = run("INFO", monkeypatch)
    ((run_id,),) = pipeline.rows("SELECT run_id::text FROM loginpipe.batches")
    assert {line["run_id"] for line in lines} == {run_id}
    assert {line["job"] for line in lines} == {INGEST_JOB}
    assert {"timestamp", "level", "logger", "event"} <= set.intersection(*map(set, lines))
    (line,) = [line for line in lines if line["level"] == "info"]
    assert line["step"] == "ingest"
    assert line["event"] == (
        f"finished: received {len(GOOD) + len(BAD)} messages in 1 batches; inserted {len(GOOD)} logins, skipped 0 "
        f"duplicates, rejected {len(BAD)} messages"
    )
    assert (line["received"], line["batches"], line["deleted"]) == (len(GOOD) + len(BAD), 1, len(GOOD) + len(BAD))
    assert (line["accepted"], line["rejected"]) == (len(GOOD), len(BAD))
    assert (line["inserted"], line["duplicates"]) == (len(GOOD), 0)
    assert line["seconds"] > 0
    assert line["delay_p95_seconds"] > 0


@pytest.mark.usefixtures("production")
def test_the_level_decides_what_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGINPIPE_SEAL_KEY", "off")
    monkeypatch.delenv("LOGINPIPE_SEAL_KEY_FINGERPRINT")
    lines = run("WARNING", monkeypatch)
    assert {(line["level"], line["resource"]) for line in lines} == {("warning", "masking")}
    assert "LOGINPIPE_SEAL_KEY is off" in lines[0]["event"]


class Elasticsearch(ThreadingHTTPServer):
    """A stand-in for Elasticsearch: it accepts bulk requests, and refuses a line whose message is "refused".

    It has a port at once, but answers only after `server_activate`.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Bulk, bind_and_activate=False)
        self.server_bind()
        self.body = ""
        self.documents: dict[str, dict[str, Any]] = {}
        self.all_arrived = threading.Semaphore(0)


class _Bulk(BaseHTTPRequestHandler):
    server: Elasticsearch

    def do_HEAD(self) -> None:
        self.answer(200, {})

    def do_GET(self) -> None:
        self.answer(200, {"version": {"number": "8.15.0"}})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.body += body
        lines = [json.loads(line) for line in body.splitlines()]
        assert self.path.startswith("/_bulk")
        items = []
        for action, document in zip(lines[::2], lines[1::2], strict=True):
            create = action["create"]
            # As for a data stream: no type, no other operation.
            assert create.keys() == {"_index", "_id"}, create
            assert create["_index"] == "logs-loginpipe-default"
            if document["message"] == "refused":
                items.append({"create": {**create, "status": 400, "error": {"type": "document_parsing_exception"}}})
                continue
            self.server.documents[create["_id"]] = document
            items.append({"create": {**create, "status": 201}})
        self.answer(200, {"took": 1, "errors": any("error" in item["create"] for item in items), "items": items})
        for _ in items:
            self.server.all_arrived.release()

    def answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Suppress the log."""


@contextmanager
def rsyslog(folder: Path, elasticsearch: Elasticsearch) -> Iterator[Path]:
    """Run rsyslog with our configuration, listening on a socket as Debian's does on /dev/log."""
    assert RSYSLOG is not None
    ours = SHIPPER.read_text()
    for of_production, here in {
        "https://elasticsearch.example.com:9200": f"http://127.0.0.1:{elasticsearch.server_port}",
        'action.resumeinterval="10"': 'action.resumeinterval="1"',
        "/var/spool/rsyslog": str(folder),
    }.items():
        assert of_production in ours
        ours = ours.replace(of_production, here)
    (folder / "loginpipe.conf").write_text(ours)
    log = folder / "log"
    main = [
        'global(maxMessageSize="64k")',
        'module(load="imuxsock" SysSock.Use="off")',
        f'input(type="imuxsock" Socket="{log}")',
        f'include(file="{folder}/loginpipe.conf")',
        # Lines of other programs go where they went before.
        f'action(type="omfile" file="{folder}/others")',
    ]
    (folder / "main.conf").write_text("\n".join(main) + "\n")
    command = [RSYSLOG, "-n", "-f", str(folder / "main.conf"), "-i", str(folder / "pid")]
    checked = subprocess.run([*command, "-N1"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    program = subprocess.Popen(command, stderr=(folder / "errors").open("w"))
    try:
        eventually(log.exists, "rsyslog listens")
        yield log
    finally:
        program.terminate()
        program.wait(30)


@pytest.mark.skipif(
    RSYSLOG is None or not list(Path("/usr/lib").glob("*/rsyslog/omelasticsearch.so")),
    reason="rsyslog is not installed: Debian's packages rsyslog and rsyslog-elasticsearch bring it",
)
@pytest.mark.usefixtures("production")
def test_a_shipper_brings_the_lines_to_elasticsearch_field_by_field_with_no_value_of_a_login(
    pipeline: Pipeline, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.send([*GOOD, *BAD])
    lines = run("INFO", monkeypatch)
    try:
        int("Grüße " * 2000)
    except ValueError:
        failed = logging.LogRecord("loginpipe.sqs", logging.ERROR, __file__, 1, "it %s", ("fails",), sys.exc_info())
    lines.append(json.loads(JsonLines().format(failed)))
    elasticsearch = Elasticsearch()
    folder = tmp_path_factory.mktemp("rsyslog")
    try:
        with rsyslog(folder, elasticsearch) as log, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to_log:
            to_log.connect(str(log))
            refused = lines[0] | {"event": "refused"}
            ours = [json.dumps(line, ensure_ascii=False) for line in [*lines, refused]]
            for text in ["no JSON", '{"event": "of another program"}', *ours]:
                # In the format of Docker's syslog driver.
                to_log.send(f"<30>Nov 29 13:00:00 0123456789ab[42]: {text}".encode())
            # Elasticsearch is down at first, and nothing is lost.
            eventually(lambda: "omelasticsearch" in (folder / "errors").read_text(), "rsyslog has tried")
            elasticsearch.server_activate()
            threading.Thread(target=elasticsearch.serve_forever, daemon=True).start()
            for _ in ours:
                assert elasticsearch.all_arrived.acquire(timeout=60), (folder / "errors").read_text()
            eventually((folder / "loginpipe-refused.json").exists, "what was refused is kept")
        elasticsearch.shutdown()
    finally:
        elasticsearch.server_close()
    assert "document_parsing_exception" in (folder / "loginpipe-refused.json").read_text()
    assert found({"bulk requests": elasticsearch.body}, MARKERS) == []
    others = (folder / "others").read_text()
    assert "no JSON" in others
    assert "of another program" in others
    assert "finished" not in others
    shipped = sorted(elasticsearch.documents.values(), key=lambda document: document["@timestamp"])
    assert len(shipped) == len(lines)
    for line, document in zip(sorted(lines, key=lambda line: line["timestamp"]), shipped, strict=True):
        rest = {**line}
        assert document["@timestamp"] == rest.pop("timestamp")
        assert document["message"] == rest.pop("event")
        assert document["log"] == {"level": rest.pop("level"), "logger": rest.pop("logger")}
        assert document["service"] == {"name": "loginpipe"}
        assert document["container"] == {"id": "0123456789ab"}
        traceback = rest.pop("exception", None) or rest.pop("error", None)
        assert document.get("error") == (traceback and {"stack_trace": traceback})
        assert document.get("loginpipe", {}) == rest
    (finished,) = [document for document in shipped if document["message"].startswith("finished")]
    assert finished["loginpipe"]["inserted"] == len(GOOD)
