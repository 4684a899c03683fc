"""Tables as eye trackers, spreadsheets and R save them: encoding, separator, decimal commas."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MISSING = frozenset(
    ["", ".", "-", "--", "na", "n/a", "#n/a", "nan", "-nan", "null", "none", "nil", "missing"]
)
"""Cells without a value, in lower case."""
SEPARATORS = (",", ";", "\t", "|", " ")


@dataclass(frozen=True, kw_only=True)
class TextTable:
    """The rows of a table that are not empty.

    lines: of each row, the line in the file, from 1.  cells: by column, one for each row.
    """

    separator: str
    lines: tuple[int, ...]
    cells: dict[str, tuple[str, ...]]

    def text(self, column: str) -> tuple[str, ...]:
        """The cells of a column, empty ones where a value is missing or the column is."""
        cells = self.cells.get(column, ("",) * len(self.lines))
        return tuple("" if cell.lower() in MISSING else cell for cell in cells)

    def numbers(self, columns: Sequence[str]) -> NDArray[np.float64]:
        """(rows, columns) float64, nan where a value is missing or the column is.

        Raises ValueError with the line of a cell that is not a number, or could be two.
        """
        texts = {column: self.text(column) for column in columns}
        has_commas = any("," in cell for cells in texts.values() for cell in cells)
        if has_commas and self.separator == ",":
            self._refuse_thousands(texts)
        values = np.full((len(self.lines), len(columns)), np.nan)
        for position, (column, cells) in enumerate(texts.items()):
            for row, cell in enumerate(cells):
                if cell:
                    try:
                        values[row, position] = _number(cell, has_commas)
                    except ValueError as error:
                        raise ValueError(f"line {self.lines[row]}: {column} is {error}") from None
        return values

    def _refuse_thousands(self, texts: dict[str, tuple[str, ...]]) -> None:
        """Refuses a table all of whose commas may separate thousands."""
        found = [
            (line, cell)
            for cells in texts.values()
            for line, cell in zip(self.lines, cells, strict=True)
            if "," in cell
        ]
        if all(re.fullmatch(r"[+-]?\d{1,3},\d{3}", cell) for _, cell in found):
            line, cell = found[0]
            raise ValueError(
                f"line {line}: {cell!r} may be {cell.replace(',', '.')} or "
                f"{cell.replace(',', '')}; save the table with decimal points"
            )


def read_text_table(path: Path, required: Sequence[str]) -> TextTable:
    """Read a table whose first line names the columns, `required` among them, in any case.

    Raises ValueError naming the file, and the line at fault.
    """
    try:
        return _parse(decode_text(path.read_bytes()), required)
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: {error}") from error


def decode_text(data: bytes) -> str:
    """Text in UTF-8, UTF-16 or, where it is neither, Windows-1252."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    if data[:2].count(0) == 1:
        return data.decode("utf-16-be" if data[:1] == b"\0" else "utf-16-le")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252")


def _parse(text: str, required: Sequence[str]) -> TextTable:
    lines = list(io.StringIO(text, newline=""))
    start, separator = 0, ""
    while start < len(lines) and not lines[start].strip():
        start += 1
    if start < len(lines) and (stated := re.fullmatch(r'\s*"?sep=(.)"?\s*', lines[start])):
        start, separator = start + 1, stated[1]
    header = lines[start] if start < len(lines) else ""
    columns, separator = _columns(header, separator, required)
    rows: list[list[str]] = []
    numbers: list[int] = []
    for number, row in _rows(lines[start + 1 :], separator):
        while len(row) > len(columns) and not row[-1]:
            row.pop()
        if len(row) > len(columns):
            raise ValueError(
                f"line {start + 1 + number} has {len(row)} cells, the first line names "
                f"{len(columns)} columns; numbers with decimal commas want `;` between the cells, "
                "or quotes"
            )
        rows.append(row + [""] * (len(columns) - len(row)))
        numbers.append(start + 1 + number)
    if not rows:
        raise ValueError("it has no rows")
    cells = dict(zip(columns, zip(*rows, strict=True), strict=True))
    return TextTable(separator=separator, lines=tuple(numbers), cells=cells)


def _columns(header: str, separator: str, required: Sequence[str]) -> tuple[list[str], str]:
    """The columns' names in lower case, and the separator that makes the required ones appear."""
    found = {
        each: [name.lower() for _, row in _rows([header], each) for name in row]
        for each in ([separator] if separator else SEPARATORS)
    }
    for each, names in found.items():
        if set(required) <= set(names):
            while not names[-1]:
                names.pop()
            twice = {name for name in names if name and names.count(name) > 1}
            if twice:
                raise ValueError(f"two columns are named {twice.pop()}")
            # A column without a name, as R and pandas write for row numbers, is never asked for.
            return [name or f"column {number}" for number, name in enumerate(names)], each
    names = max(found.values(), key=len)
    missing = [name for name in required if name not in names]
    raise ValueError(
        f"no column {', '.join(missing)} among {', '.join(names)}; the first line names the "
        f"columns, {', '.join(required)} among them"
    )


def _rows(lines: Sequence[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not empty, and the number of the line, from 1, that each ends on."""
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    for row in reader:
        cells = [cell.strip() for cell in row]
        if any(cells):
            yield reader.line_num, cells


def _number(text: str, has_commas: bool) -> float:
    """A cell's number; has_commas: commas are decimal in the table."""
    plain = text.replace("\u2212", "-")
    if has_commas:
        if re.fullmatch(r"[+-]?\d{1,3}\.\d{3}", plain):
            raise ValueError(
                f"{text!r}, which may be {plain} or {plain.replace('.', '')}, as other cells have "
                "decimal commas; save the table with decimal points"
            )
        decimal, thousands = (",", ".") if plain.rfind(",") > plain.rfind(".") else (".", ",")
        plain = plain.replace(thousands, "").replace(decimal, ".")
    try:
        if "_" in plain:
            raise ValueError
        return float(plain)
    except ValueError:
        raise ValueError(f"{text!r}, not a number") from None
