"""GPT-2, the Llama family and Gemma against the origin, transformers' own models, on the same weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import transferlab as tl

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


def made(name: str, kind: str = "lm", **changes):
    """The origin's model with random weights: biases and norms away from 0 and 1 too."""
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


def origin(model, given):
    with torch.no_grad():
        return model(**{name: torch.tensor(value) for name, value in given.items()}, output_hidden_states=True)


@pytest.mark.parametrize("name", MODELS)
def test_hidden_states_and_logits_equal_the_origin(name: str, tmp_path: Path) -> None:
    model = made(name)
    model.save_pretrained(tmp_path)
    source, given = tl.load(tmp_path), inputs()
    want, got = origin(model, given), source(given)
    seen = given["attention_mask"].astype(bool)
    for ours, theirs in ((got["hidden"], want.hidden_states[-1]), (got["logits"], want.logits)):
        theirs = theirs.numpy()[seen]
        np.testing.assert_allclose(np.asarray(ours)[seen], theirs, atol=2e-5 * max(1, np.abs(theirs).max()), rtol=0)
