"""What sentence-transformers writes next to a model is read, or refused by name; none of it is replaced by a default."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import write_bert
from support.typed import as_text

import transferlab as tl
from transferlab.errors import TransferlabError

TEXTS = ["the film", "a great film", ""]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bert(tmp_path / "bert")


def write(path: Path, value: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))


def modules(
    folder: Path, *others: tuple[str, str], transformer: str = "", place: str = "sentence_transformers.models"
) -> None:
    pairs = (("Transformer", transformer), *others)
    write(folder / "modules.json", [
        {"idx": i, "name": str(i), "path": path, "type": f"{place}.{kind}"} for i, (kind, path) in enumerate(pairs)
    ])  # fmt: skip


def pooled(source: tl.Source, texts: list[str] = TEXTS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the source pools of these texts as one batch, their hidden states, and the mask."""
    encoded = source.transform.encode(texts)
    batch = source.transform.pad(encoded, max(len(one.ids) for one in encoded), len(texts))
    out = source(batch)
    return np.asarray(out["pooled"]), np.asarray(out["hidden"]), batch["attention_mask"]


OFF = {"pooling_mode_cls_token": False, "pooling_mode_max_tokens": False, "pooling_mode_mean_tokens": False}


@pytest.mark.parametrize(
    ("said", "mode"),
    [
        ({"word_embedding_dimension": 16, **OFF, "pooling_mode_lasttoken": True, "include_prompt": True}, "lasttoken"),
        ({"embedding_dimension": 16, "pooling_mode": "cls", "include_prompt": True}, "cls"),
        ({"pooling_mode": "lasttoken"}, "lasttoken"),
        ({"pooling_mode": ["mean"]}, "mean"),
        # sentence-transformers ignores the switches where the field is set, and takes the mean where none is on.
        ({**OFF, "pooling_mode_mean_tokens": True, "pooling_mode": "cls"}, "cls"),
        (OFF, "mean"),
        ({"word_embedding_dimension": 16}, "mean"),
    ],
)
@pytest.mark.parametrize("normalise", [False, True])
def test_the_pooling_that_the_file_says_is_taken(said: dict, mode: str, normalise: bool, folder: Path) -> None:
    (folder / "1_Pooling" / "config.json").rename(folder / "unread.json")
    write(folder / "9_Pool" / "config.json", said)
    modules(folder, ("Pooling", "9_Pool"), *[("Normalize", "")] * normalise)
    got, hidden, mask = pooled(tl.load(folder))
    last = mask.sum(1) - 1
    want = {
        "cls": hidden[:, 0],
        "lasttoken": hidden[np.arange(3), last],
        "mean": (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True),
    }[mode]
    want = want / np.linalg.norm(want, axis=1, keepdims=True) if normalise else want
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_todays_names_of_modules_are_known(folder: Path) -> None:
    modules(folder, place="sentence_transformers.base.modules.transformer")
    listed = json.loads((folder / "modules.json").read_text())
    pooling = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"
    write(folder / "modules.json", [*listed, {"path": "1_Pooling", "type": pooling}])
    settings = {
        "transformer_task": "feature-extraction", "module_output_name": "token_embeddings",
        "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    }  # fmt: skip
    write(folder / "sentence_bert_config.json", settings)
    assert tl.load(folder).pooling == "mean"


@pytest.mark.parametrize(
    ("file", "said", "message"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "weightedmean"}, r"pooling_mode 'weightedmean' is not supported"),
        ("1_Pooling/config.json", {"pooling_mode": ["cls", "mean"]}, r"pooling_mode \['cls', 'mean'\] is not supported"),
        ("1_Pooling/config.json", {"pooling_mode_mean_sqrt_len_tokens": True}, "mean_sqrt_len_tokens.* is not supported"),
        ("1_Pooling/config.json", {"pooling_mode_weightedmean_tokens": True}, "weightedmean_tokens.* is not supported"),
        ("1_Pooling/config.json", {"pooling_mode_of_tomorrow": True}, "pooling_mode_of_tomorrow True is not supported"),
        ("1_Pooling/config.json", {"pooling_mode_mean_tokens": "false"}, "mean_tokens is 'false'; it must be true or false"),
        ("1_Pooling/config.json", {"include_prompt": "false"}, "include_prompt is 'false'; it must be true or false"),
        ("sentence_bert_config.json", {"do_lower_case": "false"}, "do_lower_case is 'false'; it must be true or false"),
        ("1_Pooling/config.json", [1], "expected a JSON object"),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "transformer_task 'fill-mask' is not supported"),
        ("sentence_bert_config.json", {"module_output_name": "sentence_embedding"}, "module_output_name 'sentence"),
        ("sentence_bert_config.json", {"modality_config": {"message": {}}}, "modality_config .* is not supported"),
        ("sentence_bert_config.json", {"config_args": {"is_causal": False}}, "config_args .* is not supported"),
        ("config_sentence_transformers.json", {"default_prompt_name": "query"}, "'query' is not among its prompts"),
        ("modules.json", {}, "expected a JSON list"),
        ("modules.json", [{"type": "custom_st.Transformer", "path": ""}], "'custom_st.Transformer' is the repository's"),
        ("modules.json", [{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}], "the first module is"),
        ("modules.json", [{"type": "sentence_transformers.models.Transformer", "path": "../x"}], r"'\.\./x' of a module"),
        ("modules.json", [{"type": "sentence_transformers.models.Transformer", "path": "0_x"}], "'0_x', which does not exist"),
        ("modules.json", [{"type": "sentence_transformers.models.Transformer", "path": ""},
                          {"type": "sentence_transformers.models.Normalize", "path": ""}], "modules .* are not supported"),
        ("modules.json", [{"type": "sentence_transformers.models.Transformer", "path": ""},
                          {"type": "sentence_transformers.models.Pooling", "path": ""}], "lacks|is not supported"),
    ],
)  # fmt: skip
def test_what_a_source_cannot_have_is_refused(file: str, said: object, message: str, folder: Path) -> None:
    modules(folder, ("Pooling", "1_Pooling"))
    write(folder / file, said)
    with pytest.raises(
        TransferlabError, match=rf"{Path(file).name}.*({message})" if file != "modules.json" else message
    ):
        tl.load(folder)


def test_a_default_prompt_is_applied(folder: Path, tmp_path: Path) -> None:
    plain = tl.load(folder)
    modules(folder, ("Pooling", "1_Pooling"))
    prompts = {"default_prompt_name": None, "prompts": {"query": "the great ", "document": ""}}
    write(folder / "config_sentence_transformers.json", prompts)
    np.testing.assert_array_equal(pooled(tl.load(folder))[0], pooled(plain)[0])
    write(folder / "config_sentence_transformers.json", {**prompts, "default_prompt_name": "query"})
    source = tl.load(folder)
    np.testing.assert_array_equal(pooled(source)[0], pooled(plain, ["the great " + text for text in TEXTS])[0])
    assert as_text(source.transform).describe() != as_text(plain.transform).describe()
    for kind in ("hf", "orbax"):
        assert as_text(tl.load(tl.save(source, tmp_path / kind, format=kind)).transform).prompt == "the great "
    write(folder / "1_Pooling" / "config.json", {"pooling_mode": "mean", "include_prompt": False})
    with pytest.raises(TransferlabError, match=r"include_prompt is false and .* the default prompt 'the great '"):
        tl.load(folder)


def test_a_model_in_a_folder_of_its_own_is_found(folder: Path, tmp_path: Path) -> None:
    plain, whole = tl.load(folder), tmp_path / "whole"
    shutil.copytree(folder, whole / "0_Transformer")
    shutil.rmtree(whole / "0_Transformer" / "1_Pooling")
    write(whole / "0_Transformer" / "sentence_bert_config.json", {"max_seq_length": 20, "do_lower_case": False})
    write(whole / "1_Pooling" / "config.json", {"pooling_mode_cls_token": True})
    modules(whole, ("Pooling", "1_Pooling"), transformer="0_Transformer")
    source = tl.load(whole)
    assert source.sha256 == plain.sha256 and source.pooling == "first" and as_text(source.transform).max_length == 20
    for kind in ("hf", "orbax"):
        again = tl.load(tl.save(source, tmp_path / kind, format=kind))
        assert again.pooling == "first" and as_text(again.transform).describe() == as_text(source.transform).describe()


def test_a_length_is_sentence_transformers(folder: Path) -> None:
    # Its length overrides the tokenizer's, longer or shorter; the model's 64 positions bound both.
    for said, want in ((20, 20), (60, 60), (512, 64), (None, 48)):
        write(folder / "sentence_bert_config.json", {"max_seq_length": said, "do_lower_case": False})
        assert as_text(tl.load(folder).transform).max_length == want
    (folder / "sentence_bert_config.json").rename(folder / "sentence_xlm-roberta_config.json")
    write(folder / "sentence_xlm-roberta_config.json", {"max_seq_length": 30})
    assert as_text(tl.load(folder).transform).max_length == 30


@pytest.mark.parametrize("pickled", [False, True])
def test_every_file_that_says_something_is_fetched(pickled: bool, tmp_path: Path, monkeypatch) -> None:
    from huggingface_hub.utils import filter_repo_objects

    from transferlab.pretrained.loading import _from_hub

    weights = "0_Transformer/" + ("pytorch_model.bin" if pickled else "model.safetensors")
    says = {
        "modules.json", "1_Pooling/config.json", "0_Transformer/config.json", "0_Transformer/added_tokens.json", weights,
        "config_sentence_transformers.json", "processor_config.json", "special_tokens_map.json", "adapter_model.safetensors",
    }  # fmt: skip
    fetched: set[str] = set()

    def download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        for file in filter_repo_objects([*says, "README.md", "onnx/model.onnx"], allow_patterns=allow_patterns):
            fetched.add(file)
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).touch()
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert _from_hub("hf:a/b") == (tmp_path, tmp_path.name) and fetched == says
