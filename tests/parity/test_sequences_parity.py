"""Text to text against transformers' T5: the loss of a batch, what is written, and what goes back, adapters included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import WORDS, write_t5
from support.typed import found

import transferlab as tl
from transferlab.data.columns import Texts
from transferlab.data.dataset import Dataset
from transferlab.train import Settings

transformers = pytest.importorskip("transformers", reason="parity tests need the extra 'parity'")
torch = pytest.importorskip("torch")


def answers(count: int) -> Dataset:
    rng = np.random.default_rng(0)
    texts, targets = ([" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(count)] for _ in range(2))
    records = [{"id": f"row {i}", "text": texts[i], "target_text": targets[i]} for i in range(count)]
    ids, order = tuple(record["id"] for record in records), np.arange(count)
    target = Texts(("answer",), np.array(targets, object))
    return Dataset("answers", "text", target, records, ids, order[4:], order[:0], order[:4], "answers")


@pytest.mark.parametrize(
    "changes", [{}, {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}], ids=["1.0", "1.1"]
)
def test_the_loss_of_a_batch_and_what_is_written_are_those_of_t5(changes: dict, tmp_path: Path) -> None:
    source, data = tl.load(write_t5(tmp_path / "t5", **changes)), answers(12)
    settings = Settings(learning_rate=1e-2, steps=2, batch_size=6, log_every=1)
    run = tl.adapt(source, data, settings=settings, task=tl.tasks.SequenceToSequence(longest_target=12))
    result = run.fit()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "t5")

    def batch_of(indices: np.ndarray) -> dict:
        records = [data.records[int(i)] for i in indices]
        inputs = tokenizer([record["text"] for record in records], padding=True, return_tensors="pt")
        labels = tokenizer([record["target_text"] for record in records], padding=True, return_tensors="pt")
        ids = labels["input_ids"].masked_fill(labels["attention_mask"] == 0, -100)
        return {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], "labels": ids}

    model = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "t5").train()
    loss = model(**batch_of(run.order[0].indices)).loss
    loss.backward()
    norm = torch.sqrt(sum((p.grad**2).sum() for p in model.parameters() if p.grad is not None))
    assert result.history[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert result.history[0]["gradient_norm"] == pytest.approx(norm.item(), rel=1e-4)

    tl.save(found(result.source), tmp_path / "trained")
    trained = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "trained").eval()
    batch = batch_of(data.test)
    with torch.no_grad():
        assert result.test["cross_entropy"] == pytest.approx(trained(**batch).loss.item(), rel=1e-5)
        ids = trained.generate(
            batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=12, do_sample=False
        )
    assert tokenizer.batch_decode(ids, skip_special_tokens=True) == result.predictions["text"].tolist()


def test_an_adapter_of_a_trained_t5_is_one_of_pefts(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    source, data = tl.load(write_t5(tmp_path / "t5")), answers(12)
    settings = Settings(learning_rate=1e-2, steps=4, batch_size=6, log_every=1)
    result = tl.adapt(source, data, method=tl.methods.LoRA(rank=2), settings=settings).fit()
    found(result.adapted).save_adapter(tmp_path / "adapter")
    base = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "t5")
    model = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    assert model.peft_config["default"].task_type == "SEQ_2_SEQ_LM"
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "t5")
    records = [data.records[int(i)] for i in data.test]
    inputs = tokenizer([record["text"] for record in records], padding=True, return_tensors="pt")
    labels = tokenizer([record["target_text"] for record in records], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"],
            labels=labels["input_ids"].masked_fill(labels["attention_mask"] == 0, -100),
        ).logits.log_softmax(-1)  # fmt: skip
    each = logits.gather(2, labels["input_ids"][..., None])[..., 0] * labels["attention_mask"]
    np.testing.assert_allclose(result.predictions["log_likelihood"], each.sum(1).numpy(), rtol=1e-4)
