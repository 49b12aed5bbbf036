"""Describe the machine and the versions, without which the figures mean nothing."""

import os
import platform
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import psutil

from benchmarks.ground import ROOT, rows

CODE: Final = "the pipeline's code"

_PACKAGES: Final = (
    "loginpipe", "dagster", "boto3", "pandas", "pandera", "pyarrow", "orjson", "cryptography", "psycopg2-binary", "dlt",
)  # fmt: skip


def machine(database_url: str) -> dict[str, str]:
    """Return the properties of the machine, by name."""
    ((postgres,),) = rows(database_url, "SHOW server_version")
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{psutil.virtual_memory().total / 1e9:.1f} GB",
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "Python": platform.python_version(),
        "Postgres": str(postgres),
        "packages": ", ".join(f"{name} {_version(name)}" for name in _PACKAGES),
        CODE: code(),
        "load at the start": load(),
    }


def code() -> str:
    """Return a hash that identifies the pipeline's code, of all its Python and SQL."""
    digest = sha256()
    for file in sorted(path for path in (ROOT / "loginpipe").rglob("*") if path.suffix in {".py", ".sql"}):
        digest.update(file.read_bytes())
    return f"SHA-256 {digest.hexdigest()[:12]}"


def load() -> str:
    """Return the load averages of one, five and fifteen minutes."""
    return ", ".join(f"{average:.1f}" for average in os.getloadavg())


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
