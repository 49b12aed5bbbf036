"""The pandera schemas: what makes a login a good one. The rules in words are in ``docs/tables.md``.

Every check is named by the reason code it stands for and passes what an earlier check has refused already, so that
a field at fault has one reason. Checks return booleans only: pandera keeps failing cells in its errors, and those
are never shown, logged or stored.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pandas as pd
import pandera.pandas as pa

from loginpipe.logins.app_versions import MAJOR_MOST, is_version
from loginpipe.logins.canonical import is_address
from loginpipe.logins.parsing import Unfit
from loginpipe.logins.rejects import Reason


def _check(reason: Reason, passes: Callable[[Any], bool], all_pass: Callable[[list[Any]], bool]) -> pa.Check:
    """Make a check of a column.

    Args:
        reason: what it stands for.
        passes: judges a cell.
        all_pass: says whether every cell passes. Almost always they do, and a look at the column as a whole, without
            a call for each cell, takes a tenth of the time.
    """

    def passes_each(cells: "pd.Series[Any]") -> "pd.Series[bool] | bool":
        values = cells.tolist()
        if all_pass(values):
            return True
        return pd.Series(np.fromiter(map(passes, values), dtype=bool, count=len(values)), cells.index)

    # Nulls have a reason code of their own, so pandera may not leave them out.
    return pa.Check(passes_each, name=reason.value, error=reason.value, ignore_na=False)


def _text_check(reason: Reason, passes: Callable[[str], bool], all_pass: Callable[[list[str]], bool]) -> pa.Check:
    return _check(
        reason,
        lambda cell: not isinstance(cell, str) or passes(cell),
        lambda cells: all_pass(cells if _kinds(cells) == {str} else [cell for cell in cells if isinstance(cell, str)]),
    )


def _absent_check(reason: Reason, value: Unfit | None) -> pa.Check:
    return _check(reason, lambda cell: cell is not value, lambda cells: type(value) not in _kinds(cells))


def _kinds(cells: list[Any]) -> set[type]:
    return set(map(type, cells))


def _text(most: int, *more: pa.Check, nullable: bool = False, may_be_blank: bool = False) -> pa.Column:
    checks = [
        _absent_check(Reason.MISSING, Unfit.MISSING),
        _absent_check(Reason.WRONG_TYPE, Unfit.NOT_TEXT),
        _text_check(Reason.INVALID_CHARACTERS, lambda cell: "\x00" not in cell, _without_nul),
        _text_check(
            Reason.TOO_LONG,
            lambda cell: len(cell) <= most or "\x00" in cell,
            lambda cells: max(map(len, cells), default=0) <= most,
        ),
        *more,
    ]
    if not nullable:
        checks.append(_absent_check(Reason.NULL, None))
    if not may_be_blank:
        checks.append(_text_check(Reason.BLANK, lambda cell: len(cell) > 0, all))
    # Nullness is judged above: pandera's own check does not know what is missing.
    return pa.Column(object, checks, nullable=True)


def _without_nul(cells: list[str]) -> bool:
    return "\x00" not in "".join(cells)


def _text_rule(reason: Reason, passes: Callable[[str], bool], most: int) -> pa.Check:
    """Check a rule of the field's own; let pass what the checks on length, blankness and characters refuse."""

    def passes_unless_at_fault(cell: str) -> bool:
        return not cell or len(cell) > most or "\x00" in cell or passes(cell)

    return _text_check(reason, passes_unless_at_fault, lambda cells: all(map(passes_unless_at_fault, set(cells))))


_ADDRESS_MOST: Final = 64
_VERSION_MOST: Final = 32

_IDENTITY_COLUMNS: Final = {
    "user_id": _text(128),
    "device_type": _text(32),
    "ip": _text(_ADDRESS_MOST, _text_rule(Reason.INVALID_ADDRESS, is_address, _ADDRESS_MOST)),
    "device_id": _text(256),
    "locale": _text(32, nullable=True, may_be_blank=True),
}

LOGIN_FIELDS_SCHEMA: Final = pa.DataFrameSchema(
    {
        **_IDENTITY_COLUMNS,
        "app_version": _text(_VERSION_MOST, _text_rule(Reason.INVALID_VERSION, is_version, _VERSION_MOST)),
    },
    strict=True,
)
"""Login fields as parsed; see `loginpipe.logins.parsing.login_fields` for the frame."""

VALIDATED_LOGINS_SCHEMA: Final = pa.DataFrameSchema(
    {
        "message_id": pa.Column(object, unique=True),
        "sent_at": pa.Column(pd.DatetimeTZDtype("ms", "UTC")),
        **_IDENTITY_COLUMNS,
        "app_version": pa.Column("int32", pa.Check.in_range(0, MAJOR_MOST * 1_000_000 + 999_999)),
    },
    strict=True,
    ordered=True,
)
"""``validated_logins`` as a whole: one row an accepted message, personal data still clear."""
