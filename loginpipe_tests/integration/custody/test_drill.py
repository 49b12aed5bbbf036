"""The drill: it passes if recovery works, fails if it does not, and changes no stored values."""

from dataclasses import replace
from pathlib import Path

import pytest

from loginpipe.common.errors import AccessRefusedError, DatabaseError, LoginpipeError, OpeningError
from loginpipe.custody.access import Reason, approve, request_access, set_second_person
from loginpipe.custody.drill import Canary, Drill, random_tokens, recover_canary, store_canary
from loginpipe.custody.opening import Opener, Problem
from loginpipe.custody.token_checks import TokenChecks
from loginpipe.masking.compat import MD5, CompatMasking
from loginpipe.postgres.connections import Connection
from loginpipe_tests.custody import REASON, Store, new_private_key, opener_of
from loginpipe_tests.wire import login

WHY = Reason("drill of recovery", "drill")


def stored(connection: Connection, store: Store, compat: CompatMasking | None = None) -> Canary:
    return store_canary(connection, store.keys, compat, store.recipients)


def proved(connection: Connection, store: Store, canary: Canary, opener: Opener, **checks: object) -> Drill:
    request = request_access(connection, canary.tokens, WHY)
    return recover_canary(connection, request.request_id, opener, TokenChecks(store.keys, **checks), canary)  # type: ignore[arg-type]


def test_recovery_that_works_is_proved_and_what_was_there_is_untouched(
    store: Store, rotating: Connection, opener: Opener
) -> None:
    store.load(login())
    before = store.rows("SELECT * FROM vault.sealed_values ORDER BY token")
    canary = stored(rotating, store)
    assert proved(rotating, store, canary, opener) == Drill(2, [store.recipients[0].fingerprint], [])
    after = store.rows("SELECT * FROM vault.sealed_values ORDER BY token")
    assert len(after) == len(before) + 2
    assert [row for row in after if row[0] not in canary.tokens] == before
    assert store.rows("SELECT count(*) FROM user_logins") == [(1,)]
    assert [(actor, action) for actor, action, _ in store.log()] == [
        ("rotating_custodian", "request"),
        ("rotating_custodian", "release"),
    ]


def test_each_drill_has_values_of_its_own(store: Store, rotating: Connection) -> None:
    tokens = [token for _ in range(3) for token in stored(rotating, store).tokens]
    assert len(set(tokens)) == 6


def test_every_private_key_at_hand_is_tried_and_the_others_are_named(
    store: Store, rotating: Connection, seal_public: Path, tmp_path: Path
) -> None:
    from loginpipe.masking.key_files import private_half

    offline = new_private_key(tmp_path / "offline.pem")
    both = replace(store, recipients=(*store.recipients, offline))
    names = sorted([store.recipients[0].fingerprint, offline.fingerprint])
    here = private_half(seal_public)
    with_both = proved(rotating, both, stored(rotating, both), opener_of(here, tmp_path / "offline.pem"))
    assert with_both == Drill(2, names, [])
    with_one = proved(rotating, both, stored(rotating, both), opener_of(here))
    assert with_one == Drill(2, [store.recipients[0].fingerprint], [offline.fingerprint])


def test_a_private_key_that_is_none_of_the_recipients_fails_it(
    store: Store, rotating: Connection, tmp_path: Path
) -> None:
    new_private_key(tmp_path / "other.pem", 2048)
    canary = stored(rotating, store)
    with pytest.raises(LoginpipeError, match=r"^recovery does not work with this private key: the pipeline seals for "):
        proved(rotating, store, canary, opener_of(tmp_path / "other.pem"))


def test_a_canary_that_was_changed_fails_it(store: Store, rotating: Connection, opener: Opener) -> None:
    canary = stored(rotating, store)
    store.execute("UPDATE vault.sealed_values SET ciphertext = set_bit(ciphertext, 7, 1 - get_bit(ciphertext, 7))")
    with pytest.raises(OpeningError) as caught:
        proved(rotating, store, canary, opener)
    assert caught.value.problem == Problem.CHANGED


def test_a_canary_that_is_gone_fails_it(store: Store, rotating: Connection, opener: Opener) -> None:
    canary = stored(rotating, store)
    store.execute("DELETE FROM vault.sealed_values WHERE field = 'ip'")
    with pytest.raises(LoginpipeError, match="not all were released"):
        proved(rotating, store, canary, opener)


def test_a_value_that_is_another_than_was_sealed_fails_it(store: Store, rotating: Connection, opener: Opener) -> None:
    canary = stored(rotating, store)
    other = Canary({token: value + b"0" for token, value in canary.values.items()})
    with pytest.raises(LoginpipeError, match="is not the one that was sealed"):
        proved(rotating, store, other, opener)


def test_where_a_second_person_is_wanted_it_is_finished_after_the_approval(
    store: Store, owner: Connection, rotating: Connection, second_custodian: Connection, opener: Opener
) -> None:
    set_second_person(owner, required=True, ticket="TEST-2")
    request = request_access(rotating, stored(rotating, store).tokens, WHY)
    assert request.needs_approval
    checks = TokenChecks(store.keys)
    with pytest.raises(AccessRefusedError):
        recover_canary(rotating, request.request_id, opener, checks, None)
    approve(second_custodian, request.request_id)
    assert recover_canary(rotating, request.request_id, opener, checks, None).values == 2


def test_a_request_for_real_values_is_no_drill(store: Store, rotating: Connection, opener: Opener) -> None:
    (tokens,) = store.load(login())
    request = request_access(rotating, tokens, REASON)
    with pytest.raises(LoginpipeError, match="the request is not from a drill") as caught:
        recover_canary(rotating, request.request_id, opener, TokenChecks(store.keys), None)
    assert "199.172" not in str(caught.value)


def test_with_an_older_masking_in_force_it_is_that_which_is_drilled(
    store: Store, rotating: Connection, opener: Opener
) -> None:
    md5 = CompatMasking(MD5)
    canary = stored(rotating, store, md5)
    assert all(len(token) == 32 for token in canary.tokens)
    assert proved(rotating, store, canary, opener, compat=[md5]).values == 2


def test_where_sealing_is_off_it_says_so(store: Store, rotating: Connection) -> None:
    with pytest.raises(LoginpipeError, match="LOGINPIPE_SEAL_KEY is off"):
        stored(rotating, replace(store, recipients=()))


def test_a_custodian_who_is_not_the_writer_as_well_cannot_store_a_canary(store: Store, custodian: Connection) -> None:
    with pytest.raises(DatabaseError, match="42501"):
        stored(custodian, store)


def test_a_sample_is_drawn_at_random_from_the_whole_vault(store: Store, rotating: Connection) -> None:
    store.load(login())
    store.execute(
        "INSERT INTO vault.sealed_values (token, field, data_key_id, position, ciphertext) "
        "SELECT 'dev.v1.' || lpad(n::text, 43, '0'), 'device_id', data_key_id, 0, ciphertext "
        "FROM generate_series(1, 20000) AS n, (SELECT * FROM vault.sealed_values LIMIT 1) AS one"
    )
    store.execute("ANALYZE vault.sealed_values")
    first, second = (random_tokens(rotating, 50) for _ in range(2))
    assert len({*first}) == len({*second}) == 50
    assert {*first} != {*second}
    places = sorted(int(token[-5:]) for token in first if token.startswith("dev.v1.00000"))
    assert places[0] < 10_000 < places[-1]
