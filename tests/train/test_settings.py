"""Settings: a field by its former name is the same setting, and says its new one."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from transferlab.config import parse_config
from transferlab.errors import TransferlabError
from transferlab.files import write_json
from transferlab.train import Settings
from transferlab.train.result import read_record


def test_a_setting_under_its_former_name_is_read_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(together="always")  # pyright: ignore[reportCallIssue]
    assert settings == Settings(vectorize="always")
    assert caplog.messages == ["Settings.together is called 'vectorize' now."]
    assert "together" not in asdict(replace(settings, epochs=2))
    with pytest.raises(TransferlabError, match="both are given; leave out 'together'"):
        Settings(together="always", vectorize="never")  # pyright: ignore[reportCallIssue]


def test_a_config_with_former_names_is_read_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    arms = {"probe": {"train": {"together": "never"}, "tune": [{"together": "always"}]}, "scratch": {}}
    config = parse_config(
        {"name": "x", "source": "minilm-l6", "data": "tweets", "budgets": [8], "seeds": [0], "methods": arms,
         "train": {"together": "always"}}
    )  # fmt: skip
    assert config.methods["probe"].train.vectorize == "never"
    assert config.methods["scratch"].train.vectorize == "always"
    assert config.methods["probe"].tune == ({"vectorize": "always"},)
    assert "config.methods.probe.train.together is called 'vectorize' now." in caplog.messages


def test_a_record_of_an_earlier_version_is_read(tmp_path) -> None:
    write_json(tmp_path / "result.json", {"test": {"accuracy": 0.5}, "together": 2, "squeezed": "in parts"})
    record = read_record(tmp_path / "result.json")
    assert (record["population_size"], record["memory_note"]) == (2, "in parts")
