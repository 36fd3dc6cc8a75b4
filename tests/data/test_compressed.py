"""Compressed files are read as what is inside, under their own name."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
from pathlib import Path

import pytest

import transferlab as tl
from transferlab import limits
from transferlab.errors import TransferlabError

TABLE = "text,label\n" + "".join(f"a film {i},{i % 2}\n" for i in range(10))


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zip"])
def test_a_compressed_table_is_a_table(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("t.zip" if kind == "zip" else f"t.csv.{kind}")
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("folder/t.csv", TABLE)
    else:
        path.write_bytes({"gz": gzip, "bz2": bz2, "xz": lzma}[kind].compress(TABLE.encode()))
    data = tl.dataset(path)
    assert data.name == str(path) and len(data.ids) == 10 and data.label_names == ("0", "1")


def test_what_is_inside_is_named_by_the_file_people_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"text,label\na,1,2\n"))
    with pytest.raises(TransferlabError, match=rf"^{path}, row 1: 3 fields"):
        tl.dataset(path)
    (tmp_path / "u.csv.gz").write_bytes(gzip.compress(TABLE.encode())[:-20])
    with pytest.raises(TransferlabError, match=r"u\.csv\.gz"):
        tl.dataset(tmp_path / "u.csv.gz")
    (tmp_path / "v.tar.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(TransferlabError, match=r"holds 'v\.tar', which is of no kind"):
        tl.dataset(tmp_path / "v.tar.gz")
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        archive.writestr("a.csv", TABLE)
        archive.writestr("b.csv", TABLE)
    with pytest.raises(TransferlabError, match="holds 2 files"):
        tl.dataset(tmp_path / "w.zip")
    path.write_bytes(gzip.compress(TABLE.encode()))
    monkeypatch.setattr(limits, "TABLE_BYTES", 50)
    with pytest.raises(TransferlabError, match="unpacks to more than 50 bytes"):
        tl.dataset(path)
