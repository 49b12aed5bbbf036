"""Files for values in clear: readable only by their owner, complete or absent, and never replacing another file."""

import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from loginpipe.cli.output import printable
from loginpipe.common.errors import LoginpipeError
from loginpipe.custody.recovery import private_output


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def _umask(request: pytest.FixtureRequest) -> object:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_umask")
def test_the_file_is_its_owners_alone_from_the_first_moment(tmp_path: Path) -> None:
    path = tmp_path / "found.csv"
    with private_output(path) as file:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        file.write("é\r\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == "é\r\n".encode()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_half_of_a_file_is_never_left_behind(tmp_path: Path, error: type[BaseException]) -> None:
    def written_half() -> None:
        with private_output(tmp_path / "found.csv") as file:
            file.write("half of it")
            file.flush()
            raise error

    with pytest.raises(error):
        written_half()
    assert list(tmp_path.iterdir()) == []


@contextmanager
def _no_room() -> Iterator[None]:
    """Limit the size of files to ten bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        yield
    finally:
        # Reset it, because pytest writes too.
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_where_there_is_no_room_it_is_one_line_without_what_was_to_be_written(tmp_path: Path) -> None:
    with _no_room(), pytest.raises(LoginpipeError) as caught, private_output(tmp_path / "found.csv") as file:
        file.write("199.172.111.135")
    assert str(caught.value).startswith(f"cannot write {tmp_path / 'found.csv'} (File too large): ")
    assert "199.172" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", ["file", "link", "broken link", "folder"])
def test_what_is_there_is_left_as_it_is(tmp_path: Path, there: str) -> None:
    path, other = tmp_path / "found.csv", tmp_path / "other"
    if there == "file":
        path.write_text("mine")
    elif there == "folder":
        path.mkdir()
    else:
        if there == "link":
            other.write_text("mine")
        path.symlink_to(other)
    with pytest.raises(LoginpipeError, match="exists and is not overwritten"), private_output(path):
        pass
    assert path.is_symlink() == there.endswith("link")
    assert not other.exists() or other.read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("199.172.111.135", "199.172.111.135"),
        ("é 😀", "é 😀"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\nb\t\x00\x7f\x9b", "a\\nb\\t\\x00\\x7f\\x9b"),
        ("\u202eabc\u200b", "\\u202eabc\\u200b"),
        ("\ud800", "\\ud800"),
    ],
    ids=["plain", "letters", "colour", "control", "direction", "half a character"],
)
def test_what_a_terminal_would_act_upon_is_shown_instead(text: str, shown: str) -> None:
    assert printable(text) == shown
