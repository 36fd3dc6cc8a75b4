"""What installed packages add by entry points."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pytest

from transferlab import plugins, tasks
from transferlab.data.readers import readers
from transferlab.errors import TransferlabError
from transferlab.measure.named import metrics_by_kind

MODULE = """
from dataclasses import dataclass
from typing import ClassVar
from transferlab.data.readers.base import Reader
from transferlab.measure import metric
from transferlab.tasks import Regression

@dataclass(frozen=True)
class Ordinal(Regression):
    name: ClassVar[str] = "ordinal"

@metric("numbers", "here", larger=False)
def worst(predicted, true, names):
    '''The largest error.'''
    return abs(predicted - true).max()

class Nothing(Reader):
    name = "nothing"
    last = True
    def recognises(self, source):
        return False
"""


@pytest.fixture
def installed(tmp_path, monkeypatch, registries):
    """A package that adds a task, a metric and a reader; afterwards it is gone."""
    (tmp_path / "added_by_test.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [EntryPoint("mine", "added_by_test", group)])
    finders = (metrics_by_kind, readers)
    for finder in finders:
        finder.cache_clear()
    yield
    for finder in finders:
        finder.cache_clear()


def test_an_installed_package_adds_tasks_metrics_and_readers(installed) -> None:
    kind = tasks.tasks()["ordinal"]
    face: Any = tasks
    assert face.Ordinal is kind and tasks.task_from({"name": "ordinal", "metric": "worst"}).metric == "worst"
    worst = metrics_by_kind()["numbers"]["worst"]
    assert not worst.larger and worst(np.array([[1.0], [5.0]]), np.array([[2.0], [2.0]])) == 3.0
    assert "nothing" in [reader.name for reader in readers()]


def test_an_entry_point_that_cannot_be_loaded_is_named(monkeypatch) -> None:
    monkeypatch.setattr(plugins, "entry_points", lambda group: [EntryPoint("mine", "no_such_module_at_all", group)])
    with pytest.raises(
        TransferlabError, match=r"The entry point 'mine' of a package .* cannot be loaded .*ModuleNotFoundError"
    ):
        list(plugins.members("transferlab.tasks"))


def test_a_name_that_is_no_task_is_no_attribute() -> None:
    face: Any = tasks
    with pytest.raises(AttributeError, match="has no attribute 'Regresion'"):
        _ = face.Regresion
