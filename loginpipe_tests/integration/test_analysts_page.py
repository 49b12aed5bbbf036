"""The results in docs/analysts.md are those of its queries, run as the role that it names."""

import re
from contextlib import closing
from datetime import date
from pathlib import Path

import psycopg2

from loginpipe.postgres.connections import connect
from loginpipe.postgres.insights import DUPLICATES, refresh_daily_logins, refresh_duplicates

_PAGE = Path(__file__).parents[2] / "docs" / "analysts.md"
_EXAMPLE = re.compile(r"^```sql\n((?:(?!```).*\n)+)```\n\n((?:\|.*\n)+)", re.MULTILINE)


def test_each_query_of_the_page_for_analysts_returns_what_the_page_shows(
    database_url: str, pipeline_url: str, analyst_url: str
) -> None:
    page = _PAGE.read_text(encoding="utf-8")
    logins = page.split("```sql\n", 1)[1].split("```", 1)[0]
    with closing(psycopg2.connect(pipeline_url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(logins)
        cursor.execute("SELECT DISTINCT create_date FROM user_logins ORDER BY 1")
        days: list[date] = [day for (day,) in cursor]
    with closing(connect(pipeline_url)) as connection:
        for day in days:
            refresh_daily_logins(connection, day)
            for table in DUPLICATES:
                refresh_duplicates(connection, table, day)
    examples = _EXAMPLE.findall(page)
    assert len(examples) == page.count("```sql") - 1 == 6
    with closing(psycopg2.connect(analyst_url)) as connection, connection.cursor() as cursor:
        for query, shown in examples:
            cursor.execute(query)
            header = [column.name for column in cursor.description or ()]
            found = [header, ["---"] * len(header), *([str(value) for value in row] for row in cursor)]
            assert found == [[cell.strip() for cell in line.strip("|").split("|")] for line in shown.splitlines()], (
                query
            )
