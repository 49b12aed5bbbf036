"""The SQL statements that the code names: each exists once, is described, and is used."""

import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from loginpipe.postgres import statements
from loginpipe.postgres.statements import statement

PACKAGE = Path(statements.__file__).parents[1]
FILES = sorted((PACKAGE / "postgres" / "sql").glob("*.sql"))
HEAD = re.compile(r"^-- name: (.*)\n(.*)", re.MULTILINE)
HEADS = [head for file in FILES for head in HEAD.findall(file.read_text())]
NAMES = Counter(name for name, _ in HEADS)


def test_each_statement_is_used_and_each_name_used_is_there() -> None:
    sources = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    assert set(re.findall(r"""\b(?:statement\(["'](?=\w+["']\))|_sql\(["'])(\w+)""", sources)) == set(NAMES)


def test_each_statement_has_a_name_of_its_own_and_a_description() -> None:
    assert [name for name, times in NAMES.items() if times > 1] == []
    assert [name for name, described in HEADS if not re.fullmatch(r"-- [A-Z].{20,}", described)] == []


def test_each_file_begins_with_a_name() -> None:
    assert [file.name for file in FILES if not file.read_text().startswith("-- name: ")] == []


def test_a_statement_comes_without_its_description_and_without_the_next_one() -> None:
    begin = re.compile(r"(CREATE|DELETE|INSERT|LOCK|SELECT|SET|UPDATE|WITH)\s(?s:(?!-- name:).)*")
    assert [name for name in NAMES if not begin.fullmatch(statement(name))] == []


def test_a_name_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError, match="insert_new_logouts"):
        statement("insert_new_logouts")


def test_a_name_that_is_there_twice_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "sql"
    folder.mkdir()
    shutil.copy(FILES[0], folder / "one.sql")
    shutil.copy(FILES[0], folder / "two.sql")
    monkeypatch.setattr(statements, "__file__", str(tmp_path / "statements.py"))
    with pytest.raises(ValueError, match=r"is there twice, once in sql/two\.sql"):
        statements._statements.__wrapped__()
