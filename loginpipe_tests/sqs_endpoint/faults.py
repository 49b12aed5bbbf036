"""Errors to inject: their kinds, and when each of them fires.

A rule matches an action, skips the first ``skip`` occasions, then fires with its probability, at most ``times`` times.
An occasion is a call, or one entry or message of it for the kinds that affect single ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from random import Random
from typing import Any, Final

CALL_KINDS: Final = frozenset({"delay", "drop", "error"})
"""Kinds that affect a whole call: a late answer, no answer, an error."""

ENTRY_KINDS: Final = frozenset({"duplicate", "fail_entry", "tamper", "undelete"})
"""Kinds that affect one message of a receive, or one entry of a batch."""

_NAMED: Final[Mapping[str, Mapping[str, Any]]] = {
    "internal_error": {"kind": "error", "status": 500, "code": "InternalFailure"},
    "throttle": {"kind": "error", "status": 400, "code": "RequestThrottled"},
    "unavailable": {"kind": "error", "status": 503, "code": "ServiceUnavailable"},
}
"""Errors with their own name, which may be given as the kind."""


@dataclass(frozen=True)
class Fault:
    """A rule.

    Attributes:
        kind: ``delay`` (by `seconds`), ``drop`` (the connection), ``error`` (`status` and `code`; also named
            ``internal_error``, ``unavailable``, ``throttle``), ``fail_entry`` (of a batch: `code`, `sender_fault`),
            ``duplicate`` (a received message stays visible, so that the next receiver gets it too), ``tamper`` (change
            a received body, but not its MD5), ``undelete`` (confirm a delete, but let the message come back after
            `seconds`).
        action: the action whose calls it affects; ``*`` for all SQS actions.
        queue: name of the queue whose calls it affects; None for all queues.
        probability: of firing on an occasion.
        times: how often it fires at most; None for no limit.
        skip: how many occasions to skip first.
        effect: if true, the call or entry takes effect anyway: its answer is lost or late (``drop``, ``delay``) or
            wrong (``error``, ``fail_entry``).
        status: of the HTTP answer.
        code: of the error or the failed entry.
        sender_fault: of the failed entry.
        seconds: the delay.
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
        """Make a rule from its fields.

        Raises:
            ValueError: an unknown kind or field, or no kind.
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
    """The plan for a call: seconds to wait before and after it takes effect, and the error or drop at its end."""

    before: float = 0.0
    after: float = 0.0
    end: Fault | None = None


AS_ASKED: Final = Plan()


class Faults:
    """The current rules; true if there are any."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._rules: list[_Rule] = []

    def __bool__(self) -> bool:
        return bool(self._rules)

    def seed(self, seed: int) -> None:
        """Restart the random numbers from this seed."""
        self._random.seed(seed)

    def add(self, fault: Fault) -> None:
        """Add a rule."""
        self._rules.append(_Rule(fault))

    def clear(self) -> None:
        """Remove all rules."""
        self._rules.clear()

    def fired(self) -> list[dict[str, Any]]:
        """Return the rules with how often each has fired."""
        return [{**vars(rule.fault), "fired": rule.fired} for rule in self._rules]

    def plan(self, action: str, queue: str) -> Plan:
        """Decide on a call: add every delay that fires, and take the first error or drop that fires."""
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
