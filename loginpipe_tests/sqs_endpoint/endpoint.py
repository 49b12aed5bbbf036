"""The endpoint as tests use it: start it in its own process, inject errors, ask for fates, and end it in any case."""

import os
import selectors
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

_START_SECONDS: Final = 30
_STOP_SECONDS: Final = 5
_COMMAND_SECONDS: Final = 120
_FOLDER: Final = Path(__file__).parents[2]


class Fate(NamedTuple):
    """What happened to a message.

    Attributes:
        state: ``visible``, ``in flight``, ``delayed``; or gone: ``deleted``, ``expired``, ``purged``,
            ``dead-lettered`` (then it is also in the fates of the dead-letter queue).
        receives: how often it was received.
    """

    state: str
    receives: int

    @property
    def present(self) -> bool:
        """Return True if the queue still holds it."""
        return self.state in ("visible", "in flight", "delayed")


class EndpointError(Exception):
    """The endpoint did not start, or did not accept a command."""


@dataclass(frozen=True)
class Endpoint:
    """A running endpoint.

    Attributes:
        url: for ``AWS_ENDPOINT_URL``.
        pid: its process id.
    """

    url: str
    pid: int
    region: str = "us-east-1"

    @property
    def aws_environment(self) -> dict[str, str]:
        """Return the variables that point every AWS client at it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }

    @cached_property
    def client(self) -> Any:
        """Return a boto3 client of it, independent of the environment."""
        # Imported here, because the endpoint's own process imports this module and needs no client.
        import boto3

        return boto3.client(
            "sqs",
            endpoint_url=self.url,
            region_name=self.region,
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def command(self, do: str, **content: Any) -> dict[str, Any]:
        """Send it a command.

        Raises:
            EndpointError: it refuses the command.
        """
        connection = HTTPConnection("127.0.0.1", int(self.url.rpartition(":")[2]), timeout=_COMMAND_SECONDS)
        try:
            connection.request("POST", "/_control", orjson.dumps({"do": do, **content}))
            answer = orjson.loads(connection.getresponse().read())
        finally:
            connection.close()
        if "error" in answer:
            raise EndpointError(f"{do}: {answer['error']}")
        return answer  # type: ignore[no-any-return]

    def add_fault(self, kind: str, action: str = "*", **rule: Any) -> None:
        """Add a rule; see `loginpipe_tests.sqs_endpoint.faults.Fault`."""
        self.command("add_fault", kind=kind, action=action, **rule)

    def clear_faults(self) -> list[dict[str, Any]]:
        """Remove all rules; return them with how often each has ``fired``."""
        return self.command("clear_faults")["faults"]  # type: ignore[no-any-return]

    def seed(self, seed: int) -> None:
        """Restart the random numbers of the rules from this seed."""
        self.command("seed", seed=seed)

    def configure(self, **limits: Any) -> None:
        """Set ``in_flight``, ``refuse_stale_handles`` or ``keep_fates``."""
        self.command("configure", **limits)

    def advance(self, seconds: float) -> None:
        """Set its clock forward: timeouts, delays, retention and deduplication pass, but long polls keep waiting."""
        self.command("advance", seconds=seconds)

    def reset_clock(self) -> None:
        """Set its clock to the time of the machine."""
        self.command("reset_clock")

    def send(self, queue: str, bodies: Iterable[str], *, groups: int = 1) -> list[str]:
        """Put these bodies on a queue (a name or URL), on a FIFO queue in the groups in turn; return the ids."""
        answer = self.command("send", queue=queue, bodies=list(bodies), groups=groups)
        return answer["ids"]  # type: ignore[no-any-return]

    def send_samples(self, queue: str, count: int, *, seed: int, bad_share: float = 0.02, groups: int = 1) -> None:
        """Put sample events of `loginpipe.local.sample_events.sample_bodies` on a queue."""
        self.command("send", queue=queue, count=count, seed=seed, bad_share=bad_share, groups=groups, ids=False)

    def hold(self, queue: str, count: int, *, seconds: float) -> int:
        """Put up to ``count`` messages in flight, as if another consumer had received them; return the number."""
        return self.command("hold", queue=queue, count=count, seconds=seconds)["held"]  # type: ignore[no-any-return]

    def stats(self) -> dict[str, Any]:
        """Return ``calls`` by action, active ``long_polls``, ``queues`` by name with counts, and fired ``faults``."""
        return self.command("stats")

    def fates(self, queue: str) -> dict[str, Fate]:
        """Return the fate of every message that a queue ever held, by id."""
        messages: Mapping[str, tuple[str, int]] = self.command("fates", queue=queue)["messages"]
        return {message_id: Fate(*fate) for message_id, fate in messages.items()}


@contextmanager
def running_endpoint(**options: Any) -> Iterator[Endpoint]:
    """Run an endpoint in its own process, which ends with the context or with this process, even if that is killed.

    Args:
        options: of the command line, for example ``in_flight_cap=100`` or ``refuse_stale_handles=True``.

    Raises:
        EndpointError: it does not start.
    """
    command = [sys.executable, "-m", "loginpipe_tests.sqs_endpoint", *_arguments(options)]
    environment = {**os.environ, "PYTHONPATH": str(_FOLDER)}
    # Tracing takes CPU, and nothing of the package runs in it.
    environment.pop("COVERAGE_PROCESS_CONFIG", None)
    # This process's end of the pipe closes when the process ends, and then the endpoint ends too.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None
        try:
            yield Endpoint(f"http://127.0.0.1:{_port(process)}", process.pid, options.get("region", "us-east-1"))
        finally:
            process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
            process.kill()


def _arguments(options: Mapping[str, Any]) -> list[str]:
    arguments = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        arguments += [flag] if value is True else [] if value is False else [flag, str(value)]
    return arguments


def _port(process: "subprocess.Popen[bytes]") -> int:
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        line = process.stdout.readline() if selector.select(_START_SECONDS) else b""
    if not line.strip().isdigit():
        raise EndpointError("the SQS endpoint did not start")
    return int(line)
