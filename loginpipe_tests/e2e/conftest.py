"""A project folder with the embedded services running in it, and the UI."""

import shutil
import signal
import subprocess
from collections.abc import Iterator

import pytest

from loginpipe_tests.e2e.project import ROOT, Project, eventually, free_port, graphql


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A folder with the project's own configuration, and `loginpipe local up` in it."""
    project = Project(tmp_path_factory.mktemp("project"))
    for name in ("dagster.yaml", "workspace.yaml"):
        shutil.copy(ROOT / name, project.folder / name)
    try:
        project.run("loginpipe", "local", "up")
        yield project
    finally:
        project.run("loginpipe", "local", "down")


@pytest.fixture(scope="module")
def ui(project: Project) -> Iterator[int]:
    """`loginpipe dev`; gives the port of the UI."""
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
        eventually(lambda: dev.poll() is not None or _answers(port), seconds=90, what=f"the UI answers, see {log}")
        assert dev.poll() is None, log.read_text()[-3000:]
        yield port
    finally:
        dev.send_signal(signal.SIGINT)
        dev.wait(90)


def _answers(port: int) -> bool:
    try:
        return bool(graphql(port, "{ version }"))
    except OSError:
        return False
