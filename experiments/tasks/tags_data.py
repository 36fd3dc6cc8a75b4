"""Write Debian's packages: a line that describes each, and the debtags that people gave it.

python experiments/tasks/tags_data.py [PACKAGES]                    # results/tasks/tags/{train,test}.csv

PACKAGES is a file ``Packages`` of a Debian archive; without it, ``apt-cache dumpavail`` prints what apt knows (after ``apt-get update``).
The text is the first line of the description, without the package's name; tags are the 24 most frequent of five facets, but for
``interface::x11``, which almost the same packages have as ``interface::graphical``. Of each source package one binary package is drawn,
so that no program is both in training and in test.
"""

from __future__ import annotations

import csv
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

FOLDER = Path("results/tasks/tags")
FACETS = ("role", "implemented-in", "interface", "use", "works-with")
LEFT_OUT = ("interface::x11",)
TAGS, TRAIN, TEST = 24, 4000, 600


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """The fields of each package; a line that begins with white space continues a field."""
    for stanza in text.split("\n\n"):
        fields: dict[str, str] = {}
        for line in stanza.replace("\n ", " ").replace("\n\t", " ").splitlines():
            name, _, value = line.partition(":")
            fields[name] = value.strip()
        if "Package" in fields:
            yield fields


def packages(text: str) -> list[tuple[str, set[str]]]:
    """Description and tags of one tagged package of each source package, without repeated descriptions, in the order of names."""
    of_source: dict[str, list[tuple[str, set[str]]]] = {}
    for fields in sorted(stanzas(text), key=lambda fields: fields["Package"]):
        tags = {tag.strip() for tag in fields.get("Tag", "").split(",")}
        tags = {tag for tag in tags if tag.partition("::")[0] in FACETS and tag not in LEFT_OUT}
        description = fields.get("Description", "").split("  ")[0].strip()
        if tags and description:
            source = fields.get("Source", fields["Package"]).split()[0]
            of_source.setdefault(source, []).append((description, tags))
    rng = np.random.default_rng(0)
    drawn = [of_source[source][rng.integers(len(of_source[source]))] for source in sorted(of_source)]
    return list({description.casefold(): (description, tags) for description, tags in drawn}.values())


def main() -> None:
    if len(sys.argv) > 1:
        text = Path(sys.argv[1]).read_text("utf-8")
    else:
        text = subprocess.run(["apt-cache", "dumpavail"], check=True, capture_output=True, encoding="utf-8").stdout
    known = packages(text)
    frequent = [tag for tag, _ in Counter(tag for _, tags in known for tag in tags).most_common(TAGS)]
    rows = [(description, sorted(tags & set(frequent))) for description, tags in known]
    rows = [row for row in rows if row[1]]
    order = np.random.default_rng(1).permutation(len(rows))[: TRAIN + TEST]
    FOLDER.mkdir(parents=True, exist_ok=True)
    for split, indices in {"train": order[TEST:], "test": order[:TEST]}.items():
        with (FOLDER / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            chosen = [(rows[i][0], "|".join(rows[i][1])) for i in indices]
            csv.writer(file).writerows([("description", "tags"), *chosen])
        counts = Counter(tag for i in indices for tag in rows[i][1])
        print(f"{FOLDER / f'{split}.csv'}: {len(indices)} of {len(rows)} packages; " + ", ".join(
            f"{tag} {count}" for tag, count in counts.most_common()
        ))  # fmt: skip


if __name__ == "__main__":
    main()
