"""Read tables of eye trackers, spreadsheets and R: any encoding, separator, decimal comma."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

MISSING = frozenset(
    ["", ".", "-", "--", "na", "n/a", "#n/a", "nan", "-nan", "null", "none", "nil", "missing"]
)
"""Cells without a value, in lower case."""
SEPARATORS: tuple[str, ...] = (",", ";", "\t", "|", " ")
THOUSANDS = r"[+-]?\d{1,3}[.,]\d{3}"
"""A number whose comma or point may be decimal, or separate thousands."""


def read_text_table(path: Path, required: Sequence[str], numbers: Sequence[str]) -> pd.DataFrame:
    """Read a table.  Its first line names the columns, in any case, and must have the `required`.

    Comment lines (`#`) may come before.  The index is the line in the file, from 1.
    numbers: columns to convert to float64; missing values and columns are nan.  Other columns are
    text, empty if a value is missing.
    Raises ValueError naming the file and the line.
    """
    try:
        table, separator = _parse(decode_text(path.read_bytes()), required)
        cells = table.reindex(columns=list(numbers), fill_value="")
        return table.assign(**_to_numbers(cells, separator))
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: {error}") from error


def decode_text(data: bytes) -> str:
    """Decode text in UTF-8, UTF-16 or, if it is neither, Windows-1252."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    if data[:2].count(0) == 1:
        return data.decode("utf-16-be" if data[:1] == b"\0" else "utf-16-le")
    for encoding in ("utf-8-sig", "cp1252"):
        with suppress(UnicodeDecodeError):
            return data.decode(encoding)
    raise ValueError("it is not text; save the table as csv")


def _parse(text: str, required: Sequence[str]) -> tuple[pd.DataFrame, str]:
    """Return the cells as text, and the separator."""
    import pandas as pd  # Takes a second; only tables need it.

    lines = list(io.StringIO(text, newline=""))
    start, separators = 0, SEPARATORS
    while start < len(lines) and (not lines[start].strip() or lines[start].startswith("#")):
        start += 1
    if start < len(lines) and (stated := re.fullmatch(r'\s*"?sep=(.)"?\s*', lines[start])):
        start, separators = start + 1, (stated[1],)
    columns, separator = _columns("".join(lines[start : start + 1]), separators, required)
    rows: dict[int, list[str]] = {}
    for number, row in _rows(lines[start + 1 :], separator):
        while len(row) > len(columns) and not row[-1]:
            row.pop()
        if len(row) > len(columns) or (separator == " " and len(row) < len(columns)):
            raise ValueError(
                f"line {start + 1 + number} has {len(row)} cells, the first line names "
                f"{len(columns)} columns; if numbers have decimal commas, separate the cells by "
                "`;` or quote the numbers"
            )
        cells = ["" if cell.lower() in MISSING else cell for cell in row]
        rows[start + 1 + number] = cells + [""] * (len(columns) - len(row))
    if not rows:
        raise ValueError("it has no rows")
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns, dtype=str), separator


def _columns(
    header: str, separators: Sequence[str], required: Sequence[str]
) -> tuple[list[str], str]:
    """Return the columns' names, and the separator with which the required ones are found."""
    found = {
        separator: [name.lower() for _, row in _rows([header], separator) for name in row]
        for separator in separators
    }
    for separator, names in found.items():
        if set(required) <= set(names):
            while not names[-1]:
                names.pop()
            twice = {name for name in names if name and names.count(name) > 1}
            if twice:
                raise ValueError(f"two columns are named {twice.pop()}")
            # R and pandas write row numbers without a name.
            return [name or f"column {number}" for number, name in enumerate(names)], separator
    names = max(found.values(), key=len)
    missing = [name for name in required if name not in names]
    raise ValueError(
        f"no column {', '.join(missing)} among {', '.join(names)}; the first line must name the "
        f"columns {', '.join(required)}"
    )


def _rows(lines: Sequence[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield non-empty rows, each with the number (from 1) of its last line."""
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    for row in reader:
        cells = [cell.strip() for cell in row]
        if any(cells):
            yield reader.line_num, cells


def _to_numbers(table: pd.DataFrame, separator: str) -> dict[str, list[float]]:
    """Convert text columns to numbers; commas are decimal if all of them can be."""
    cells = table.melt(ignore_index=False)["value"]
    with_comma = cells[cells.str.contains(",")]
    # A comma before three digits in all cells may separate thousands.
    suspects = with_comma
    if len(with_comma) and not (separator == "," and with_comma.str.fullmatch(THOUSANDS).all()):
        suspects = cells[cells.str.fullmatch(THOUSANDS) & ~cells.str.contains(",")]
    for line, cell in suspects.items():
        plain = re.sub("[.,]", "", cell)
        raise ValueError(
            f"line {line}: {cell!r} may be {cell.replace(',', '.')} or {plain}; save the table "
            "with decimal points"
        )
    return {
        str(name): [_number(cell, f"line {line}: {name}") for line, cell in column.items()]
        for name, column in table.items()
    }


def _number(cell: str, where: str) -> float:
    """Return a cell's number, nan for an empty one; commas are decimal."""
    plain = cell.replace("\u2212", "-")
    if "," in plain and "." in plain:
        thousands = min(",.", key=plain.rfind)
        plain = plain.replace(thousands, "")
    try:
        if "_" in plain:
            raise ValueError
        return float(plain.replace(",", ".") or "nan")
    except ValueError:
        raise ValueError(f"{where} is {cell!r}, not a number") from None
