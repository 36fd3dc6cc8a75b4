"""Directories of two towers: names in both directions, one tower alone to be adapted, configs, preprocessing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.checkpoints import CLIP_TEXT, CLIP_VISION, CLIPS, write_clip
from support.typed import as_image

import transferlab as tl
from transferlab.data.images import png
from transferlab.errors import TransferlabError
from transferlab.models import ClipConfig, TextTowerConfig, ViTConfig
from transferlab.pretrained.families.clip import (
    clip_from_hf,
    clip_from_open_clip,
    clip_names,
    clip_to_hf,
    text_tower_from_hf,
)
from transferlab.pretrained.families.vit import vit_from_hf
from transferlab.pretrained.families.vit_timm import vit_from_timm
from transferlab.pretrained.names import to_file
from transferlab.pretrained.timm import TimmConfig


@pytest.fixture(scope="module", params=CLIPS)
def folder(request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("clips") / request.param
    write_clip(made, request.param)
    return made


def test_loaded_leaves_write_the_files_own_tensors(tmp_path: Path) -> None:
    for kind in CLIPS:
        tensors = write_clip(tmp_path / kind, kind)
        source = tl.load(tmp_path / kind)
        again = to_file(clip_names(source.config)[0], {path: leaf.read() for path, leaf in source.leaves.items()})
        assert again.keys() == tensors.keys() and not source.unused
        for key, tensor in tensors.items():
            np.testing.assert_array_equal(again[key], tensor, err_msg=key)


def test_open_clips_keys_are_its_own(tmp_path: Path) -> None:
    """Fused query, key and value; projections that are not transposed."""
    raw = {
        "model_cfg": {
            "embed_dim": 6, "quick_gelu": True,
            "vision_cfg": {"image_size": 16, "layers": 2, "width": 12, "head_width": 6, "patch_size": 4, "mlp_ratio": 2.0},
            "text_cfg": {"context_length": 9, "vocab_size": 30, "width": 8, "heads": 2, "layers": 1},
        },
        "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bilinear"},
    }  # fmt: skip
    (tmp_path / "open_clip_config.json").write_text(json.dumps(raw))
    config = clip_from_open_clip(raw)
    rng = np.random.default_rng(0)
    shapes = tl.define(config.build()).params
    from transferlab import trees

    leaves = {p: rng.normal(size=leaf.shape).astype(np.float32) for p, leaf in trees.flatten(shapes).items()}
    tensors = to_file(clip_names(config)[1], leaves)
    assert tensors["visual.transformer.resblocks.1.attn.in_proj_weight"].shape == (36, 12)
    np.testing.assert_array_equal(tensors["visual.proj"], leaves["vision/projection/kernel"])
    np.testing.assert_array_equal(tensors["text_projection"], leaves["text/projection/kernel"])
    assert tensors["visual.conv1.weight"].shape == (12, 3, 4, 4) and tensors["positional_embedding"].shape == (9, 8)
    save_file(tensors, str(tmp_path / "open_clip_model.safetensors"))
    source = tl.load(tmp_path)
    for path, leaf in leaves.items():
        np.testing.assert_array_equal(source.leaves[path].read(), leaf, err_msg=path)
    transform = source.tower("vision").transform
    assert (
        as_image(transform).size,
        as_image(transform).mean,
        as_image(transform).resize,
        as_image(transform).crop_fraction,
    ) == (
        16,
        (0.1, 0.2, 0.3),
        "bilinear",
        1.0,
    )
    bare = tl.load(tmp_path / "open_clip_model.safetensors", config=config)
    assert bare.sha256 == source.sha256 and bare.config.text.pooled_token == "highest"


def test_one_tower_is_an_ordinary_backbone(folder: Path) -> None:
    whole = tl.load(folder)
    for name, family, modality in (("vision", "vit", "image"), ("text", "clip_text", "text")):
        source = tl.load(folder, tower=name)
        assert (source.family, source.modality, source.provenance["tower"]) == (family, modality, name)
        assert [stage.name for stage in source.definition.module.all_stages()][:2] == ["embed", "layers/0"]
        kept = {leaf.key for leaf in source.leaves.values()}
        left = {key for key, _ in source.unused}
        assert kept | left == {leaf.key for leaf in whole.leaves.values()} and not kept & left
        reasons = dict(source.unused)
        other = "text" if name == "vision" else "vision"
        assert reasons["logit_scale"] == "joins the towers"
        assert reasons[f"{other}_model.encoder.layers.0.layer_norm1.weight"] == f"of the tower '{other}'"
        assert tl.load(f"{folder}#{name}").sha256 == source.sha256 == whole.tower(name).sha256


def test_a_tower_that_is_not_there_is_refused(folder: Path, bert_folder: Path) -> None:
    with pytest.raises(TransferlabError, match=r"has no tower 'visoin'.*'vision'"):
        tl.load(folder, tower="visoin")
    with pytest.raises(TransferlabError, match=r"has no tower 'text'\. It has no towers"):
        tl.load(bert_folder, tower="text")


def image_folder(folder: Path) -> Path:
    """Red and green squares with noise."""
    rng = np.random.default_rng(0)
    for i in range(24):
        image = rng.integers(0, 80, (20, 24, 3), np.uint8)
        image[..., i % 2] += 150
        place = folder / ("red", "green")[i % 2] / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(png(image))
    return folder


@pytest.mark.parametrize("kind", CLIPS)
def test_a_vision_tower_is_probed_adapted_saved_and_opened_like_any_other(kind: str, tmp_path: Path) -> None:
    write_clip(tmp_path / "model", kind)
    source = tl.load(tmp_path / "model", tower="vision")
    data = tl.dataset(image_folder(tmp_path / "data"), test_examples=8)
    settings = tl.train.Settings(steps=4, batch_size=4)
    probe = tl.adapt(source, data, method=tl.methods.Probe(), settings=settings)
    assert probe.plan.stages[probe.plan.frontier] == "head"
    assert {leaf.action for leaf in probe.plan.leaves if not leaf.path.startswith("head/")} == {"copied"}
    reasons = {key: reason for key, reason in probe.plan.unused}
    assert reasons["text_model.final_layer_norm.weight"] == "of the tower 'text'"
    if kind == "clip":
        assert reasons["visual_projection.weight"] == "the new head pools by first"
    run = tl.adapt(source, data, method=tl.methods.LoRA(rank=2), settings=settings, directory=tmp_path / "run")
    assert run.plan.stages[run.plan.frontier] == "layers/0"
    result = run.fit()
    assert len(result.history) >= 1
    predictor = tl.open_run(tmp_path / "run")
    images = [np.full((20, 24, 3), 200, np.uint8)]
    assert predictor(images).shape == (1, 2)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["source"]["tower"] == "vision"


def test_a_text_tower_is_adapted_like_any_other(folder: Path, films) -> None:
    source = tl.load(folder, tower="text")
    settings = tl.train.Settings(steps=2, batch_size=4)
    run = tl.adapt(source, films, method=tl.methods.LoRA(rank=2), settings=settings)
    assert run.plan.head.pooling == "pooler"
    assert np.isfinite(run.fit().history[-1]["loss"])
    lengths = set(run.feed.buckets(films.train).tolist())
    assert lengths == ({20} if source.config.pooled_token == "last" else {16, 20})


def test_two_towers_are_not_adapted_as_one(folder: Path, films) -> None:
    with pytest.raises(
        TransferlabError,
        match=r"has several towers, which cannot train together yet.*; adapt one: tl\.load\('.*', tower='vision'\)",
    ):
        tl.adapt(tl.load(folder), films)


def test_a_missing_input_of_a_tower_is_named(folder: Path) -> None:
    with pytest.raises(TransferlabError, match="needs 'input_ids' for its tower 'text'"):
        tl.load(folder)({"pixel_values": np.zeros((1, 16, 16, 3), np.float32)})


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("clip", {"architectures": ["CLIPForImageClassification"]}, "architectures has CLIPForImageClassification"),
        ("clip", {"text_config": {**CLIP_TEXT, "model_type": "bert"}}, "text_config.model_type 'bert' is not supported"),
        ("clip", {"text_config": {**CLIP_TEXT, "hidden_act": "gleu"}}, "unknown hidden_act"),
        ("clip", {"text_config": {**CLIP_TEXT, "eos_token_id": [2, 3]}}, r"eos_token_id is \[2, 3\]; it must be one integer"),
        ("clip", {"vision_config": {**CLIP_VISION, "image_size": [16, 20]}}, r"image_size \[16, 20\] is not square"),
        ("siglip", {"text_config": {**CLIP_TEXT, "projection_size": 5}}, "images are embedded in 12 dimensions and texts in 5"),
    ],
)  # fmt: skip
def test_a_config_that_cannot_be_represented_is_refused(kind: str, changes: dict, message: str) -> None:
    with pytest.raises(TransferlabError, match=message):
        clip_from_hf({**CLIPS[kind], **changes})


def test_an_old_files_second_table_wins() -> None:
    raw = {**CLIPS["clip"], "text_config_dict": {"hidden_act": "gelu"}, "vision_config_dict": None}
    assert clip_from_hf(raw).text.hidden_act == "gelu"


def test_empty_tables_are_the_published_sizes() -> None:
    assert clip_from_hf({"model_type": "clip"}) == ClipConfig.b32() != clip_from_hf(CLIPS["clip"])
    assert clip_from_hf({"model_type": "siglip"}) == ClipConfig.siglip_b16()
    assert text_tower_from_hf({"model_type": "clip_text_model", "eos_token_id": 2}).pooled_token == "highest"
    without = vit_from_hf({"model_type": "siglip_vision_model", "vision_use_head": False})
    assert without == ViTConfig.siglip_b16().without_pooler() and without.pooling == "mean"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("vision_cfg.layers", [3, 4, 6, 3], "makes a ResNet"),
        ("vision_cfg.attentional_pool", True, "vision_cfg.attentional_pool True is not supported"),
        ("vision_cfg.pool_type", "none", "vision_cfg.pool_type 'none'"),
        ("text_cfg.hf_model_name", "roberta-base", "text_cfg.hf_model_name 'roberta-base' is not supported"),
        ("text_cfg.pool_type", "first", "text_cfg.pool_type 'first'"),
        ("text_cfg.norm_kwargs", {"bias": False}, "only eps"),
        ("text_cfg.act_kwargs", {"slope": 1}, "act_kwargs"),
        ("multimodal_cfg", {"width": 4}, "multimodal_cfg"),
        ("vision_cfg.timm_model_name", "vit_base_patch16_siglip_224", "timm_proj 'linear' is not supported"),
    ],
)
def test_no_field_of_open_clips_is_passed_over(field: str, value, message: str) -> None:
    model: dict = {"embed_dim": 6, "vision_cfg": {}, "text_cfg": {}}
    *inside, last = field.split(".")
    (model[inside[0]] if inside else model)[last] = value
    with pytest.raises(TransferlabError, match=message):
        clip_from_open_clip({"model_cfg": model})


def test_open_clips_published_configs_are_the_named_sizes() -> None:
    base = {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32}
    text = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}
    got = clip_from_open_clip(
        {"model_cfg": {"embed_dim": 512, "quick_gelu": True, "vision_cfg": base, "text_cfg": text}}
    )
    # On which side of the last norm `hidden` is, and how positions are resized, are matters of dialect.
    assert got.vision.norm_hidden
    same = replace(got, vision=replace(got.vision, position_rule="bicubic", norm_hidden=False))
    assert same == replace(
        ClipConfig.b32(), text=replace(TextTowerConfig.clip_base(), pooled_token="highest", eos_token_id=2)
    )
    huge = {**base, "layers": 32, "width": 1280, "head_width": 80, "patch_size": 14}
    got = clip_from_open_clip(
        {"model_cfg": {"embed_dim": 1024, "vision_cfg": huge, "text_cfg": {**text, "width": 1024}}}
    )
    assert (got.vision.num_attention_heads, got.vision.hidden_act) == (16, "gelu")


@pytest.mark.parametrize(
    ("name", "act", "eps", "pooling"),
    [
        ("vit_base_patch16_siglip_224", "gelu", 1e-6, "pooler"),
        ("vit_so400m_patch14_siglip_384", "gelu", 1e-6, "pooler"),
        ("vit_so400m_patch16_siglip_384", "gelu_pytorch_tanh", 1e-6, "pooler"),
        ("vit_large_patch16_siglip_512", "gelu_pytorch_tanh", 1e-6, "pooler"),
        ("vit_giantopt_patch16_siglip_gap_256", "gelu_pytorch_tanh", 1e-6, "mean"),
        ("vit_base_patch32_clip_quickgelu_224", "quick_gelu", 1e-5, "first"),
        ("vit_huge_patch14_clip_336", "gelu", 1e-5, "first"),
    ],
)
def test_a_timm_tower_has_its_own_constants(name: str, act: str, eps: float, pooling: str) -> None:
    config = vit_from_timm(TimmConfig(name, {}, {"input_size": [3, 224, 224]}))
    assert (config.hidden_act, config.layer_norm_eps, config.pooling) == (act, eps, pooling)
    assert config.intermediate_size == (4304 if "so400m" in name else 4 * config.hidden_size)


def test_preprocessing_of_a_bare_file_is_its_models(folder: Path) -> None:
    transform = tl.load(folder, tower="vision").transform
    clip = folder.name == "clip"
    assert (as_image(transform).size, as_image(transform).resize, as_image(transform).crop_fraction) == (
        16,
        "bicubic",
        1.0,
    )
    assert (as_image(transform).fit, round(as_image(transform).mean[0], 3)) == (
        ("crop", 0.481) if clip else ("squash", 0.5)
    )


def test_clips_pairs_without_a_begin_token_are_refused(tmp_path: Path) -> None:
    write_clip(tmp_path, "clip")
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "a</w>": 1, "<|endoftext|>": 2}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na a</w>\n")
    with pytest.raises(TransferlabError, match=r"vocab\.json has no token '<\|startoftext\|>'"):
        tl.load(tmp_path)


@pytest.mark.parametrize("form", ["hf", "orbax"])
def test_what_is_saved_opens_as_the_same_model(form: str, folder: Path, tmp_path: Path) -> None:
    whole = tl.load(folder)
    for source in (whole, whole.tower("vision"), whole.tower("text"), whole.resized(12)):
        target = tmp_path / str(len(list(tmp_path.iterdir())))
        tl.save(source, target, format=form)
        again = tl.load(target)
        assert again.config == source.config and again.leaves.keys() == source.leaves.keys()
        for path, leaf in source.leaves.items():
            np.testing.assert_array_equal(again.leaves[path].read(), leaf.read(), err_msg=path)
        assert again.image_transform == source.image_transform and again.towers.keys() == source.towers.keys()
        for name in source.towers:
            assert (again.tower(name).tokenizer is None) == (name == "vision")
        if source is whole and form == "hf":
            # What was not changed is written as it is in the file, byte for byte.
            ours, theirs = ((f / "model.safetensors").read_bytes() for f in (target, folder))
            assert sorted(ours) == sorted(theirs)


def test_a_trained_tower_is_written_with_its_classifier(folder: Path, tmp_path: Path) -> None:
    source = tl.load(folder, tower="vision")
    head = tl.models.ClassifierConfig(("cat", "dog"), pooling=source.pooling)
    arrays = {"head": {"kernel": np.ones((12, 2), np.float32), "bias": np.zeros(2, np.float32)}}
    trained = source.with_params(arrays, head=head)
    with pytest.raises(TransferlabError, match="has no classifier; write the format 'orbax'"):
        tl.save(trained, tmp_path / "a")
    tl.save(trained, tmp_path / "b", format="orbax")
    given = {"pixel_values": np.ones((1, 16, 16, 3), np.float32)}
    np.testing.assert_array_equal(tl.load(tmp_path / "b")(given)["logits"], trained(given)["logits"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"logit_bias": -10.0},
            "Hugging Face has no model of a vision tower of clip and a text tower of clip, with a bias",
        ),
        ({"text": {"causal": False}}, "siglip cannot have pooled_token 'end' and projection_bias False"),
        ({"vision": {"layer_scale": 0.1}}, r"clip cannot have layer_scale 0\.1, only None"),
    ],
)
def test_what_the_reference_cannot_hold_is_not_written(changes: dict, message: str) -> None:
    config = clip_from_hf(CLIPS["clip"])
    inner = {name: replace(getattr(config, name), **v) if isinstance(v, dict) else v for name, v in changes.items()}
    with pytest.raises(TransferlabError, match=message):
        clip_to_hf(replace(config, **inner), None)
