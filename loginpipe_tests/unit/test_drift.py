"""Unknown fields are counted by name; a name that may be someone's value is not shown."""

from collections import Counter
from collections.abc import Iterable
from ipaddress import IPv4Address
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loginpipe.logins.extras import HIDDEN_NAME, MAX_NAMES, OTHER_NAMES, count_unknown_fields, shown_name

moderate = settings(max_examples=100, deadline=None, print_blob=True)


def counted(*events: Iterable[str]) -> Counter[str]:
    """Return the counts for events with these unknown names."""
    return count_unknown_fields(Counter(map(tuple, events)))


def letters(number: int) -> str:
    return "".join(chr(ord("a") + int(digit)) for digit in f"{number:04}")


@pytest.mark.parametrize(
    "name", ["session_length", "sessionLength", "_x", "X", "utm_source", "ipv6", "field_123", "a1b2c3", "a" * 64]
)
def test_a_plain_identifier_is_shown(name: str) -> None:
    assert shown_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "", " ", "199.172.111.135", "::1", "593-47-5928", "d593475928", "a1b2c3d4", "user@example.com", "two words",
        "9lives", "a" * 65, "a\n", "a\x00", "\u00e9t\u00e9", "\u0661", "a\u0661", "a-b", "a.b", "{}", "\ud800",
        "424cdd21-063a-43a7-b91b-7ca1a833afae", "ip=1.2.3.4",
    ],
    ids=ascii,
)  # fmt: skip
def test_a_name_that_could_be_a_value_is_hidden(name: str) -> None:
    assert shown_name(name) == HIDDEN_NAME


@moderate
@given(st.ip_addresses(v=4), st.uuids(), st.integers(1000, 10**15))
def test_an_address_an_id_or_a_number_used_as_a_name_is_never_shown(
    address: IPv4Address, device: UUID, number: int
) -> None:
    event = {str(address): 1, str(device): 2, str(number): 3, f"device_{number}": 4, f"n{number}": 5}
    assert counted(event) == {HIDDEN_NAME: 1}


def test_a_name_is_counted_once_an_event() -> None:
    assert counted("ab", "a", "", "a") == {"a": 3, "b": 1}


def test_several_hidden_names_of_one_event_count_once() -> None:
    assert counted(["1.2.3.4", "5.6.7.8"], ["9.9.9.9"]) == {HIDDEN_NAME: 2}


def test_a_flood_of_names_is_kept_to_fifty_and_the_rest_in_one() -> None:
    counts = counted(*([letters(i)] for i in range(200)))
    assert len(counts) == MAX_NAMES + 1
    assert counts[OTHER_NAMES] == 200 - MAX_NAMES


def test_a_name_that_is_kept_goes_on_being_counted_after_a_flood() -> None:
    assert counted(["first"], *([letters(i)] for i in range(200)), ["first", "second"])["first"] == 2


def test_an_event_with_many_names_beyond_the_fifty_counts_once_among_the_others() -> None:
    flood = [letters(i) for i in range(200)]
    assert counted(flood)[OTHER_NAMES] == 1
    assert counted(flood, flood)[OTHER_NAMES] == 2


@moderate
@given(st.lists(st.dictionaries(st.text(st.characters(), max_size=6), st.none(), max_size=4), max_size=10))
def test_no_count_is_above_the_number_of_events_and_no_value_is_in_the_names(events: list[dict[str, None]]) -> None:
    counts = counted(*events)
    assert all(1 <= count <= len(events) for count in counts.values())
    assert all(name == HIDDEN_NAME or name.isidentifier() for name in counts)
