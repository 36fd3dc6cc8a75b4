"""Data of no kind that is read: the line of code that makes it one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_PANDAS = {
    ".xlsx": "read_excel", ".xls": "read_excel", ".xlsm": "read_excel", ".xlsb": "read_excel", ".ods": "read_excel",
    ".pkl": "read_pickle", ".pickle": "read_pickle", ".h5": "read_hdf", ".hdf5": "read_hdf", ".hdf": "read_hdf",
    ".orc": "read_orc", ".xml": "read_xml", ".dta": "read_stata", ".sav": "read_spss", ".sas7bdat": "read_sas",
}  # fmt: skip
"""Suffixes of files that pandas reads as a DataFrame, and its function; a pickle runs code, so that only a person may open it."""
_DATABASES = (".db", ".sqlite", ".sqlite3", ".db3")
_ARCHIVES = (".tar", ".tgz", ".tbz2", ".7z", ".rar")
_PROSE = (".md", ".rst", ".log", ".tex")


def line_for(source: Any) -> str:
    """Return a sentence, and where there is one the line, that opens what no reader recognises; empty if none is known.

    Example:
        >>> print(line_for(Path("reviews.xlsx")))
        Open it as a DataFrame:
          >>> tl.dataset(pandas.read_excel('reviews.xlsx'))
    """
    if isinstance(source, Path):
        return _of_file(source)
    if source is None or isinstance(source, (str, int, float)):
        return ""
    return "Of values in memory make columns:\n  >>> tl.dataset({'text': list(texts), 'label': list(labels)})"


def _of_file(path: Path) -> str:
    suffix, name = path.suffix.lower(), str(path)
    if suffix in _PANDAS:
        trusted = " if you trust who wrote it, since a pickle runs code" if _PANDAS[suffix] == "read_pickle" else ""
        return f"Open it as a DataFrame{trusted}:\n  >>> tl.dataset(pandas.{_PANDAS[suffix]}({name!r}))"
    if suffix in _DATABASES:
        query = f"pandas.read_sql('SELECT * FROM reviews', sqlite3.connect({name!r}))"
        return f"Open one of its tables as a DataFrame:\n  >>> tl.dataset({query})"
    if suffix in (".npz", ".npy"):
        return f"Make columns of its arrays:\n  >>> arrays = numpy.load({name!r})\n  >>> tl.dataset({{'text': arrays[…], 'label': arrays[…]}})"
    if suffix in _ARCHIVES:
        return "Unpack it, and open the file or folder inside."
    if suffix in _PROSE:
        return "For its paragraphs as texts, give it a name that ends in .txt."
    return ""
