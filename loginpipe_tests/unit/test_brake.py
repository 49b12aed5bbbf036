"""When the brake ends a run, which depends on the outcomes of its first messages only."""

from collections import Counter
from dataclasses import replace

import pytest

from loginpipe.common.errors import BrakeError
from loginpipe.ingest.brake import Brake
from loginpipe.ingest.process import Outcome
from loginpipe.logins.splitting import Reject
from loginpipe.masking.mask import MaskedLogins
from loginpipe.masking.sealing import Sealed


def outcome(accepted: int, **rejected: int) -> Outcome:
    """Return a batch with this number of accepted logins, and of rejects for each reason."""
    rejects = [Reject("id", None, 0, 0, [reason], ["body"]) for reason in Counter(rejected).elements()]
    return Outcome(
        batch_id="batch",
        received=accepted + len(rejects),
        logins=MaskedLogins({"message_id": ["id"] * accepted}, {}),
        sealed=Sealed(),
        rejected=rejects,
        bodies=Sealed(),
        erasures=0,
        started_at_ms=0,
        sent_ms=(0, 0),
    )


def ends(*outcomes: Outcome, on: bool = True) -> list[bool]:
    """Return after each of these batches whether the run would end."""
    brake, found = Brake(queue="logins", on=on), []
    for each in outcomes:
        brake.add(each)
        try:
            brake.check()
        except BrakeError:
            found.append(True)
        else:
            found.append(False)
    return found


@pytest.mark.parametrize(
    ("accepted", "missing", "ended"),
    [
        (0, 99, False),
        (0, 100, True),
        (10, 90, True),
        (11, 89, False),
        (9, 90, False),
        (49, 441, True),
        (50, 10_000, False),
    ],
)
def test_a_hundred_messages_and_ninety_in_a_hundred_of_them_rejected_end_a_run(
    accepted: int, missing: int, *, ended: bool
) -> None:
    assert ends(outcome(accepted, missing=missing)) == [ended]
    assert ends(outcome(accepted, missing=missing), on=False) == [False]


def test_batches_add_up() -> None:
    assert ends(*[outcome(0, not_json=1)] * 100) == [False] * 99 + [True]
    assert ends(outcome(20, missing=80), outcome(0, missing=100), outcome(0, missing=1)) == [False, True, True]


def test_a_run_that_has_accepted_fifty_logins_is_not_ended_any_more() -> None:
    assert ends(outcome(50), *[outcome(0, missing=10_000)] * 3) == [False] * 4
    assert ends(outcome(30), outcome(20, missing=30), outcome(0, missing=10_000)) == [False] * 3


def test_logins_of_erased_users_do_not_count() -> None:
    assert ends(outcome(0, user_erased=1000)) == [False]
    assert ends(outcome(0, user_erased=1000, missing=99), outcome(0, missing=1)) == [False, True]


def test_batches_are_small_until_the_brake_is_off() -> None:
    brake = Brake(queue="logins")
    assert brake.batch_limit == 100
    brake.add(outcome(49, missing=51))
    assert brake.batch_limit == 100
    brake.add(outcome(1))
    assert brake.batch_limit is None
    assert Brake(queue="logins", on=False).batch_limit is None


def test_the_error_is_one_line_with_reasons_and_counts_and_what_to_do() -> None:
    brake = Brake(queue="logins")
    brake.add(outcome(4, missing=1, enveloped=115, user_erased=7))
    (two,) = outcome(0, enveloped=1).rejected
    brake.add(replace(outcome(0), rejected=[two._replace(reasons=["missing", "null"], fields=["ip", "locale"])]))
    with pytest.raises(BrakeError) as caught:
        brake.check()
    assert str(caught.value) == (
        "117 of the first 121 messages were rejected (enveloped 115, missing 2, null 1), so the run has ended and the "
        "others return to queue 'logins': look at them with `loginpipe check --count 100`, then correct the setting or "
        "the sender, or set LOGINPIPE_BRAKE=off to reject them; see docs/operations.md#the-brake"
    )


def test_an_outcome_can_be_refused_before_it_is_recorded_and_counts_where_it_is() -> None:
    brake = Brake(queue="logins", then="none is recorded and all of them return")
    for _ in range(3):
        brake.check_before_recording(outcome(0, missing=99))
    brake.add(outcome(0, missing=99))
    with pytest.raises(BrakeError, match=r"^100 of the first 101 messages were rejected .*, so none is recorded and"):
        brake.check_before_recording(outcome(1, missing=1))
    with pytest.raises(BrakeError, match=r"^100 of the first 111 messages"):
        brake.check_before_recording(outcome(10))
    brake.check_before_recording(outcome(1))
