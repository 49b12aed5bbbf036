"""Find rows of an adopted ``user_logins`` that mean something else than loginpipe's, by the form of their values.

Forms are counted in the database. No value leaves it.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from loginpipe.masking.compat import BASE64, HMAC, MD5, PLAIN, SALTED
from loginpipe.masking.mask import MASKED_COLUMNS
from loginpipe.postgres.connections import Connection, fetch
from loginpipe.postgres.statements import statement

# Form in the SQL statement → its description, and the settings of LOGINPIPE_MASKING that produce it.
_FORMS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "token": ("tokens", (HMAC,)),
    "hex64": ("64 hexadecimal digits", (PLAIN, SALTED)),
    "base64": ("SHA-256 in base64", (BASE64,)),
    "hex32": ("32 hexadecimal digits", (MD5,)),
}
_SMALL = 0.1


@dataclass(frozen=True)
class RowForms:
    """Counts of the rows that were read, by column and form. Rows with NULL in a column are not counted there."""

    forms: Mapping[str, Counter[str]]

    @property
    def rows(self) -> int:
        """Return the number of rows with a value in the column that has the most values."""
        return max((of_column.total() for of_column in self.forms.values()), default=0)

    def findings(self, masking: str) -> Iterator[str]:
        """Yield a sentence for each column whose rows mean something else than rows written with this masking."""
        yield from _of_versions(self.forms.get("app_version", Counter()))
        for column in MASKED_COLUMNS:
            of_column = self.forms.get(column, Counter())
            for form, count in of_column.most_common():
                if finding := _of_form(form, masking):
                    yield f"{column}: {count:,} of {of_column.total():,} rows hold {finding}"


def read_row_forms(connection: Connection) -> RowForms:
    """Read the forms of at most 10,000 rows."""
    forms: dict[str, Counter[str]] = {}
    # The first rows that a scan reads are the oldest: those from before the adoption.
    for column, form, count in fetch(connection, statement("row_forms"), {"limit": 10_000}):
        forms.setdefault(column, Counter())[form] = count
    return RowForms(forms)


def _of_versions(forms: Counter[str]) -> Iterator[str]:
    rows = forms.total()
    advice = "compare versions of these rows apart from new ones, or convert them; no setting changes what is written"
    if forms["below 1000"] > _SMALL * rows:
        yield (
            f"app_version: {forms['below 1000']:,} of {rows:,} rows are below 1,000, as 230 is where dots were left "
            f"out of 2.3.0, and loginpipe writes 2003000: {advice}"
        )
    elif forms["below 1000000"] and not forms["from 1000000"]:
        yield (
            f"app_version: none of {rows:,} rows reaches 1,000,000, which is version 1.0.0 as loginpipe writes it: "
            f"unless all are of versions before that, {advice}"
        )


def _of_form(form: str, masking: str) -> str | None:
    if form == "address":
        return "what looks like an address in clear: mask it; loginpipe leaves rows that were there as they are"
    if form not in _FORMS:
        return "values of no form that loginpipe makes: they do not join with new ones, and may be clear"
    words, made_by = _FORMS[form]
    if masking in made_by:
        return None
    salt = ", with its salt in LOGINPIPE_COMPAT_SALT" if SALTED in made_by else ""
    return (
        f"{words}, and LOGINPIPE_MASKING is {masking}: new values do not join with them; to go on with theirs, set it "
        f"to {' or '.join(made_by)}{salt}"
    )
