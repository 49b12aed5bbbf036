"""Faults to be injected: which there are, and when each of them fires.

A rule waits for its action, lets the first ``skip`` occasions pass, then fires with its probability, at most ``times``
times. An occasion is a call, or one entry or message of it for the kinds that work on single ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from random import Random
from typing import Any, Final

CALL_KINDS: Final = frozenset({"delay", "drop", "error"})
"""Faults of a whole call: answered late, not answered, answered with an error."""

ENTRY_KINDS: Final = frozenset({"duplicate", "fail_entry", "tamper", "undelete"})
"""Faults of one message of a receive, or of one entry of a batch."""

_NAMED: Final[Mapping[str, Mapping[str, Any]]] = {
    "internal_error": {"kind": "error", "status": 500, "code": "InternalFailure"},
    "throttle": {"kind": "error", "status": 400, "code": "RequestThrottled"},
    "unavailable": {"kind": "error", "status": 503, "code": "ServiceUnavailable"},
}
"""Errors with a name of their own, which may be given as the kind."""


@dataclass(frozen=True)
class Fault:
    """A rule.

    Attributes:
        kind: ``delay`` (by `seconds`), ``drop`` (the connection), ``error`` (`status` and `code`; also named
            ``internal_error``, ``unavailable``, ``throttle``), ``fail_entry`` (of a batch: `code`, `sender_fault`),
            ``duplicate`` (a received message stays visible, so that the next receiver gets it too), ``tamper`` (with a
            received body, not with its MD5), ``undelete`` (a delete is confirmed, and the message comes back after
            `seconds`).
        action: whose calls; ``*`` for all of SQS's.
        queue: whose calls, by name; all queues' if none is given.
        probability: to fire on an occasion.
        times: to fire at most; as often as it comes if none is given.
        skip: occasions to let pass first.
        effect: the call or entry takes effect nevertheless: for ``drop`` and ``delay`` its answer is lost or late,
            for ``error`` and ``fail_entry`` it is wrong.
        status: of the HTTP answer.
        code: the error's or the failed entry's.
        sender_fault: of the failed entry.
        seconds: to wait.
    """

    kind: str
    action: str = "*"
    queue: str | None = None
    probability: float = 1.0
    times: int | None = None
    skip: int = 0
    effect: bool = False
    status: int = 500
    code: str = "InternalError"
    sender_fault: bool = False
    seconds: float = 0.0

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> "Fault":
        """Make a rule of its fields.

        Raises:
            ValueError: an unknown kind or field, or none that says the kind.
        """
        named = _NAMED.get(str(content.get("kind")), {})
        values = {**named, **content, **({"kind": named["kind"]} if named else {})}
        if values.get("kind") not in CALL_KINDS | ENTRY_KINDS or not set(values) <= {f.name for f in fields(cls)}:
            raise ValueError(f"no such fault: {dict(content)}")
        return cls(**values)


@dataclass
class _Rule:
    fault: Fault
    passed: int = 0
    fired: int = 0

    def fires(self, random: Random) -> bool:
        if self.fault.times is not None and self.fired >= self.fault.times:
            return False
        if self.passed < self.fault.skip:
            self.passed += 1
            return False
        if self.fault.probability < 1 and random.random() >= self.fault.probability:
            return False
        self.fired += 1
        return True


@dataclass(frozen=True)
class Plan:
    """What is to become of a call: seconds to wait before and after it takes effect, the error or drop at its end."""

    before: float = 0.0
    after: float = 0.0
    end: Fault | None = None


AS_ASKED: Final = Plan()


class Faults:
    """The rules in force; true if there are any."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._rules: list[_Rule] = []

    def __bool__(self) -> bool:
        return bool(self._rules)

    def seed(self, seed: int) -> None:
        """Begin the random numbers again."""
        self._random.seed(seed)

    def add(self, fault: Fault) -> None:
        """Put a rule in force."""
        self._rules.append(_Rule(fault))

    def clear(self) -> None:
        """Put none in force."""
        self._rules.clear()

    def fired(self) -> list[dict[str, Any]]:
        """Return the rules in force with how often each has fired."""
        return [{**vars(rule.fault), "fired": rule.fired} for rule in self._rules]

    def plan(self, action: str, queue: str) -> Plan:
        """Decide on a call: every delay that fires, and the first error or drop that does."""
        plan = AS_ASKED
        for rule in self._of(CALL_KINDS, action, queue):
            if plan.end is not None or not rule.fires(self._random):
                continue
            if rule.fault.kind != "delay":
                plan = replace(plan, end=rule.fault)
            elif rule.fault.effect:
                plan = replace(plan, after=plan.after + rule.fault.seconds)
            else:
                plan = replace(plan, before=plan.before + rule.fault.seconds)
        return plan

    def hits(self, kind: str, action: str, queue: str) -> Fault | None:
        """Return the first rule of a kind that fires on one entry or message."""
        for rule in self._of({kind}, action, queue):
            if rule.fires(self._random):
                return rule.fault
        return None

    def _of(self, kinds: frozenset[str] | set[str], action: str, queue: str) -> list[_Rule]:
        return [
            rule
            for rule in self._rules
            if rule.fault.kind in kinds and rule.fault.action in ("*", action) and rule.fault.queue in (None, queue)
        ]
