"""The pandera schemas of a valid login. ``docs/event.md`` describes the rules.

A rule gives the one reason why a cell is rejected. The check of a column passes if no cell is rejected. Checks return
booleans only, because pandera keeps failing cells in its errors; these are never shown, logged or stored.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa

from loginpipe.logins.app_versions import MAX_ENCODED, is_version
from loginpipe.logins.canonical import is_address, is_address_list, is_no_address, visible
from loginpipe.logins.parsing import Cell, Unfit
from loginpipe.logins.rejects import Reason


class Blank(Enum):
    """Which texts of a field count as blank."""

    NEVER = auto()
    EMPTY = auto()
    INVISIBLE = auto()
    """Also texts without a visible character."""


@dataclass(frozen=True)
class Rule:
    """The rule of a text field.

    Attributes:
        max_length: in characters.
        blank: which texts are rejected as blank.
        form: what a text that breaks no other rule must pass, and the reason if it does not.
        is_list: recognizes a list of values; if it is set, lists get the reason ``address_list``.
    """

    max_length: int
    nullable: bool = False
    blank: Blank = Blank.INVISIBLE
    form: tuple[Callable[[str], bool], Reason] | None = None
    is_list: Callable[[str], bool] | None = None

    def violation(self, cell: Cell) -> Reason | None:
        """Return the first reason why a cell is rejected, or None."""
        if isinstance(cell, str):
            return self._violation_of_text(cell)
        if cell is None:
            return None if self.nullable else Reason.NULL
        if cell is Unfit.ARRAY and self.is_list:
            return Reason.ADDRESS_LIST
        return Reason.MISSING if cell is Unfit.MISSING else Reason.WRONG_TYPE

    def _violation_of_text(self, text: str) -> Reason | None:
        if "\x00" in text:
            return Reason.INVALID_CHARACTERS
        if self.is_list and self.is_list(text):
            # Before the length, because a long list is too long as well.
            return Reason.ADDRESS_LIST
        if len(text) > self.max_length:
            return Reason.TOO_LONG
        if self._is_blank(text):
            return Reason.BLANK
        if self.form and not self.form[0](text):
            return self.form[1]
        return None

    def _is_blank(self, text: str) -> bool:
        if self.blank is Blank.INVISIBLE:
            return not visible(text)
        return self.blank is Blank.EMPTY and not text

    def passes_all(self, cells: list[Any]) -> bool:
        """Return True if no cell is rejected. That is the usual case, and checking a whole column is faster."""
        kinds = set(map(type, cells))
        if not kinds <= ({str, type(None)} if self.nullable else {str}):
            return False
        texts = cells if kinds == {str} else [cell for cell in cells if cell is not None]
        joined = "".join(texts)
        return (
            max(map(len, texts), default=0) <= self.max_length
            and "\x00" not in joined
            and not self._has_blank(texts, joined)
            and (self.form is None or all(map(self.form[0], set(texts))))
        )

    def _has_blank(self, texts: list[str], joined: str) -> bool:
        if self.blank is Blank.NEVER:
            return False
        if self.blank is Blank.EMPTY:
            return not all(texts)
        # Only a text that is not ASCII can contain invisible characters.
        return not all(map(str.strip if joined.isascii() else visible, texts))


RULES: Mapping[str, Rule] = {
    "user_id": Rule(128),
    "device_type": Rule(32, blank=Blank.EMPTY, form=(is_no_address, Reason.MISPLACED_VALUE)),
    "ip": Rule(64, form=(is_address, Reason.INVALID_ADDRESS), is_list=is_address_list),
    "device_id": Rule(256),
    "locale": Rule(32, nullable=True, blank=Blank.NEVER, form=(is_no_address, Reason.MISPLACED_VALUE)),
    "app_version": Rule(64, form=(is_version, Reason.INVALID_VERSION)),
}
"""The rule of each login field."""


def _column(rule: Rule) -> pa.Column:
    def fits(cells: "pd.Series[Any]") -> "pd.Series[bool] | bool":
        values = cells.tolist()
        if rule.passes_all(values):
            return True
        return pd.Series(np.fromiter((rule.violation(cell) is None for cell in values), bool, len(values)), cells.index)

    # pandera must not skip nulls, because they have a reason code of their own, nor check them itself, because it does
    # not know about missing fields.
    return pa.Column(None, pa.Check(fits, name="fits", error="fits", ignore_na=False), nullable=True)


_COLUMNS = {
    "message_id": pa.Column(unique=True),
    "sent_at": pa.Column(pd.DatetimeTZDtype("ms", "UTC")),
    **{name: _column(rule) for name, rule in RULES.items()},
}

PARSED_LOGINS_SCHEMA = pa.DataFrameSchema(_COLUMNS, strict=True, ordered=True)
"""Messages that are JSON objects, one row each, with the cells of `loginpipe.logins.parsing.login_columns`."""

VALIDATED_LOGINS_SCHEMA = pa.DataFrameSchema(
    {**_COLUMNS, "app_version": pa.Column("int32", pa.Check.in_range(0, MAX_ENCODED))}, strict=True, ordered=True
)
"""``validated_logins``: one row per accepted message, with personal data in clear."""
