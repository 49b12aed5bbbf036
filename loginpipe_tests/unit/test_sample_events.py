"""The generated events: their format, their mix, and which of them the rules accept and reject."""

import json
from collections import Counter
from ipaddress import ip_address

import pytest

from loginpipe.local.sample_events import BAD_KINDS, sample_bodies

FIELDS = ["user_id", "app_version", "device_type", "ip", "locale", "device_id"]


@pytest.fixture(scope="module")
def good_events() -> list[dict]:
    return [json.loads(body) for body in sample_bodies(20_000, seed=7, bad_share=0)]


def share(events: list[dict], holds) -> float:
    return sum(map(holds, events)) / len(events)


def test_the_same_seed_gives_the_same_bodies_and_another_seed_others() -> None:
    assert list(sample_bodies(500, seed=1)) == list(sample_bodies(500, seed=1))
    assert list(sample_bodies(500, seed=1)) != list(sample_bodies(500, seed=2))


def test_a_longer_run_begins_as_a_shorter_one() -> None:
    assert list(sample_bodies(1000, seed=1))[:300] == list(sample_bodies(300, seed=1))


def test_every_body_can_be_sent_to_sqs() -> None:
    for body in sample_bodies(5_000, seed=3, bad_share=0.5):
        assert body
        assert all(" " <= character <= "~" for character in body), "beyond plain ASCII, XML 1.0 has gaps"


def test_good_events_look_like_real_ones(good_events: list[dict]) -> None:
    assert all(list(event)[:6] == FIELDS for event in good_events)
    assert share(good_events, lambda event: event["device_type"] == "ios") == pytest.approx(0.5, abs=0.02)
    assert {event["device_type"] for event in good_events} == {"ios", "android"}
    assert share(good_events, lambda event: event["locale"] is None) == pytest.approx(0.29, abs=0.02)
    assert {event["app_version"].count(".") for event in good_events} == {0, 1, 2}
    assert len({event["user_id"] for event in good_events}) == len(good_events)


def test_addresses_are_of_every_range_and_a_few_are_ipv6(good_events: list[dict]) -> None:
    addresses = [ip_address(event["ip"]) for event in good_events]
    assert any(address.is_multicast for address in addresses)
    assert any(address.is_reserved for address in addresses)
    assert sum(address.version == 6 for address in addresses) / len(addresses) == pytest.approx(0.03, abs=0.01)


@pytest.mark.parametrize("field", ["device_id", "ip"])
def test_one_event_in_ten_repeats_a_device_or_an_address_and_a_few_are_everywhere(
    good_events: list[dict], field: str
) -> None:
    counts = Counter(event[field] for event in good_events)
    repeated = [count for count in counts.values() if count > 5]
    assert sum(repeated) / len(good_events) == pytest.approx(0.10, abs=0.02)
    assert max(repeated) / len(good_events) > 0.02


def test_some_users_share_a_device(good_events: list[dict]) -> None:
    device, _ = Counter(event["device_id"] for event in good_events).most_common(1)[0]
    assert len({event["user_id"] for event in good_events if event["device_id"] == device}) > 1


def test_one_good_event_in_a_hundred_has_an_unknown_field(good_events: list[dict]) -> None:
    assert share(good_events, lambda event: len(event) > len(FIELDS)) == pytest.approx(0.01, abs=0.005)


def kind_of(body: str) -> str:  # noqa: C901, PLR0911 - one line a kind
    try:
        event = json.loads(body)
    except ValueError:
        return "not_json"
    if isinstance(event, list):
        return "array"
    if not event:
        return "empty_object"
    if "user_id" not in event:
        return "no_user_id"
    if event["ip"] is None:
        return "null_ip"
    if ".300." in event["ip"]:
        return "ip_out_of_range"
    if not event["device_id"].strip():
        return "blank_device_id"
    if "\x00" in event["device_id"]:
        return "nul_character"
    if not event["app_version"].replace(".", "").isdigit():
        return "version_not_numeric"
    if len(event["locale"] or "") > 32:
        return "text_too_long"
    if not isinstance(event["device_type"], str):
        return "number_for_text"
    return "good"


def test_bad_messages_are_of_every_kind_equally_often() -> None:
    kinds = Counter(map(kind_of, sample_bodies(55_000, seed=5, bad_share=0.02)))
    assert kinds.pop("good") == 55_000 - 1_100
    assert kinds == dict.fromkeys(BAD_KINDS, 100)


def test_bad_messages_are_spread_evenly() -> None:
    bodies = list(sample_bodies(1_000, seed=5, bad_share=0.1))
    in_each_hundred = [sum(kind_of(body) != "good" for body in bodies[at : at + 100]) for at in range(0, 1_000, 100)]
    assert in_each_hundred == [10] * 10


@pytest.mark.parametrize(("bad_share", "bad"), [(0, 0), (1, 200)])
def test_none_or_all_may_be_bad(bad_share: float, bad: int) -> None:
    assert sum(kind_of(body) != "good" for body in sample_bodies(200, seed=5, bad_share=bad_share)) == bad
