"""Run the endpoint: ``python -m loginpipe_tests.sqs_endpoint`` prints its port and serves until its stdin ends."""

import argparse
import asyncio
import gc
import os
import select
import signal
import sys
import threading
import time

import orjson

from loginpipe_tests.sqs_endpoint.faults import Fault
from loginpipe_tests.sqs_endpoint.queues import MAX_IN_FLIGHT, Limits
from loginpipe_tests.sqs_endpoint.server import Server

_READ_BYTES = 4096
_STOP_SECONDS = 3
_WATCH_SECONDS = 1


def main() -> None:
    """Serve until stdin ends, or until SIGTERM or Ctrl-C."""
    options = _options()
    # Messages form no cycles, and to search 100,000 of them for cycles takes longer than any call.
    gc.disable()
    limits = Limits(options.in_flight_cap, options.refuse_stale_handles, not options.no_fates)
    server = Server(region=options.region, limits=limits, seed=options.seed)
    for fault in options.fault:
        server.faults.add(fault)
    asyncio.run(_serve(server, options.port))


async def _serve(server: Server, port: int) -> None:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)

    parent = os.getppid()

    def wait_for_the_end() -> None:
        # The parent's end of the pipe may stay open in a process that the parent forked.
        while os.getppid() == parent:
            readable, _, _ = select.select([0], [], [], _WATCH_SECONDS)
            # Not through sys.stdin: if a thread holds its lock at exit, the interpreter ends with an error.
            if readable and not os.read(0, _READ_BYTES):
                break
        loop.call_soon_threadsafe(stopping.set)
        # Even if the event loop hangs, the endpoint does not outlive its parent.
        time.sleep(_STOP_SECONDS)
        os._exit(1)

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    await server.serve(port, _print_port, stopping)


def _print_port(port: int) -> None:
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loginpipe_tests.sqs_endpoint", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--in-flight-cap", type=int, default=MAX_IN_FLIGHT, help="messages in flight a queue")
    parser.add_argument("--refuse-stale-handles", action="store_true", help="as MiniStack does; SQS says yes")
    parser.add_argument("--no-fates", action="store_true", help="forget messages that are gone: less memory")
    parser.add_argument(
        "--fault",
        type=lambda text: Fault.read(orjson.loads(text)),
        action="append",
        default=[],
        help='a rule, as \'{"kind": "throttle", "action": "ReceiveMessage", "probability": 0.1}\'; may be repeated',
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
