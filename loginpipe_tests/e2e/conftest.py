"""One project and one UI for each test file."""

from collections.abc import Iterator

import pytest

from loginpipe_tests.e2e.project import Project, running_project, running_ui


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with running_project(tmp_path_factory.mktemp("project")) as project:
        yield project


@pytest.fixture(scope="module")
def ui(project: Project) -> Iterator[int]:
    with running_ui(project) as port:
        yield port
