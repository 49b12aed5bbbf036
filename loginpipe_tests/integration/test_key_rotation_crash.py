"""A rotation of a token key file is killed at each of its system calls. The file is then the old or the new one."""

import json
import subprocess
import sys
from pathlib import Path

from loginpipe.masking.key_files import generate_token_keys, read_token_keys, rotate_token_keys

KILLED_AT = """
import os, signal, sys
from pathlib import Path
from loginpipe.masking.key_files import rotate_token_keys

path, at = Path(sys.argv[1]), int(sys.argv[2])
seen = 0

def kill(event, arguments):
    global seen
    if event.split(".")[0] in {"open", "os", "fcntl", "pathlib", "shutil"}:
        seen += 1
        if seen == at:
            os.kill(os.getpid(), signal.SIGKILL)

# One process a point, forked here: an audit hook cannot be taken out again, and imports take their time.
while True:
    child = os.fork()
    if not child:
        sys.addaudithook(kill)
        rotate_token_keys(path)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    print(at, os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, path.read_text().replace("\\n", ""), flush=True)
    if not os.WIFSIGNALED(status):
        break
    at += 1
"""


def test_wherever_it_is_killed_the_file_is_whole_and_every_version_that_was_ever_current_is_held(
    tmp_path: Path,
) -> None:
    path = tmp_path / "token_keys.json"
    generate_token_keys(path, development=False)
    versions = json.loads(path.read_text())["keys"]
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT, path, "1"], capture_output=True, text=True, timeout=120, check=True
    )
    reports = [line.split(" ", 2) for line in done.stdout.splitlines()]
    killed = [signal for _, signal, _ in reports]
    assert killed[:-1] == ["9"] * (len(reports) - 1)
    assert killed[-1] == "0"
    assert len(reports) > 8, "it was killed at every point on the way"
    for at, signal, text in reports:
        document = json.loads(text)
        assert document["keys"].items() >= versions.items(), f"killed at {at}, it lost a key"
        assert len(document["keys"]) <= len(versions) + 1
        assert document["current"] == max(map(int, document["keys"]))
        if signal == "0":
            assert len(document["keys"]) == len(versions) + 1
        versions = document["keys"]
    assert len(versions) > 2, "one of those that were killed had put its file in place already"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name], "the last one cleared what the killed left"
    assert path.stat().st_mode & 0o777 == 0o600


def test_after_the_kill_the_next_rotation_is_not_locked_out(tmp_path: Path) -> None:
    path = tmp_path / "token_keys.json"
    generate_token_keys(path, development=False)
    held = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom loginpipe.masking.private_files import exclusively\n"
        "with exclusively(Path(sys.argv[1]), 'token key file'):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", held, path], timeout=60, check=False)
    assert killed.returncode == -9
    assert rotate_token_keys(path).current == 2
    assert read_token_keys(path).current == 2
