"""Trees: what a user would lose if a path were mixed up."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.models import BertConfig, ClassifierConfig

CONFIG = BertConfig(vocab_size=30, hidden_size=8, num_hidden_layers=12, num_attention_heads=2, intermediate_size=8,
                    max_position_embeddings=16)  # fmt: skip


def marked(definition: trees.Definition) -> trees.Tree:
    """Every leaf of layer i is filled with i."""
    out = {}
    for path, leaf in trees.walk(definition.params):
        parts = path.split("/")
        out[path] = jnp.full(leaf.shape, float(parts[1]) if parts[0] == "layers" else -1.0)
    return trees.unflatten(out)


def layer_marks(module) -> list[float]:
    return [float(layer.mlp.up.kernel[...][0, 0]) for layer in module.layers]


def test_twelve_layers_keep_their_order_through_string_keys() -> None:
    definition = trees.define(CONFIG.build())
    params = trees.unflatten(dict(sorted(trees.flatten(marked(definition)).items())))
    assert layer_marks(definition.merge(params)) == list(range(12))


def test_twelve_layers_keep_their_order_through_orbax(tmp_path) -> None:
    definition = trees.define(CONFIG.build())
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "c", marked(definition))
        checkpointer.wait_until_finished()
        assert layer_marks(definition.merge(checkpointer.restore(tmp_path / "c"))) == list(range(12))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: p["layers"]["3"].pop("mlp"), r"'layers/3/mlp/\S+' .* is missing"),
        (lambda p: p["embed"].update(wrod=p["embed"].pop("word")), r"'embed/wrod/embedding' is not in this module. Did you mean 'embed/word/embedding'"),
        (lambda p: p["embed"]["word"].update(embedding=jnp.zeros((29, 8))), r"'embed/word/embedding' is \(29, 8\) .*expected \(30, 8\)"),
        (lambda p: p["embed"]["word"].update(embedding=jnp.zeros((30, 8), jnp.bfloat16)), r"bfloat16; expected \(30, 8\) float32"),
    ],
)  # fmt: skip
def test_merge_refuses_leaves_that_do_not_fit_and_names_them(change, said: str) -> None:
    definition = trees.define(CONFIG.build())
    params = marked(definition)
    change(params)
    with pytest.raises(TransferlabError, match=said):
        definition.merge(params)


def test_two_modules_of_one_config_have_equal_definitions() -> None:
    first, second = (trees.define(CONFIG.build(ClassifierConfig(("a", "b")))) for _ in range(2))
    assert first == second and hash(first) == hash(second)
    assert first != trees.define(CONFIG.build(ClassifierConfig(("a", "b", "c"))))


def test_constructing_and_defining_a_large_model_allocates_nothing() -> None:
    before = sum(x.nbytes for x in jax.live_arrays())
    definition = trees.define(BertConfig.large().build())
    assert sum(x.nbytes for x in jax.live_arrays()) == before
    assert trees.count(definition.params) == 335_141_888


def test_adding_a_leaf_changes_no_other_leafs_first_value() -> None:
    small = replace(CONFIG, num_hidden_layers=1)
    plain, more = trees.define(small.build()), trees.define(small.build(ClassifierConfig(("a", "b"))))
    key = jax.random.key(5)
    first = plain.initialise(trees.flatten(plain.params), key)
    second = more.initialise(trees.flatten(more.params), key)
    assert set(second) - set(first) == {"head/kernel", "head/bias"}
    for path, value in first.items():
        np.testing.assert_array_equal(value, second[path])


def test_the_hash_of_a_tree_depends_on_paths_dtypes_shapes_and_bytes() -> None:
    base = {"a": np.arange(6, dtype=np.float32), "b": {"c": np.ones(2)}}
    other = [
        {"a2": base["a"], "b": base["b"]},
        {"a": base["a"].astype(np.float64), "b": base["b"]},
        {"a": base["a"].reshape(2, 3), "b": base["b"]},
        {"a": base["a"] + np.eye(1, 6, dtype=np.float32)[0], "b": base["b"]},
    ]
    hashes = [trees.sha256(tree) for tree in (base, *other)]
    assert len(set(hashes)) == 5
    assert trees.sha256({"b": base["b"], "a": base["a"]}) == hashes[0]


def test_joining_trees_that_share_a_leaf_is_an_error() -> None:
    with pytest.raises(TransferlabError, match="'a/b'"):
        trees.join({"a": {"b": 1}}, {"a": {"b": 2}})
    with pytest.raises(TransferlabError, match="Did you mean 'a/b'"):
        trees.split_by({"a": {"b": 1}}, ["a/bb"])


def test_models_work_without_graph_mode_in_nnx() -> None:
    """Flax is moving to trees without sharing; ties are calls, so nothing here is shared."""
    code = (
        "import jax, jax.numpy as jnp\nfrom transferlab import trees\nfrom transferlab.models import BertConfig\n"
        "d = trees.define(BertConfig(vocab_size=9, hidden_size=4, num_hidden_layers=2, num_attention_heads=2,"
        " intermediate_size=4, max_position_embeddings=8).build())\n"
        "p = trees.unflatten(d.initialise(trees.flatten(d.params), jax.random.key(0)))\n"
        "print(jax.jit(lambda p, x: d.merge(p)({'input_ids': x}))(p, jnp.ones((1, 3), jnp.int32))['hidden'].shape)\n"
    )
    env = {**os.environ, "NNX_GRAPH_MODE": "false", "NNX_GRAPH_UPDATES": "false"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(1, 3, 4)", done.stderr[-800:]


def test_twelve_stacked_layers_come_back_in_order() -> None:
    rng = np.random.default_rng(0)
    layers = {
        str(i): {"kernel": np.full((2, 3), i, np.float32), "norm": {"scale": rng.normal(size=3)}} for i in range(12)
    }
    tree = {"embed": np.arange(4), "encoder": {"layers": {k: layers[k] for k in sorted(layers)}, "final": np.ones(2)}}
    stacked = trees.stack_layers(tree, "encoder/layers")
    assert trees.flatten(stacked).keys() == {
        "embed", "encoder/layers/kernel", "encoder/layers/norm/scale", "encoder/final",
    }  # fmt: skip
    np.testing.assert_array_equal(stacked["encoder"]["layers"]["kernel"][:, 0, 0], np.arange(12))
    again = trees.flatten(trees.unstack_layers(stacked, "encoder/layers"))
    want = trees.flatten(tree)
    assert again.keys() == want.keys()
    for path, leaf in want.items():
        assert again[path].dtype == leaf.dtype
        np.testing.assert_array_equal(again[path], leaf, err_msg=path)


def test_layers_that_differ_are_not_stacked() -> None:
    layer = {"a": np.zeros(2, np.float32)}
    with pytest.raises(TransferlabError, match=r"'layers/0' has no 'bias', which 'layers/1' has"):
        trees.stack_layers({"layers": {"0": layer, "1": {**layer, "bias": np.zeros(1)}}}, "layers")
    with pytest.raises(TransferlabError, match=r"'layers/1' has no 'a', which 'layers/0' has"):
        trees.stack_layers({"layers": {"0": layer, "2": layer}}, "layers")
    with pytest.raises(TransferlabError, match=r"'a' is \(2,\) float32 in 'layers/0' and \(3,\) float32 in 'layers/1'"):
        trees.stack_layers({"layers": {"0": layer, "1": {"a": np.zeros(3, np.float32)}}}, "layers")
    with pytest.raises(TransferlabError, match="no layers 'blocks/0'"):
        trees.stack_layers({"layers": {"0": layer}}, "blocks")
    with pytest.raises(TransferlabError, match="do not share a first axis"):
        trees.unstack_layers({"layers": {"a": np.zeros((2, 1)), "b": np.zeros((3, 1))}}, "layers")
    with pytest.raises(TransferlabError, match=r"no folder 'layer' to unstack.*layers"):
        trees.unstack_layers({"layers": layer}, "layer")
