"""The format of log lines, which is JSON in production and plain text elsewhere, and their lowest level.

Dagster writes its own lines as its commands' ``--log-format`` and ``--log-level`` say, but those of a run always as
plain text. So its extension point is used: it makes the console logger from the class of `logging.getLoggerClass`.
"""

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any, ClassVar

from loginpipe.common.settings import Settings

# What Dagster adds to a record: run, job, step; and the message as it was, before these were put in front of it.
_META = "dagster_meta"

# Field of that → field of the line. The step of an asset bears its name; ``tick`` is a sensor's or schedule's.
_NAMES = {
    "run_id": "run_id",
    "job_name": "job",
    "step_key": "step",
    "resource_name": "resource",
    "name": "tick",
}

_OF_EVERY_RECORD = {*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName"}
_OF_DAGSTER = {_META, "dagster_event", "dagster_event_batch_metadata"}


class JsonLines(logging.Formatter):
    """One JSON object a record, with the keys of Dagster's ``--log-format json``: timestamp, level, logger, event.

    Run, job, step, what was given as ``extra``, and ``exception`` or ``error`` are further keys where there are such.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
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
    """A logger whose handlers that write to a stream have our level, and our format where there is one."""

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
    """Set format and level for this process: for all loggers made from here on, and for those without a handler."""
    logging.getLogger("loginpipe").setLevel(settings.log_level)
    _ConsoleLogger.lines_from = settings.log_level
    _ConsoleLogger.formatter = JsonLines() if settings.production else None
    logging.setLoggerClass(_ConsoleLogger)
    # The root's own level stays at WARNING: botocore at DEBUG writes the body of every message.
    root = logging.getLogger()
    if settings.production and not any(isinstance(handler, _LastHandler) for handler in root.handlers):
        root.addHandler(_LastHandler(settings.log_level))
        logging.captureWarnings(capture=True)


def log_json_lines(settings: Settings) -> None:
    """Write every line of this process to stdout as a JSON object, in place of what wrote lines before."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    # Its level stays at WARNING: botocore at DEBUG writes the body of every message.
    logging.basicConfig(handlers=[handler], force=True)
    logging.getLogger("loginpipe").setLevel(settings.log_level)
    logging.captureWarnings(capture=True)


class _LastHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes records without another handler to stderr: of libraries, and warnings. Python's own has no format."""

    def __init__(self, level: str) -> None:
        super().__init__()
        self.setLevel(level)
        self.setFormatter(JsonLines())
        self.addFilter(_has_no_other_handler)


def _has_no_other_handler(record: logging.LogRecord) -> bool:
    """Leave out what went into a run's log, and in a code server what Dagster's own handler writes."""
    dagster = logging.getLogger("dagster")
    return not (hasattr(record, _META) or (record.name.split(".")[0] == dagster.name and dagster.handlers))


def _plain(value: object) -> object:
    """Return what JSON can hold: it knows no infinity."""
    return None if isinstance(value, float) and not isfinite(value) else value


def _error_of(event: object) -> str | None:
    """Return the error that an event of Dagster's is about, as it is shown in the UI."""
    data = getattr(event, "event_specific_data", None)
    error = getattr(data, "error", None)
    return str(getattr(data, "error_display_string", None) or error.to_string()) if error else None
