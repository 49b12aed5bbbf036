"""Without the extra `archive`: the pipeline works, and the archive reports what to install."""

import subprocess
import sys
from pathlib import Path

# If pyarrow is installed, pandas stores text with it, so both must be disabled.
PROGRAM = """
import sys
sys.modules["pyarrow"] = None
import loginpipe.definitions
from datetime import date
from pathlib import Path
from loginpipe.archive.parquet import write_day
from loginpipe.common.errors import ArchiveError
from loginpipe.logins.splitting import split_batch
from loginpipe.masking.mask import mask_logins
from loginpipe_tests.custody import token_keys
from loginpipe_tests.wire import delivered, login

split = split_batch([delivered(login()), delivered("no JSON"), delivered(login(locale=None))])
print(len(split.accepted), len(split.rejected), len(mask_logins(split.accepted, token_keys(1))))
try:
    write_day(Path("day"), date(2026, 11, 20), [])
except ArchiveError as error:
    print(error)
"""


def test_the_chain_works_without_pyarrow_and_the_archive_names_what_to_install(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False,
        env={"PYTHONPATH": root},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2 1 2\nthe archive needs pyarrow: run `pip install 'loginpipe[archive]'`\n"
    assert list(tmp_path.iterdir()) == []
