"""What is written next to weights: sizes, tokenizer, padding token and card of the model that was written, not of its base."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.checkpoints import write_bert, write_decoder, write_vit
from support.typed import as_text
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import transferlab as tl
from transferlab.errors import TransferlabError
from transferlab.models import ClassifierConfig

BASE_CARD = "---\nlicense: cc-by-4.0\nlanguage: en\n---\n# The base's own card, with its own results\n"


def config_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("dialect", ["vit", "timm"])
def test_a_resized_source_is_saved_as_it_stands(dialect: str, tmp_path: Path) -> None:
    write_vit(tmp_path / "a", dialect)
    source = tl.load(tmp_path / "a").resized(24, patch_size=6, channels=1)
    out = tl.save(source, tmp_path / "b")
    key = source.leaves["embed/patch/kernel"].key
    written = load_file(str(out / "model.safetensors"))[key]
    assert written.shape == (12, 1, 6, 6)
    np.testing.assert_array_equal(written.transpose(2, 3, 1, 0), source.leaves["embed/patch/kernel"].read())
    raw, again = config_of(out), tl.load(out)
    if dialect == "timm":
        assert raw["pretrained_cfg"]["input_size"] == [1, 24, 24] and len(raw["pretrained_cfg"]["mean"]) == 1
        assert {name: raw["model_args"][name] for name in ("img_size", "patch_size", "in_chans")} == {
            "img_size": 24, "patch_size": 6, "in_chans": 1}  # fmt: skip
    else:
        assert (raw["image_size"], raw["patch_size"], raw["num_channels"]) == (24, 6, 1)
        assert json.loads((out / "preprocessor_config.json").read_text())["crop_size"] == {"height": 24, "width": 24}
    pixels = {"pixel_values": np.random.default_rng(0).normal(size=(2, 24, 24, 1)).astype(np.float32)}
    np.testing.assert_allclose(again(pixels)["logits"], source(pixels)["logits"], atol=1e-5)
    # Twice, through Orbax too.
    twice = tl.load(tl.save(tl.load(tl.save(source, tmp_path / "c", format="orbax")), tmp_path / "d"))
    np.testing.assert_allclose(twice(pixels)["logits"], source(pixels)["logits"], atol=1e-5)


def test_a_source_that_was_not_resized_keeps_the_files_sizes(tmp_path: Path) -> None:
    write_vit(tmp_path / "a", "dinov2")
    (tmp_path / "a" / "preprocessor_config.json").write_text(json.dumps({"size": 24}))
    source = tl.load(tmp_path / "a")
    assert source.config.image_size == 24  # its files hold positions for 16, which transformers resizes too
    out = tl.save(source, tmp_path / "b")
    assert config_of(out) == config_of(tmp_path / "a")
    for name in ("model.safetensors", "preprocessor_config.json"):
        assert (out / name).read_bytes() == (tmp_path / "a" / name).read_bytes()
    assert config_of(tl.save(source.resized(32), tmp_path / "c"))["image_size"] == 32


def test_a_regrown_source_is_saved_with_its_tokenizer(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "a", vocab_size=18, pad_token_id=0)
    (folder / "vocab.txt").write_text("of the old tokenizer")
    grown = tl.load(folder).with_tokenizer(add=["newest"])
    out = tl.save(grown, tmp_path / "b")
    assert config_of(out)["vocab_size"] == 19 and not (out / "vocab.txt").exists()
    again = tl.load(out)
    assert (
        as_text(again.transform)("good newest").ids == as_text(grown.transform)("good newest").ids
        and 18 in as_text(again.transform)("newest").ids
    )
    np.testing.assert_array_equal(again.leaves[again.table].read(), grown.leaves[grown.table].read())
    # Another tokenizer, whose special tokens have other ids.
    tokens = ["bad", "good", "[CLS]", "[PAD]", "[SEP]", "[UNK]", "cheer"]
    made = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 4)]
    )
    (tmp_path / "words").mkdir()
    made.save(str(tmp_path / "words" / "tokenizer.json"))
    (tmp_path / "words" / "tokenizer_config.json").write_text(
        json.dumps({"pad_token": "[PAD]", "model_max_length": 30})
    )
    other = tl.load(folder).with_tokenizer(tmp_path / "words")
    out = tl.save(other, tmp_path / "c")
    assert (config_of(out)["vocab_size"], config_of(out)["pad_token_id"]) == (7, 3)
    again = tl.load(out)
    assert (as_text(again.transform).pad_id, as_text(again.transform).max_length) == (3, 30)
    encoded = as_text(other.transform).encode(["good", "bad cheer"])
    assert as_text(again.transform).encode(["good", "bad cheer"]) == encoded
    batch = as_text(other.transform).pad(encoded, 16, 2)
    np.testing.assert_allclose(again(batch)["hidden"], other(batch)["hidden"], atol=1e-6)


def decoder(folder: Path, settings: dict, ends: bool = False) -> tl.Source:
    write_decoder(folder, "llama", pad_token_id=None, eos_token_id=2)
    tokens = ["<s>", "<pad>", "</s>", *(f"w{i}" for i in range(37))]
    made = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="w0"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(["<s>", "</s>"] + (["<pad>"] if "pad_token" in settings else []))
    if ends:
        made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", **settings}))
    source = tl.load(folder)
    head = ClassifierConfig(("down", "up"), pooling="last", bias=False)
    return source.with_params({"head": {"kernel": np.ones((16, 2), np.float32)}}, head=head)


@pytest.mark.parametrize(
    ("settings", "token", "id"), [({"pad_token": "<pad>"}, "<pad>", 1), ({"pad_token": "</s>"}, "</s>", 2)]
)
def test_a_decoders_classifier_names_the_padding_token_of_its_tokenizer(
    settings: dict, token: str, id: int, tmp_path: Path
) -> None:
    out = tl.save(decoder(tmp_path / "a", settings), tmp_path / "b")
    assert config_of(out)["pad_token_id"] == id
    assert json.loads((out / "tokenizer_config.json").read_text())["pad_token"] == token


def test_a_decoder_whose_texts_end_with_its_padding_is_not_written_for_transformers(tmp_path: Path) -> None:
    source = decoder(tmp_path / "a", {"pad_token": "</s>"}, ends=True)
    with pytest.raises(TransferlabError, match="ends each text with '</s>', which is its padding token too"):
        tl.save(source, tmp_path / "b", format="hf")
    # sentence-transformers finds it by the mask, and Orbax is ours.
    for format in (None, "orbax"):
        assert tl.load(tl.save(source, tmp_path / str(format), format=format)).labels == ("down", "up")


def test_a_card_is_of_the_model_that_was_written(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "the-base", architectures=["BertModel"])
    (folder / "README.md").write_text(BASE_CARD)
    source = tl.load(folder)
    # What was only copied is the base.
    assert (tl.save(source, tmp_path / "copy") / "README.md").read_text() == BASE_CARD
    given = {"head": {"kernel": np.ones((16, 2), np.float32), "bias": np.zeros(2, np.float32)}}
    trained = source.with_params(given, head=ClassifierConfig(("down", "up"), pooling="pooler"))
    for form, library in (("hf", "transformers"), ("orbax", "transferlab")):
        card = (tl.save(trained, tmp_path / form, format=form) / "README.md").read_text()
        assert "own results" not in card and 'license: "cc-by-4.0"' in card and f'library_name: "{library}"' in card
        assert "the-base" in card and "down, up" in card and str(tmp_path) not in card
    named = tl.load(tmp_path / "hf")
    assert "cc-by-4.0" in (tl.save(named.with_params(given), tmp_path / "again") / "README.md").read_text()
