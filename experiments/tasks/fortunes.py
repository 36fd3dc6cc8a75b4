"""Debian's fortunes as a text file, a paragraph each, for `tl.dataset`.

apt-get download fortunes && dpkg -x fortunes_*.deb fortunes
python experiments/tasks/fortunes.py fortunes/usr/share/games/fortunes results/fortunes.txt

Fortunes of more than 200 characters and drawings are left out.
"""

from __future__ import annotations

import sys
from pathlib import Path

LONGEST = 200


def fortunes(folder: Path) -> list[str]:
    """Each short fortune in a folder, its files in alphabetical order, with single spaces and without empty lines."""
    files = sorted(path for path in folder.iterdir() if path.suffix not in (".dat", ".u8") and path.name != "ascii-art")
    texts = [text for path in files for text in path.read_text("utf-8").split("\n%\n")]
    lines = [[" ".join(line.split()) for line in text.split("\n") if line.strip(" \t%")] for text in texts]
    paragraphs = ["\n".join(text) for text in lines]
    return [text for text in paragraphs if text and len(text) <= LONGEST and "\b" not in text]


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("Give the folder of fortunes and the file to write.")
    texts = fortunes(Path(sys.argv[1]))
    target = Path(sys.argv[2])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n\n".join(texts) + "\n", "utf-8")
    print(f"{len(texts):,} fortunes, {target.stat().st_size:,} bytes in {target}")
