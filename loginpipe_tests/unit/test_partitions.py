"""Which partitions should exist, according to the calendar only."""

from datetime import date, timedelta
from itertools import pairwise

import pytest

from loginpipe.common.logins_table import DEFAULT_TABLE as USER_LOGINS
from loginpipe.postgres.partitions import EXTRAS, LEDGER, Partition, Partitioning, coming, expired

DAY = timedelta(days=1)


def of(table: str, partitions: list[Partition]) -> list[Partition]:
    return [partition for partition in partitions if partition.table == table]


def ledger_day(day: date) -> Partition:
    return Partition(LEDGER, f"ingested_messages_{day:y%Ym%md%d}", day, day + DAY)


def test_the_ledger_reaches_from_twenty_nine_days_ago_to_a_week_ahead() -> None:
    days = of(LEDGER, coming(date(2026, 11, 21)))
    assert len(days) == 37
    assert days[0] == Partition(LEDGER, "ingested_messages_y2026m10d23", date(2026, 10, 23), date(2026, 10, 24))
    assert days[-1] == Partition(LEDGER, "ingested_messages_y2026m11d28", date(2026, 11, 28), date(2026, 11, 29))


def test_user_logins_reach_from_last_month_to_three_months_ahead_across_a_new_year() -> None:
    assert of(USER_LOGINS, coming(date(2026, 11, 21))) == [
        Partition(USER_LOGINS, "user_logins_y2026m10", date(2026, 10, 1), date(2026, 11, 1)),
        Partition(USER_LOGINS, "user_logins_y2026m11", date(2026, 11, 1), date(2026, 12, 1)),
        Partition(USER_LOGINS, "user_logins_y2026m12", date(2026, 12, 1), date(2027, 1, 1)),
        Partition(USER_LOGINS, "user_logins_y2027m01", date(2027, 1, 1), date(2027, 2, 1)),
        Partition(USER_LOGINS, "user_logins_y2027m02", date(2027, 2, 1), date(2027, 3, 1)),
    ]


@pytest.mark.parametrize("table", [LEDGER, USER_LOGINS, EXTRAS])
def test_on_every_day_of_four_years_the_partitions_of_a_table_follow_without_gap_or_overlap(table: str) -> None:
    for offset in range(4 * 366):
        today = date(2027, 1, 1) + offset * DAY
        partitions = of(table, coming(today))
        assert all(left.end == right.start for left, right in pairwise(partitions))
        assert partitions[0].start <= today - 15 * DAY
        assert partitions[-1].end > today + 7 * DAY


def test_a_ledger_day_is_kept_as_long_as_a_message_of_it_can_come_again_and_a_day_more() -> None:
    day = ledger_day(date(2026, 10, 23))
    assert expired([day], date(2026, 11, 21)) == []
    assert expired([day], date(2026, 11, 22)) == [day]


def test_what_is_coming_is_never_expired() -> None:
    for offset in range(400):
        today = date(2027, 1, 1) + offset * DAY
        assert expired(coming(today), today) == []


def test_a_partition_of_user_logins_never_expires() -> None:
    assert expired([Partition(USER_LOGINS, "user_logins_y2001m01", date(2001, 1, 1), date(2001, 2, 1))], date.max) == []


def test_a_partition_that_someone_else_made_never_expires() -> None:
    day = date(2001, 1, 1)
    assert expired([Partition(LEDGER, "by_hand", day, day + DAY)], date.max) == []
    assert expired([Partition(LEDGER, "ingested_messages_y2001m01d01", day, day + 7 * DAY)], date.max) == []


def test_a_partition_names_itself_with_its_schema() -> None:
    assert str(ledger_day(date(2026, 1, 5))) == "loginpipe.ingested_messages_y2026m01d05"


def partition(name: str, start: date, end: date) -> Partition:
    return Partition(USER_LOGINS, name, start, end)


def test_what_no_partition_covers_is_cut_at_what_is_there_as_wide_as_fits() -> None:
    month = partition("user_logins_y2026m11", date(2026, 11, 1), date(2026, 12, 1))
    assert month.uncovered([]) == [month]
    days = [partition(f"day_{day}", date(2026, 11, day), date(2026, 11, day + 1)) for day in (3, 1, 2, 10)]
    assert month.uncovered(days) == [
        partition("user_logins_y2026m11d04", date(2026, 11, 4), date(2026, 11, 10)),
        partition("user_logins_y2026m11d11", date(2026, 11, 11), date(2026, 12, 1)),
    ]
    early = partition("early", date.min, date(2026, 11, 5))
    late = partition("late", date(2026, 11, 25), date.max)
    (middle,) = month.uncovered([late, early])
    assert (middle.start, middle.end, middle.days) == (early.end, late.start, "2026-11-05 to 2026-11-24")
    (first,) = month.uncovered([partition("rest", date(2026, 11, 2), date(2026, 12, 1))])
    assert (first.name, first.days) == ("user_logins_y2026m11d01", "2026-11-01")
    assert month.uncovered([partition("year", date(2026, 1, 1), date(2027, 1, 1))]) == []
    assert month.uncovered([partition("month", month.start, month.end)]) == []


def by_day(partitions: list[Partition], *, owned: bool = True, has_default: bool = False) -> Partitioning:
    return Partitioning(USER_LOGINS, "RANGE (create_date)", owned, has_default, partitions)


def test_a_table_that_is_ours_is_quiet_and_another_roles_says_which_days_have_no_place() -> None:
    today = date(2026, 11, 21)
    months = of(USER_LOGINS, coming(today))
    assert by_day(months).notes(today) == by_day(months, owned=False).notes(today) == []
    assert by_day([]).unmanaged(today) is None
    some = [months[1], partition("day", date(2026, 12, 1), date(2026, 12, 4)), *months[3:]]
    assert by_day(some, owned=False).unmanaged(today) == (
        "another role owns it: no partition covers 2026-12-04 to 2026-12-31: logins of these days are rejected"
    )
    assert by_day(some[1:], owned=False, has_default=True).unmanaged(today) == (
        "another role owns it: no partition covers 2026-11-21 to 2026-11-30, 2026-12-04 to 2026-12-31: logins "
        "of these days go to its default partition"
    )
    (note,) = by_day([*some, partition("user_logins_y2026m12d04", date(2026, 12, 4), date(2027, 1, 1))]).notes(today)
    assert note.startswith("partitions: loginpipe did not create 1 of them, such as public.day: ")


def test_neighbours_do_not_overlap_and_a_year_overlaps_each_of_its_months() -> None:
    year = Partition(USER_LOGINS, "user_logins_2026", date(2026, 1, 1), date(2027, 1, 1))
    december = Partition(USER_LOGINS, "december", date(2026, 12, 1), date(2027, 1, 1))
    january = Partition(USER_LOGINS, "january", date(2027, 1, 1), date(2027, 2, 1))
    assert year.overlaps(december)
    assert december.overlaps(year)
    assert not january.overlaps(year)
    assert not december.overlaps(january)
