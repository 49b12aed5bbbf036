"""Read the values of an environment from its file in ``environments``. Each environment has its own account."""

import json
import re
from pathlib import Path
from typing import Any, Final

from constructs import Node

from loginpipe_aws.context import NAMES, ContextError

FOLDER: Final = Path(__file__).parents[1] / "environments"


def read_environment(node: Node) -> None:
    """Set the values of the chosen environment on the app, except those given on the command line.

    Args:
        node: the node of the app, before it has any stack.

    Raises:
        ContextError: no environment is chosen, its file is missing, or the file is invalid.
    """
    name = node.try_get_context("environment")
    known = ", ".join(sorted(path.stem for path in FOLDER.glob("*.json")))
    if not name:
        raise ContextError(f"no environment is chosen: give --context environment=NAME, one of {known}")
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9-]+", name):
        raise ContextError(f"context value environment must be one of {known}")
    for value, found in _values(name, known).items():
        if node.try_get_context(value) is None:
            node.set_context(value, found)


def _values(name: str, known: str) -> dict[str, Any]:
    file = f"environments/{name}.json"
    try:
        values = json.loads((FOLDER / f"{name}.json").read_text())
    except FileNotFoundError:
        raise ContextError(f"there is no {file}: choose one of {known}, or make it as a copy of one") from None
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise ContextError(f"{file} is not a JSON object: fix it")
    if unknown := sorted(values.keys() - NAMES):
        raise ContextError(f"{file} has what nothing reads: {', '.join(unknown)}; README.md lists the values there are")
    return values
