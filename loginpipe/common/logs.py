"""Set the format of log lines (JSON in production, plain text otherwise) and their minimum level.

Dagster's commands have ``--log-format`` and ``--log-level``, but log a run always as plain text. So this uses Dagster's
extension point: it makes the console logger from the class of `logging.getLoggerClass`.
"""

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any, ClassVar

from loginpipe.common.settings import Settings

# What Dagster adds to a record: run, job and step, and the original message without the prefix that it adds.
_META = "dagster_meta"

# Field of the metadata → field of the line. The step of an asset has its name; ``tick`` is a sensor's or schedule's.
_NAMES = {"run_id": "run_id", "job_name": "job", "step_key": "step", "resource_name": "resource", "name": "tick"}

_OF_EVERY_RECORD = {*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName"}
_OF_DAGSTER = {_META, "dagster_event", "dagster_event_batch_metadata"}


class JsonLines(logging.Formatter):
    """One JSON object per record, with the keys of Dagster's ``--log-format json``: timestamp, level, logger, event.

    Further keys, if present: run, job, step, the fields of ``extra``, and ``exception`` or ``error``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without a line break."""
        meta: Mapping[str, Any] = getattr(record, _META, {})
        line = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": meta.get("orig_message") or record.getMessage(),
        }
        line |= {name: meta[of_dagster] for of_dagster, name in _NAMES.items() if meta.get(of_dagster)}
        extra = record.__dict__.keys() - _OF_EVERY_RECORD - _OF_DAGSTER
        line |= {name: _plain(record.__dict__[name]) for name in sorted(extra)}
        if record.exc_info and record.exc_info[0]:
            line["exception"] = self.formatException(record.exc_info)
        if error := _error_of(meta.get("dagster_event")):
            line["error"] = error
        return json.dumps(line, ensure_ascii=False, default=str)


class _ConsoleLogger(logging.Logger):
    """A logger whose stream handlers use our level, and our format if one is set."""

    lines_from: ClassVar[str] = "INFO"
    formatter: ClassVar[logging.Formatter | None] = None

    def addHandler(self, handler: logging.Handler) -> None:  # noqa: N802
        """Add a handler."""
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.setLevel(self.lines_from)
            if self.formatter is not None:
                handler.setFormatter(self.formatter)
        super().addHandler(handler)


def configure_logs(settings: Settings) -> None:
    """Set format and level in this process, for all loggers made later and for loggers without a handler."""
    logging.getLogger("loginpipe").setLevel(settings.log_level)
    _ConsoleLogger.lines_from = settings.log_level
    _ConsoleLogger.formatter = JsonLines() if settings.production else None
    logging.setLoggerClass(_ConsoleLogger)
    # The root's own level stays WARNING, because botocore at DEBUG logs the body of every message.
    root = logging.getLogger()
    if settings.production and not any(isinstance(handler, _LastHandler) for handler in root.handlers):
        root.addHandler(_LastHandler(settings.log_level))
        logging.captureWarnings(capture=True)


def log_json_lines(settings: Settings) -> None:
    """Write every log line of this process to stdout as a JSON object, and replace existing handlers."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    # The root's level stays WARNING, because botocore at DEBUG logs the body of every message.
    logging.basicConfig(handlers=[handler], force=True)
    logging.getLogger("loginpipe").setLevel(settings.log_level)
    logging.captureWarnings(capture=True)


class _LastHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes records without another handler to stderr: libraries and warnings. Python's own has no format."""

    def __init__(self, level: str) -> None:
        super().__init__()
        self.setLevel(level)
        self.setFormatter(JsonLines())
        self.addFilter(_has_no_other_handler)


def _has_no_other_handler(record: logging.LogRecord) -> bool:
    """Exclude records of a run's log, and records that Dagster's own handler writes in a code server."""
    dagster = logging.getLogger("dagster")
    return not (hasattr(record, _META) or (record.name.split(".")[0] == dagster.name and dagster.handlers))


def _plain(value: object) -> object:
    """Return a value that JSON can represent: None for infinity and NaN."""
    return None if isinstance(value, float) and not isfinite(value) else value


def _error_of(event: object) -> str | None:
    """Return the error of a Dagster event as the UI shows it."""
    data = getattr(event, "event_specific_data", None)
    error = getattr(data, "error", None)
    return str(getattr(data, "error_display_string", None) or error.to_string()) if error else None
