"""A run ends early if nearly all of its first messages are rejected; the other messages stay on the queue."""

from datetime import timedelta

import pytest

from loginpipe.ingest import brake
from loginpipe.monitoring import reports
from loginpipe_tests.conftest import Pipeline
from loginpipe_tests.crash.logins import Login, logins
from loginpipe_tests.crash.place import VISIBILITY_SECONDS, FastPlace
from loginpipe_tests.crash.reconciliation import Balance, balance, settled
from loginpipe_tests.integration.test_sensor import tick
from loginpipe_tests.wire import cause_of_failure, checks, login, metadata, sns_envelope, users

GOOD, BAD = 100, 2900
MANY = 3 * brake.FIRST_MESSAGES
"""More than a run rejects before it ends: the first messages, those received in the meantime, and some long polls."""


def test_of_a_backlog_of_bad_messages_a_run_rejects_some_and_returns_the_others_good_ones_too(
    place: FastPlace,
) -> None:
    place.send(logins(GOOD, bad=BAD))
    rejects = 0
    for _ in range(2):
        failed = place.run()
        assert cause_of_failure(failed).startswith("BrakeError: ")
        assert checks(failed)["reject_rate"] is False
        found = balance(place)
        assert 90 <= found.rejects - rejects <= MANY
        assert found.recorded_and_queued == 0, "what was recorded is deleted"
        rejects = found.rejects
        assert place.in_flight() < MANY, "what was received returns with a pause"
        place.endpoint.advance(VISIBILITY_SECONDS)
        assert place.waiting() == found.queued == GOOD + BAD - found.rows - found.rejects
    # Each message was received at most about twice, because too many receives make it a dead letter.
    assert sum(place.receives()) < 2 * MANY

    assert place.run(brake="off").success
    assert settled(place) == Balance(GOOD, BAD, 0)


def test_good_logins_first_and_bad_messages_after_them_are_no_reason_to_end(place: FastPlace) -> None:
    place.send([*logins(60), *(Login("{}", None) for _ in range(400))])
    assert place.run(receivers=1, linger_seconds=2).success
    assert settled(place) == Balance(60, 400, 0)
    # Batches are small until the brake is off, and only then.
    ((first, largest),) = place.rows(
        "SELECT (array_agg(received ORDER BY recorded_at))[1], max(received) FROM loginpipe.batches"
    )
    assert first == brake.FIRST_MESSAGES < largest


def test_a_wrong_setting_ends_the_run_the_sensor_backs_off_and_once_it_is_right_the_logins_are_stored(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.send(sns_envelope(login(user_id=f"user-{i:03}")) for i in range(230))
    with monkeypatch.context() as whole:
        # The first batch is of a hundred messages then, however busy the machine is.
        whole.setenv("LOGINPIPE_LINGER_SECONDS", "20")
        failed = pipeline.run()
    assert cause_of_failure(failed) == (
        "BrakeError: 100 of the first 100 messages were rejected (enveloped 100), so the run has ended and the others "
        f"return to queue '{pipeline.queue.name}': look at them with `loginpipe check --count 100`, then correct the "
        "setting or the sender, or set LOGINPIPE_BRAKE=off to reject them; see docs/operations.md#the-brake"
    )
    assert metadata(failed)["rejected_logins"]["reasons"] == {"enveloped": 100}
    assert "backing off after 1 failed runs in a row" in str(tick(pipeline).skip_message)
    monkeypatch.setattr(reports, "BACK_OFF_FIRST", timedelta())
    assert len(tick(pipeline).run_requests or []) == 1

    monkeypatch.setenv("LOGINPIPE_ENVELOPE", "sns")
    # The returned messages become visible again within seconds.
    assert pipeline.run(idle_seconds=3).success
    assert len(users(pipeline)) == 130
    assert pipeline.rows("SELECT count(*) FROM loginpipe.rejected_messages") == [(100,)]
    assert pipeline.depth() == (0, 0)
