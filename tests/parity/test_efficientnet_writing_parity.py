"""EfficientNets out of a bare weight file, written for timm and loaded by it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.comparison import compare
from support.optional_imports import import_timm
from support.typed import as_image
from test_resnet_parity import channels_first, moved, pixels

import transferlab as tl
from transferlab.errors import TransferlabError
from transferlab.models import EfficientNetConfig

torch = pytest.importorskip("torch", reason="parity tests need the extra 'parity'")

SIZES = {
    "tf_efficientnet_lite0": EfficientNetConfig.lite0(),
    "efficientnet_b0": replace(EfficientNetConfig.b0(), padding="symmetric", eps=1e-5),
}


@pytest.mark.parametrize("name", SIZES)
def test_timm_has_the_same_outputs_from_a_bare_file_written_for_it(name: str, tmp_path: Path) -> None:
    timm = import_timm()
    made = moved(timm.create_model(name, num_classes=3))
    torch.save(made.state_dict(), tmp_path / "weights.pth")
    source = tl.load(tmp_path / "weights.pth", config=SIZES[name])
    assert source.raw is None
    tl.save(source, tmp_path / "out")
    again = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    given = pixels(64, 64)
    with torch.no_grad():
        want, got = made(channels_first(given)), again(channels_first(given))
    family = "EfficientNet-Lite" if "lite" in name else "EfficientNet"
    compare(got, want, family=family, form="timm", way="written", tolerance=1e-6)
    compare(
        tl.load(tmp_path / "out")({"pixel_values": given})["logits"], want, family=family, form="timm", tolerance=1e-4
    )
    settings = timm.data.resolve_model_data_config(again)
    transform = source.transform
    assert tuple(settings["input_size"]) == (3, as_image(transform).size, as_image(transform).size)
    assert (
        settings["crop_pct"] == as_image(transform).crop_fraction
        and settings["interpolation"] == as_image(transform).resize
    )
    np.testing.assert_allclose(settings["mean"], as_image(transform).mean)


def test_an_efficientnet_that_timm_lacks_is_not_written_for_it(tmp_path: Path) -> None:
    timm = import_timm()
    torch.save(timm.create_model("efficientnet_b0", num_classes=3).state_dict(), tmp_path / "weights.pth")
    source = tl.load(tmp_path / "weights.pth", config=replace(SIZES["efficientnet_b0"], eps=1e-4))
    with pytest.raises(TransferlabError, match=r"padding 'symmetric' has eps 1e-05, not 0\.0001"):
        tl.save(source, tmp_path / "out", format="timm")
    assert not (tmp_path / "out").exists()


@pytest.mark.network
def test_published_weights_have_the_same_outputs_in_timm(tmp_path: Path) -> None:
    timm = import_timm()
    source = tl.load("efficientnet-lite0")
    tl.save(source, tmp_path / "out", format="timm")
    again = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    given = pixels(224, 224)
    with torch.no_grad():
        got = again(channels_first(given))
    family = "EfficientNet-Lite (published weights)"
    want = source({"pixel_values": given})["logits"]
    compare(got, want, family=family, form="timm", way="written", tolerance=1e-5)
