"""A family of your own: here a text is the mean of its words' vectors. Directories say "model_type": "averaging" in config.json.

python examples/own_family.py averaging reviews.csv runs/mean
transferlab predict runs/mean "What a wonderful day" --code examples/own_family.py
"""

import sys
from dataclasses import dataclass
from typing import Any

import transferlab as tl
from transferlab.models.bert import masked_mean
from transferlab.models.heads import build_head
from transferlab.models.layers import Embedding
from transferlab.pretrained.names import NameTable
from transferlab.pretrained.rules import leaves_of, named


class Averaging(tl.models.Model):
    sequence_entries = ("hidden", "mask")

    def __init__(self, config: Any, head: Any):
        self.config, self.embed = config, Embedding(config.vocab_size, config.hidden_size)
        self.head = build_head(head, config.hidden_size)

    def look_up(self, carry: dict[str, Any], key: Any) -> dict[str, Any]:
        ids = carry["input_ids"]
        return {"hidden": self.embed(ids), "mask": carry.get("attention_mask", ids >= 0).astype(bool)}

    def backbone_stages(self) -> tuple[tl.models.Stage, ...]:
        return (tl.models.Stage("embed", self.look_up, owns=("embed",)),)

    def pool_hidden(self, carry: dict[str, Any]) -> Any:
        return masked_mean(carry["hidden"], carry["mask"])


@dataclass(frozen=True)
class AveragingConfig:
    vocab_size: int
    hidden_size: int

    def build(self, head: Any = None) -> Averaging:
        return Averaging(self, head)


AVERAGING = tl.pretrained.Family(
    name="averaging", config=AveragingConfig, modality="text", inputs=("input_ids", "attention_mask"),
    model_types=("averaging",), from_hf=lambda raw: AveragingConfig(raw["vocab_size"], raw["hidden_size"]),
    names=lambda config: (NameTable(named("table embed vectors", leaves_of(config))),), vocabulary="embed/embedding",
)  # fmt: skip


def main(directory: str, table: str, run_directory: str = "runs/own_family") -> None:
    run = tl.adapt(tl.load(directory, family=AVERAGING), tl.dataset(table), directory=run_directory)
    print(f"{run.plan}\naccuracy on held-out texts: {run.fit().test['accuracy']:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
