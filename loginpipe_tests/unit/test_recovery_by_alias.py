"""Which value belongs to a token: its own or one under an alias, and what an alias proves."""

from collections.abc import Iterable

from loginpipe.common.errors import OpeningError
from loginpipe.custody.access import is_message_id
from loginpipe.custody.opening import Opened, Opening, Problem
from loginpipe.custody.recovery import Recovery, resolve
from loginpipe.custody.token_checks import Families, TokenChecks, families, token_version
from loginpipe_tests.custody import token_keys

ALL = token_keys(1, 2, 3)
CHECKS = TokenChecks(ALL)
DEVICE, OTHER = b"593-47-5928", b"000-00-0000"


def token(version: int, value: bytes = DEVICE) -> str:
    return ALL.tokens("device_id", [value], version)[0]


OLD, MIDDLE, NEW = token(1), token(2), token(3)
FAMILY = families([(OLD, NEW), (MIDDLE, NEW)])


def opened(*subjects: str, value: bytes = DEVICE, checks: TokenChecks = CHECKS) -> dict[str, Opened]:
    return {s: Opened(s, "device_id", value, checks.fits(s, "device_id", value)) for s in subjects}


def resolved(
    asked: Iterable[str],
    found: dict[str, Opened],
    *refused: OpeningError,
    by: Families = FAMILY,
    checks: TokenChecks = CHECKS,
) -> Recovery:
    return resolve(list(asked), Opening(found, list(refused)), by, checks)


def summary(recovery: Recovery) -> tuple[list[tuple[str, bytes, bool]], list[tuple[str | None, str]], list[str]]:
    return (
        [(value.subject, value.plaintext, value.by_alias) for value in recovery.recovered],
        [(error.subject, error.problem) for error in recovery.refused],
        recovery.missing,
    )


def test_a_value_is_found_under_whichever_of_its_tokens_it_is_sealed() -> None:
    for asked in (OLD, MIDDLE, NEW):
        for sealed in (OLD, MIDDLE, NEW):
            assert summary(resolved([asked], opened(sealed))) == ([(asked, DEVICE, False)], [], [])


def test_what_is_nowhere_is_missing() -> None:
    assert summary(resolved([OLD], {})) == ([], [], [OLD])
    assert summary(resolved([OLD], opened(NEW), by={})) == ([], [], [OLD])


def test_an_alias_that_leads_to_another_value_is_planted() -> None:
    stranger = token(3, OTHER)
    planted = families([(OLD, stranger)])
    assert summary(resolved([OLD], opened(stranger, value=OTHER), by=planted)) == (
        [],
        [(OLD, Problem.ALIAS_PLANTED)],
        [],
    )
    found = opened(stranger, value=OTHER) | opened(OLD)
    assert summary(resolved([OLD], found, by=planted)) == ([(OLD, DEVICE, False)], [], []), "its own value is there"


def test_a_value_of_its_own_that_is_bad_is_named_also_where_an_alias_leads_to_a_good_one() -> None:
    bad = OpeningError("changed", Problem.CHANGED, OLD)
    assert summary(resolved([OLD], opened(NEW), bad)) == ([(OLD, DEVICE, False)], [(OLD, Problem.CHANGED)], [])
    assert summary(resolved([OLD], {}, bad)) == ([], [(OLD, Problem.CHANGED)], [])


def test_where_the_key_of_a_tokens_version_is_gone_its_alias_is_what_is_checked() -> None:
    later = TokenChecks(token_keys(3))
    for sealed in (OLD, NEW):
        recovery = resolved([OLD], opened(sealed, checks=later), checks=later)
        assert summary(recovery) == ([(OLD, DEVICE, True)], [], [])


def test_where_no_key_is_left_to_check_with_nothing_is_given_out() -> None:
    other = TokenChecks(token_keys(4))
    assert summary(resolved([OLD], opened(OLD, checks=other), checks=other)) == ([], [(OLD, Problem.UNCHECKED)], [])
    planted = families([(OLD, token(3, OTHER))])
    later = TokenChecks(token_keys(3))
    recovery = resolved([OLD], opened(OLD, checks=later), by=planted, checks=later)
    assert summary(recovery) == ([], [(OLD, Problem.UNCHECKED)], []), "the alias is of another value"


def test_a_body_is_given_out_as_it_is() -> None:
    message = "7f0c3f6e-3c1b-4a35-9d3e-5b9f2f3f9b11"
    body = {message: Opened(message, "body", b"{}", None)}
    assert summary(resolved([message], body, checks=TokenChecks(None))) == ([(message, b"{}", False)], [], [])


def test_each_token_of_a_family_leads_to_the_whole_family_with_the_newest_first() -> None:
    assert {token: [NEW, OLD, MIDDLE] for token in (NEW, OLD, MIDDLE)} == FAMILY


def test_a_message_id_is_one_in_the_databases_own_spelling_and_no_token_of_another_scheme() -> None:
    assert is_message_id("7f0c3f6e-3c1b-4a35-9d3e-5b9f2f3f9b11")
    for other in ("7F0C3F6E-3C1B-4A35-9D3E-5B9F2F3F9B11", "7f0c3f6e3c1b4a359d3e5b9f2f3f9b11", OLD, ""):
        assert not is_message_id(other)


def test_the_version_of_a_token_is_in_it() -> None:
    assert [token_version(t) for t in (OLD, NEW, "7f0c3f6e3c1b4a359d3e5b9f2f3f9b11", "ip.v0.x")] == [1, 3, None, None]
