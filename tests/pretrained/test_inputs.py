"""What a model is given: an id beyond its table is refused by every entrance, and so is an input of another shape."""

from __future__ import annotations

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.checkpoints import CLIPS, write_clip, write_decoder, write_vit
from support.typed import as_text
from tokenizers import Tokenizer

import transferlab as tl
from transferlab.errors import TransferlabError
from transferlab.methods.adapted import Adapted
from transferlab.train import Settings


def with_tokens(folder: Path, target: Path, *tokens: str) -> Path:
    """A copy whose tokenizer has more tokens than its table has rows."""
    shutil.copytree(folder, target)
    tokenizer = Tokenizer.from_file(str(target / "tokenizer.json"))
    free = [f"[unused{i}]" for i in range(64 - tokenizer.get_vocab_size())]
    tokenizer.add_tokens([*free, *tokens])
    tokenizer.save(str(target / "tokenizer.json"))
    return target


@pytest.fixture
def beyond(bert_folder: Path, tmp_path: Path):
    return tl.load(with_tokens(bert_folder, tmp_path / "beyond", "cheerful", "gloomy"))


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
@pytest.mark.parametrize("value", [2**31, 2**32, 2**62])
def test_an_id_beyond_32_bits_is_refused(value: int, dtype: type, source) -> None:
    for ids in (np.array([[2, value]], dtype), [[2, value]], np.array([[2, 2**63]], np.uint64)):
        with pytest.raises(TransferlabError, match=r"Row 0 of 'input_ids' holds \d+, but .* has \d+ tokens"):
            source({"input_ids": ids})


@pytest.mark.parametrize("ids", [[], [[]], np.zeros((0, 4), np.int32), np.zeros((2, 0), np.int32)])
def test_inputs_without_rows_or_tokens_are_refused(ids, source) -> None:
    with pytest.raises(TransferlabError, match=r"'input_ids' is empty, of shape \(.*\); it must have at least one row"):
        source({"input_ids": ids})


def test_an_error_prints_a_plain_number(source) -> None:
    with pytest.raises(TransferlabError, match=r"'attention_mask' holds 2; it must be 1"):
        source({"input_ids": [[2, 3]], "attention_mask": [[1, 2]]})


def test_a_rotary_position_beyond_32_bits_is_refused(tmp_path: Path) -> None:
    write_decoder(tmp_path, "llama")
    ids = np.array([[2, 3]])
    with pytest.raises(TransferlabError, match=r"'position_ids' holds 2147483648; it must be from 0 to 2147483647"):
        tl.load(tmp_path)({"input_ids": ids, "position_ids": [[0, 2**31]]})


REFUSED = r"holds the id 64, the token 'cheerful', but .* has 64 tokens in its vocabulary \(0 to 63\)\. source = source\.with_tok"


def test_a_token_beyond_the_table_is_refused(beyond, tmp_path: Path) -> None:
    ids = np.array([beyond.transform("a cheerful day").ids])
    with pytest.raises(TransferlabError, match=r"Row 0 of 'input_ids' holds 64, the token 'cheerful', but .*with_tok"):
        beyond({"input_ids": ids})
    with pytest.raises(TransferlabError, match=rf"Text 1 \('a cheerful day'\) {REFUSED}"):
        beyond.transform.encode(["fine", "a cheerful day"])
    rows = "".join(f"the film {i} was {'cheerful,up' if i % 2 else 'sad,down'}\n" for i in range(24))
    (tmp_path / "rows.csv").write_text("text,label\n" + rows)
    data = tl.dataset(tmp_path / "rows.csv", test_examples=8)
    for method in (tl.methods.Probe(), tl.methods.Full()):
        with pytest.raises(TransferlabError, match=rf"row \d+ \(.*cheerful'\) {REFUSED}"):
            tl.adapt(beyond, data, method=method, settings=Settings(max_steps=1)).fit()


def test_a_finished_run_refuses_a_token_that_it_was_not_trained_with(beyond, films, tmp_path: Path) -> None:
    settings = Settings(max_steps=1, batch_size=8)
    tl.adapt(beyond, films.subset(8, 0), method=tl.methods.Probe(), settings=settings, directory=tmp_path / "run").fit()
    with pytest.raises(TransferlabError, match=REFUSED):
        tl.open_run(tmp_path / "run")(["a cheerful day"])


def test_the_line_that_the_error_shows_mends_it(beyond) -> None:
    mended = beyond.with_tokenizer()
    encoded = mended.transform.encode(["a cheerful day", "a gloomy day"])
    assert encoded[0].ids[2] == 64 and mended.transform.table.rows == 66
    out = np.asarray(mended(mended.transform.pad(encoded, 16, 2))["hidden"])
    assert out.shape == (2, 16, 16)


def test_padding_beyond_the_table_is_refused(bert_folder: Path, tmp_path: Path) -> None:
    folder = with_tokens(bert_folder, tmp_path / "pad", "<pad>")
    (folder / "tokenizer_config.json").write_text('{"pad_token": "<pad>"}')
    with pytest.raises(TransferlabError, match=r"Texts are padded with the id 64, the token '<pad>', but"):
        as_text(tl.load(folder).transform).encode(["fine"])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"input_ids": [[2, 64]]}, r"The id 64 at \[0, 1\] is beyond a table of 64 rows \(0 to 63\)"),
        ({"input_ids": [[2, 3], [-1, 3]]}, r"The id -1 at \[1, 0\]"),
        ({"input_ids": [[2, 3]], "token_type_ids": [[0, 2]]}, r"The id 2 at \[0, 1\] is beyond a table of 2 rows"),
        ({"input_ids": [[2, 3]], "position_ids": [[0, 999]]}, r"The id 999 at \[0, 1\]"),
    ],
)
def test_a_module_refuses_an_id_beyond_the_table(inputs: dict, message: str, source) -> None:
    arrays = {name: jnp.asarray(value) for name, value in inputs.items()}
    for module in (source.module(), Adapted(source).module()):
        with pytest.raises(TransferlabError, match=message):
            module(arrays)


def test_a_traced_id_beyond_the_table_takes_the_nearest_row(source) -> None:
    # What is said of it where it is called: a traced value is not known.
    module = source.module()
    hidden = [jax.jit(lambda ids: module({"input_ids": ids})["hidden"])(jnp.array([[2, id_]])) for id_ in (63, 5000)]
    np.testing.assert_array_equal(*hidden)


def test_generate_refuses_an_id_beyond_the_table(tmp_path: Path) -> None:
    write_decoder(tmp_path, "llama")
    source = tl.load(tmp_path)
    for wrong, said in (
        ({"input_ids": [[4, 5000]]}, r"Row 0 of 'input_ids' holds 5000, but .* has 40 tokens"),
        ({"input_ids": [[4, 1 << 40]]}, "'input_ids' holds 1099511627776"),
        ({"input_ids": [[4], [4, 5]]}, "rows of different lengths"),
        (
            {"input_ids": [[4, 5]], "attention_mask": [[1.0, -10000.0]]},
            "'attention_mask' holds .*-10000.0.*; it must be 1",
        ),
        ({"attention_mask": [[1]]}, "needs 'input_ids'"),
    ):
        with pytest.raises(TransferlabError, match=said):
            tl.generate(source, wrong, max_new_tokens=2)


@pytest.mark.parametrize("kind", CLIPS)
def test_zero_shot_refuses_a_label_beyond_the_table(kind: str, tmp_path: Path) -> None:
    write_clip(tmp_path / kind, kind)
    source = tl.load(with_tokens(tmp_path / kind, tmp_path / "beyond", "cheerful"))
    with pytest.raises(
        TransferlabError, match=r"holds the id 64, the token 'cheerful', but .* another tokenizer than it was"
    ):
        tl.zero_shot_classifier(source, ("film", "cheerful"))
    with pytest.raises(TransferlabError, match="'input_ids' holds 64"):
        source({"input_ids": np.array([[2, 64, 3]]), "pixel_values": np.zeros((1, 16, 16, 3), np.float32)})


def test_the_decoder_of_t5_refuses_an_id_beyond_the_table(tmp_path: Path) -> None:
    from transferlab.models import T5Config

    config = T5Config(vocab_size=24, d_model=8, d_kv=4, d_ff=12, num_layers=1, num_decoder_layers=1, num_heads=2)
    source = _written(config, tmp_path)
    ids = np.array([[1, 2, 3]])
    assert source({"input_ids": ids, "decoder_input_ids": np.array([[0, 23]])})["hidden"].shape == (1, 2, 8)
    with pytest.raises(TransferlabError, match=r"Row 0 of 'decoder_input_ids' holds 24, but .* has 24 tokens"):
        source({"input_ids": ids, "decoder_input_ids": np.array([[0, 24]])})
    with pytest.raises(TransferlabError, match=r"'decoder_attention_mask' has shape \(1, 3\), but 'decoder_input_ids'"):
        source({"input_ids": ids, "decoder_input_ids": np.array([[0, 1]]), "decoder_attention_mask": np.ones((1, 3))})


def _written(config, folder: Path):
    """A source of random weights under our own paths."""
    from safetensors.numpy import save_file

    from transferlab import trees
    from transferlab.pretrained.families import family_of
    from transferlab.pretrained.names import to_file

    rng = np.random.default_rng(0)
    names = max(family_of(config).names(config), key=lambda table: len(table.names))
    head = names.language_model
    shapes = trees.flatten(trees.define(config.build(head)).params)
    leaves = {path: rng.normal(0, 0.3, leaf.shape).astype(np.float32) for path, leaf in shapes.items()}
    tensors = {key: np.ascontiguousarray(tensor) for key, tensor in to_file(names, leaves).items()}
    save_file(tensors, str(folder / "model.safetensors"))
    return tl.load(folder / "model.safetensors", config=config)


@pytest.mark.parametrize("rows", [0, -1])
def test_an_impossible_number_of_rows_is_refused(rows: int) -> None:
    from transferlab.data.batches import evaluation_order

    with pytest.raises(TransferlabError, match=f"rows is {rows}; it must be at least 1"):
        evaluation_order(np.arange(4), np.full(4, 16, np.int32), rows)


def test_an_image_size_of_zero_is_refused(tmp_path: Path) -> None:
    write_vit(tmp_path, "vit")
    with pytest.raises(TransferlabError, match="image_size is 0; it must be at least 1"):
        tl.load(tmp_path).resized(0)


def test_images_of_another_kind_are_one_error(tmp_path: Path) -> None:
    write_vit(tmp_path, "vit")
    source = tl.load(tmp_path)
    for pixels, said in (
        (np.zeros((1, 3, 16, 16), np.float32), r"with 16 channels; .* reads .*3\)\. Channels come last"),
        (np.zeros((1, 16, 16, 1), np.float32), "with 1 channels"),
        (np.zeros((16, 16, 3), np.float32), r"has shape \(16, 16, 3\); it must be \(batch, height, width, channels\)"),
        (np.zeros((1, 16, 16, 3), np.uint8), "is of dtype uint8; it must be normalized floats"),
        (np.zeros((1, 24, 24, 3), np.float32), "Images of 24 × 24 pixels do not fit"),
    ):
        with pytest.raises(TransferlabError, match=said):
            source({"pixel_values": pixels})
