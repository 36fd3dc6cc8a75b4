"""GPT-2, the Llama family and Gemma against transformers' own models, on the same weights."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from support.comparison import compare
from support.typed import as_text, found, language_model_of

import transferlab as tl
from transferlab import trees
from transferlab.pretrained.writing import save

torch = pytest.importorskip("torch", reason="parity tests need the extra 'parity'")
transformers = pytest.importorskip("transformers", reason="parity tests need the extra 'parity'")

SMALL = {"vocab_size": 97, "hidden_size": 24, "intermediate_size": 34, "num_hidden_layers": 2, "num_attention_heads": 6,
         "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0}  # fmt: skip
GPT2_SMALL = {"vocab_size": 97, "n_positions": 48, "n_embd": 24, "n_layer": 2, "n_head": 3, "pad_token_id": 0,
              "eos_token_id": 5, "bos_token_id": 5}  # fmt: skip
GEMMA = {**SMALL, "num_hidden_layers": 4, "head_dim": 10, "sliding_window": 5, "query_pre_attn_scalar": 7}
MODELS = {
    "gpt2": ("GPT2", {**GPT2_SMALL}),
    "gpt2, twelve layers": ("GPT2", {**GPT2_SMALL, "n_layer": 12, "n_inner": 31, "scale_attn_by_inverse_layer_idx": True}),
    "gpt2, untied": ("GPT2", {**GPT2_SMALL, "tie_word_embeddings": False, "scale_attn_weights": False,
                              "activation_function": "relu"}),
    "llama": ("Llama", {**SMALL, "head_dim": 8, "rms_norm_eps": 1e-4}),
    "llama, tied, twelve layers": ("Llama", {**SMALL, "num_hidden_layers": 12, "tie_word_embeddings": True}),
    "llama, biases, one group": ("Llama", {**SMALL, "num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True}),
    "llama, every head alone": ("Llama", {**SMALL, "num_key_value_heads": 6}),
    "llama 3.1": ("Llama", {**SMALL, "head_dim": 16, "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32}}),
    "llama, linear": ("Llama", {**SMALL, "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}}),
    "llama, yarn": ("Llama", {**SMALL, "head_dim": 32, "rope_parameters": {
        "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}}),
    "llama, yarn, by hand": ("Llama", {**SMALL, "head_dim": 32, "rope_parameters": {
        "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 8.0,
        "beta_slow": 0.5, "mscale": 0.7, "mscale_all_dim": 1.3, "truncate": False}}),
    "mistral": ("Mistral", {**SMALL, "sliding_window": 5, "head_dim": 10}),
    "mistral, no window": ("Mistral", {**SMALL, "sliding_window": None}),
    "qwen2": ("Qwen2", {**SMALL, "tie_word_embeddings": True}),
    "qwen2, windows": ("Qwen2", {**SMALL, "num_hidden_layers": 3, "use_sliding_window": True, "sliding_window": 4,
                                 "max_window_layers": 1}),
    "qwen3": ("Qwen3", {**SMALL, "head_dim": 10}),
    "qwen3, biases, windows": ("Qwen3", {**SMALL, "head_dim": 12, "attention_bias": True, "use_sliding_window": True,
                               "sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}),
    "gemma 2": ("Gemma2", GEMMA),
    "gemma 2, twelve layers, no caps": ("Gemma2", {**GEMMA, "num_hidden_layers": 12, "attn_logit_softcapping": None,
                                        "final_logit_softcapping": None}),
    "gemma 2, tight caps": ("Gemma2", {**GEMMA, "attn_logit_softcapping": 0.7, "final_logit_softcapping": 1.5}),
    "gemma 3": ("Gemma3", {**GEMMA, "num_hidden_layers": 7, "rope_parameters": {
        "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 50.0}}}),
    "gemma 3, biases": ("Gemma3", {**GEMMA, "attention_bias": True, "final_logit_softcapping": 2.0}),
}  # fmt: skip


FAMILY = {"GPT2": "GPT-2", "Gemma2": "Gemma 2", "Gemma3": "Gemma 3"}


def near(name: str, **given):
    """``compare`` under the family's name in the parity table."""
    family = MODELS[name][0]
    return partial(compare, family=FAMILY.get(family, family), form="transformers", **given)


def made(name: str, kind: str = "lm", **changes):
    """transformers' model with random weights, biases and norms included."""
    family, given = MODELS[name]
    given = {**given, **changes}
    config = getattr(transformers, "Gemma3TextConfig" if family == "Gemma3" else f"{family}Config")(**given)
    lm = "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM"
    body = "Gemma3TextModel" if family == "Gemma3" else f"{family}Model"
    labels = {
        "lm": lm,
        "body": body,
        "classifier": f"{family}{'Text' if family == 'Gemma3' else ''}ForSequenceClassification",
    }
    config._attn_implementation = "eager"
    model = getattr(transformers, labels[kind])(config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.15 * torch.randn(p.shape, generator=generator))
    return model.eval()


def inputs(vocabulary: int = 97, seed: int = 0) -> dict[str, np.ndarray]:
    """Texts padded on either side; the padding's token is 0 and nothing else is."""
    rng = np.random.default_rng(seed)
    batch, length = 4, 21
    mask = np.ones((batch, length), np.int64)
    mask[1, 13:] = 0
    mask[2, :7] = 0
    mask[3, 1:] = 0
    return {"input_ids": rng.integers(1, vocabulary, (batch, length)) * mask, "attention_mask": mask}


def reference(model, given):
    with torch.no_grad():
        return model(**{name: torch.tensor(value) for name, value in given.items()}, output_hidden_states=True)


@pytest.mark.parametrize("name", MODELS)
def test_hidden_states_and_logits_equal_transformers(name: str, tmp_path: Path) -> None:
    model = made(name)
    model.save_pretrained(tmp_path)
    source, given = tl.load(tmp_path), inputs()
    want, got = reference(model, given), source(given)
    seen = given["attention_mask"].astype(bool)
    near(name)(np.asarray(got["hidden"])[seen], want.hidden_states[-1][seen], what="hidden")
    near(name)(np.asarray(got["logits"])[seen], want.logits[seen])


V4 = {
    "llama 3.1": {"rope_theta": 500.0, "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32}},
    "llama, linear": {"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 3.0}},
    "llama, yarn": {"rope_theta": 10000.0, "rope_scaling": {
        "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}},
    "qwen2, windows": {"rope_theta": 10000.0, "layer_types": None},
    "gemma 2": {"rope_theta": 10000.0, "layer_types": None, "hidden_act": "gelu"},
    "gemma 3": {"rope_theta": 1e6, "rope_local_base_freq": 50.0, "sliding_window_pattern": 6, "layer_types": None,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
}  # fmt: skip


@pytest.mark.parametrize("name", V4)
def test_a_config_as_transformers_4_wrote_it_means_the_same_model(name: str, tmp_path: Path) -> None:
    made(name).save_pretrained(tmp_path)
    want = tl.load(tmp_path).config
    path = tmp_path / "config.json"
    raw = json.loads(path.read_text())
    assert "rope_parameters" in raw
    del raw["rope_parameters"]
    path.write_text(json.dumps({k: v for k, v in {**raw, **V4[name]}.items() if v is not None}))
    assert tl.load(tmp_path).config == want


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("llama 3.1", {"rope_scaling": YARN}),
        ("qwen3", {"rope_scaling": {"type": "linear", "factor": 3.0}, "rope_theta": 700.0}),
        ("gemma 2", {"rope_scaling": {}, "rope_theta": 700.0}),
        ("gemma 3", {"rope_scaling": YARN, "rope_theta": 700.0}),
    ],
)
def test_two_descriptions_of_the_rotary_positions_are_resolved_as_in_transformers(
    name: str, changes: dict, tmp_path: Path
) -> None:
    model = made(name)
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    raw = json.loads(path.read_text())
    assert "rope_parameters" in raw
    path.write_text(json.dumps({**raw, **changes}))
    theirs = type(model).from_pretrained(tmp_path, attn_implementation="eager").eval()
    given = inputs()
    seen = given["attention_mask"].astype(bool)
    near(name)(np.asarray(tl.load(tmp_path)(given)["logits"])[seen], reference(theirs, given).logits[seen])


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3", "gemma 3"])
def test_a_classifier_of_transformers_sees_the_same_token(name: str, tmp_path: Path) -> None:
    labels = {"id2label": {0: "bad", 1: "fair", 2: "good"}, "label2id": {"bad": 0, "fair": 1, "good": 2}}
    model = made(name, "classifier", **labels)
    model.save_pretrained(tmp_path)
    source, given = tl.load(tmp_path), inputs()
    near(name)(source(given)["logits"], reference(model, given).logits)
    assert source.labels == ("bad", "fair", "good") and found(source.head).pooling == "last"


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("llama", "ForQuestionAnswering"),
        ("mistral", "ForQuestionAnswering"),
        ("gpt2, untied", "ForQuestionAnswering"),
        ("gpt2", "DoubleHeadsModel"),
    ],
)
def test_the_decoder_of_a_transformers_model_for_another_task_is_read(name: str, task: str, tmp_path: Path) -> None:
    body, family = made(name, "body"), MODELS[name][0]
    model = getattr(transformers, f"{family}{task}")(body.config)
    getattr(model, "transformer" if hasattr(model, "transformer") else "model").load_state_dict(body.state_dict())
    model.save_pretrained(tmp_path)
    source, given = tl.load(tmp_path), inputs()
    assert source.unused and all("another task" in why for _, why in source.unused)
    seen = given["attention_mask"].astype(bool)
    want = reference(body, given).last_hidden_state[seen]
    near(name)(np.asarray(source(given)["hidden"])[seen], want, what="hidden")


@pytest.mark.parametrize("name", ["gpt2, untied", "llama", "gemma 2"])
def test_a_bare_decoder_in_shards_loads_alike_and_gets_no_head(name: str, tmp_path: Path) -> None:
    model = made(name, "body")
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    source, given = tl.load(tmp_path), inputs()
    given["position_ids"] = np.random.default_rng(1).permuted(np.tile(np.arange(21), (4, 1)), axis=1)
    if name == "gemma 2":  # whose windows count tokens there and positions here
        given["position_ids"] = np.tile(np.arange(3, 24), (4, 1))
    got, want = source(given), reference(model, given).last_hidden_state
    seen = given["attention_mask"].astype(bool)
    near(name, floor=0.0)(np.asarray(got["hidden"])[seen], want[seen], what="hidden")
    assert ("logits" in got) == (name == "gemma 2")  # its config says that the table is the head


def test_a_head_in_the_file_that_differs_is_not_taken_for_a_tied_one(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    model = made("llama, tied, twelve layers")
    model.save_pretrained(tmp_path)
    file, given = tmp_path / "model.safetensors", inputs()
    tensors = load_file(file)
    assert "lm_head.weight" not in tensors and language_model_of(tl.load(tmp_path)).tied
    table = tensors["model.embed_tokens.weight"]
    save_file({**tensors, "lm_head.weight": table.copy()}, file)
    source = tl.load(tmp_path)
    assert language_model_of(source).tied and dict(source.unused)["lm_head.weight"].startswith(
        "equal to the embedding table"
    )
    save_file({**tensors, "lm_head.weight": table[::-1].copy()}, file)
    source, other = tl.load(tmp_path), transformers.LlamaForCausalLM.from_pretrained(tmp_path)
    seen = given["attention_mask"].astype(bool)
    want = reference(other, given).logits[seen]
    near("llama, tied, twelve layers", floor=0.0)(np.asarray(source(given)["logits"])[seen], want)
    assert not language_model_of(source).tied


WRITTEN = ["gpt2, twelve layers", "gpt2, untied", "llama, biases, one group", "llama 3.1", "llama, yarn, by hand", "mistral",
           "qwen2, windows", "qwen3", "gemma 2", "gemma 3"]  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("kind", ["lm", "classifier"])
def test_what_is_written_here_is_the_same_model_to_transformers(name: str, kind: str, tmp_path: Path) -> None:
    """Weights that came without a config.json, so that config, keys and prefixes are all written from here."""
    model = made(name, kind, num_labels=3)
    model.save_pretrained(tmp_path / "reference")
    source = tl.load(tmp_path / "reference")
    save(replace(source, raw=None), tmp_path / "out")
    auto = transformers.AutoModelForCausalLM if kind == "lm" else transformers.AutoModelForSequenceClassification
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out", attn_implementation="eager", pad_token_id=0)
    other, report = auto.from_pretrained(tmp_path / "out", config=config, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and type(other) is type(model)
    given = inputs()
    want, got = reference(model, given).logits, reference(other.eval(), given).logits
    near(name)(got, want, way="written", tolerance=1e-6, floor=0.0)


@pytest.mark.parametrize("name", ["gpt2", "qwen3", "gemma 2, tight caps"])
def test_gradients_of_the_logits_equal_those_of_transformers(name: str, tmp_path: Path) -> None:
    import jax
    import jax.numpy as jnp

    model = made(name)
    model.save_pretrained(tmp_path)
    source, given = tl.load(tmp_path), inputs()
    seen = given["attention_mask"].astype(bool)
    model(**{k: torch.tensor(v) for k, v in given.items()}).logits[torch.tensor(seen)].square().mean().backward()

    @jax.jit
    def loss(params):
        out = source.definition.merge(params)({k: jnp.asarray(v) for k, v in given.items()})
        return (jnp.square(out["logits"]).mean(-1) * seen).sum() / seen.sum()

    grads = trees.flatten(jax.grad(loss)(source.arrays[0]))
    theirs = dict(model.named_parameters())
    for path, leaf in source.leaves.items():
        want = leaf.layout.to_tree(theirs[leaf.key].grad.numpy())
        got = np.asarray(grads[path])
        if path == "embed/word/embedding":
            want, got = want[1:], got[1:]  # torch's padding_idx keeps row 0 from training
        near(name)(got, want, what="gradients", tolerance=1e-4, floor=1e-3, where=path)


@pytest.mark.parametrize(
    "name", ["gpt2", "llama, tied, twelve layers", "qwen2, windows", "gemma 3", "gemma 2, tight caps"]
)
def test_a_greedy_text_equals_that_of_transformers(name: str, tmp_path: Path) -> None:
    model = made(name)
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, None
    model.save_pretrained(tmp_path)
    source, given = tl.load(tmp_path), inputs(seed=1)
    given["input_ids"][1], given["attention_mask"][1] = (
        np.roll(given["input_ids"][1], 8),
        np.roll(given["attention_mask"][1], 8),
    )
    given["input_ids"][3], given["attention_mask"][3] = (
        np.roll(given["input_ids"][3], 20),
        np.roll(given["attention_mask"][3], 20),
    )
    want = model.generate(**{k: torch.tensor(v) for k, v in given.items()}, max_new_tokens=12, do_sample=False)
    got = tl.generate(source, given, max_new_tokens=12, stop=())
    np.testing.assert_array_equal(np.array(got.tokens), want[:, 21:].numpy())
    assert len(set(got.tokens)) > 1


GGUF = {
    "llama": ("llama", "Llama", {**SMALL, "head_dim": 4, "rope_parameters": {"rope_theta": 500.0}}),
    "llama, tied": ("llama", "Llama", {**SMALL, "head_dim": 4, "tie_word_embeddings": True}),
    "qwen2": ("qwen2", "Qwen2", SMALL),
}


@pytest.mark.parametrize("name", GGUF)
def test_a_gguf_file_is_the_same_model_to_transformers(name: str, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="parity tests need the extra 'parity'")
    kind, family, given = GGUF[name]
    config = getattr(transformers, f"{family}Config")(**given)
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", kind)
    writer.add_context_length(64)
    writer.add_embedding_length(24)
    writer.add_block_count(2)
    writer.add_feed_forward_length(34)
    writer.add_head_count(6)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(97)
    rng, tensors = np.random.default_rng(0), {"token_embd": (97, 24), "output_norm": (24,)}
    if not given.get("tie_word_embeddings"):
        tensors["output"] = (97, 24)
    for i in range(2):
        parts = {"attn_q": (24, 24), "attn_k": (8, 24), "attn_v": (8, 24), "attn_output": (24, 24), "attn_norm": (24,),
                 "ffn_norm": (24,), "ffn_gate": (34, 24), "ffn_up": (34, 24), "ffn_down": (24, 34)}  # fmt: skip
        tensors |= {f"blk.{i}.{part}": shape for part, shape in parts.items()}
    for key, shape in tensors.items():
        writer.add_tensor(f"{key}.weight", rng.normal(0, 0.3, shape).astype(np.float32))
        if kind == "qwen2" and key[-6:] in ("attn_q", "attn_k", "attn_v"):
            writer.add_tensor(f"{key}.bias", rng.normal(0, 0.3, shape[0]).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = getattr(transformers, f"{family}ForCausalLM").from_pretrained(tmp_path, gguf_file="x.gguf").eval()
    given = inputs()
    seen = given["attention_mask"].astype(bool)
    want = reference(model, given)
    got = tl.load(tmp_path / "x.gguf")(given)
    gguf_near = partial(compare, family=family, form="GGUF", floor=0.0)
    gguf_near(np.asarray(got["hidden"])[seen], want.hidden_states[-1][seen], what="hidden")
    gguf_near(np.asarray(got["logits"])[seen], want.logits[seen])
    tl.save(tl.load(tmp_path / "x.gguf"), tmp_path / "ours", format="hf")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    gguf_near(reference(again, given).logits[seen], np.asarray(got["logits"])[seen], way="written")


@pytest.mark.network
def test_smollm2_reads_and_writes_text_as_transformers_does() -> None:
    pytest.importorskip("gguf", reason="parity tests need the extra 'parity'")
    source = tl.load("smollm2-135m")
    file = Path(source.provenance["path"])
    model = transformers.AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    ).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    texts = [
        "", "The quick brown fox jumps over 1234 lazy dogs.", "def f(x):\n    return x ** 2  # naïve\n\n\n",
        "  two  spaces\tand\r\ntabs ", "漢字 💚👩‍👩‍👧 ẞ", "<|im_start|>user\nHello<|im_end|>\n", "it's we'll I'D 3.14e-10",
    ]  # fmt: skip
    assert [list(one.ids) for one in as_text(source.transform).encode(texts)] == tokenizer(texts)["input_ids"]
    prose = (
        "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, "
        "it was the epoch of belief, it was the epoch of incredulity, it was the season of Light."
    )
    ids = np.array([as_text(source.transform)(prose).ids])
    theirs, ours = reference(model, {"input_ids": ids}), source({"input_ids": ids})
    names = {"family": "SmolLM2 (published weights)", "form": "GGUF", "tolerance": 1e-4, "floor": 0.0}
    compare(ours["hidden"], theirs.hidden_states[-1], what="hidden", **names)
    want, got = theirs.logits.numpy(), np.asarray(ours["logits"])
    compare(got, want, **names)

    def perplexity(logits: np.ndarray) -> float:
        logp = torch.log_softmax(torch.tensor(logits[0, :-1]), -1)
        return float(torch.exp(-logp[range(ids.shape[1] - 1), ids[0, 1:]].mean()))

    assert abs(perplexity(got) / perplexity(want) - 1) < 1e-4 and perplexity(got) < 20
    prompt = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    given = tokenizer(prompt, return_tensors="pt")
    theirs = model.generate(**given, max_new_tokens=24, do_sample=False)[0, given["input_ids"].shape[1] :]
    ours = tl.generate(source, [prompt, "Once upon a time"], max_new_tokens=24)
    assert ours.tokens[0] == tuple(theirs.tolist()) and ours.stopped[0] and "Paris" in ours.texts[0]
