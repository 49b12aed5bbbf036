"""A user's project folder, the commands as a user types them, and the UI that they start."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
from dotenv import dotenv_values

from loginpipe_tests.ports import free_port

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Project:
    folder: Path

    def command(self, program: str) -> str:
        return str(Path(sys.executable).parent / program)

    def environment(self) -> dict[str, str]:
        """Return an environment without exported settings. A command finds what it needs in the folder's .env.

        Coverage is not measured in it: tracing takes a quarter of the CPU, and other tests reach the same lines.
        """
        kept = ("PATH", "HOME", "LANG", "TMPDIR")
        return {name: os.environ[name] for name in kept if name in os.environ}

    def run(
        self, program: str, *arguments: str, check: bool = True, exported: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [self.command(program), *arguments],
            cwd=self.folder,
            env={**self.environment(), **(exported or {})},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"{program} {arguments}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done

    def files(self) -> Iterator[tuple[Path, bytes]]:
        """Yield the files of the folder with their content, except the queue's state.

        The services are at work, so a file may be gone before it is read.
        """
        for path in self.folder.rglob("*"):
            if path.parent.name != "aws" and path.is_file():
                try:
                    content = path.read_bytes()
                except FileNotFoundError:
                    continue
                yield path, content

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with self._transaction() as cursor:
            cursor.execute(query)
            return cursor.fetchall()

    def execute(self, statement: str) -> None:
        with self._transaction() as cursor:
            cursor.execute(statement)

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        connection = psycopg2.connect(dotenv_values(self.folder / ".env")["LOGINPIPE_DATABASE_URL"])
        try:
            with connection, connection.cursor() as cursor:
                yield cursor
        finally:
            connection.close()


@contextmanager
def running_project(folder: Path) -> Iterator[Project]:
    """Yield a folder with the project's own configuration, in which `loginpipe local up` is running."""
    project = Project(folder)
    for name in ("dagster.yaml", "workspace.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    # dg searches for the package in the project's folder.
    (folder / "loginpipe").symlink_to(ROOT / "loginpipe")
    try:
        project.run("loginpipe", "local", "up")
        yield project
    finally:
        project.run("loginpipe", "local", "down")


@contextmanager
def running_ui(project: Project) -> Iterator[int]:
    """Run `loginpipe dev`; yield the port of the UI."""
    port = free_port()
    log = project.folder / "dev.log"
    with log.open("w") as output:
        dev = subprocess.Popen(
            [project.command("loginpipe"), "dev", "--port", str(port)],
            cwd=project.folder,
            env=project.environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        eventually(lambda: dev.poll() is not None or answers(port), seconds=240, what=f"the UI answers, see {log}")
        assert dev.poll() is None, log.read_text()[-3000:]
        yield port
    finally:
        dev.send_signal(signal.SIGINT)
        dev.wait(180)


def answers(port: int) -> bool:
    try:
        return bool(graphql(port, "{ version }"))
    except OSError:
        return False


def login_events(count: int, null_locales: int) -> list[dict[str, Any]]:
    """Return good, distinct events in the real format; ``null_locales`` of them have no locale."""
    rng = random.Random(7)
    return [
        {
            "user_id": f"{rng.getrandbits(128):032x}",
            "app_version": rng.choice(["5", "0.96", "2.3.0", "9.6"]),
            "device_type": rng.choice(["android", "ios"]),
            "ip": ".".join(str(rng.randrange(256)) for _ in range(4)),
            "locale": None if number < null_locales else rng.choice(["RU", "PH", "ID"]),
            "device_id": f"{rng.randrange(1000):03}-{rng.randrange(100):02}-{number:04}",
        }
        for number in range(count)
    ]


def eventually(condition: Callable[[], Any], *, seconds: float, what: str) -> Any:
    """Poll until a condition is met; return its value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.25)
    raise AssertionError(f"not within {seconds} s: {what}")


def graphql(port: int, query: str, **variables: Any) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql",
        json.dumps({"query": query, "variables": variables}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        document: dict[str, Any] = json.load(answer)
    assert "errors" not in document, document
    data: dict[str, Any] = document["data"]
    return data
