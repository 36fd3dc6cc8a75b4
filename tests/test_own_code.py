"""Own methods, tasks and families: in configs and commands, in what a run records, and in runs that somebody else opens."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from click.testing import CliRunner
from flax import nnx
from support.checkpoints import write_averaging

import transferlab as tl
from transferlab import plugins
from transferlab.cli.main import cli
from transferlab.config import parse_config, read_config
from transferlab.errors import TransferlabError
from transferlab.methods import METHODS, MODIFIERS, Full, LoRA, Method, Modifier, Probe
from transferlab.pretrained.families import FAMILIES, family_of
from transferlab.studies.directory import recorded_config
from transferlab.studies.study import Study
from transferlab.tasks import TASKS, Classification
from transferlab.train import Settings
from transferlab.train.own_code import add_code, warn_of_changes

EXAMPLES = Path(__file__).parents[1] / "examples"
QUICK = Settings(max_steps=2, batch_size=8)

METHODS_FILE = """
from dataclasses import dataclass
from typing import ClassVar
import transferlab as tl
from transferlab.methods import Method, Probe
from helper import SCALE

@dataclass(frozen=True)
class Tops(Method):
    scales: tuple[float, ...] = (SCALE,)
    name: ClassVar[str] = "tops"
    summary: ClassVar[str] = "the head alone"
    defaults: ClassVar[dict] = {"max_steps": 2}

    def groups(self, stages):
        return (tl.Group("head", lr_scale=self.scales[0]),)

@dataclass(frozen=True)
class Edits(Probe):
    name: ClassVar[str] = "edits"

    def edit(self, module):
        assert module.head is not None
"""
CONFIG = """
from my_methods import Edits, Tops

def get_config():
    return {{
        "source": {source!r}, "data": {data!r}, "test_examples": 40, "budgets": (12,), "seeds": (0,),
        "train": {{"batch_size": 8, "max_steps": 2}}, "baselines": ("majority",), "workdir": {workdir!r},
        "methods": {{"tops": {{"scales": [2.0]}}, "edited": {{"method": "edits"}}}},
    }}
"""


@pytest.fixture(autouse=True)
def alone(registries: None) -> None:
    """What one test adds no other has."""


def write_study(folder: Path, bert_folder: Path, table: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "my_methods.py").write_text(METHODS_FILE)
    (folder / "helper.py").write_text("SCALE = 3.0")
    for name in ("types", "random"):
        (folder / f"{name}.py").write_text("raise AssertionError('the name of a module of Python')")
    config = folder / "config.py"
    config.write_text(CONFIG.format(source=str(bert_folder), data=str(table), workdir=str(folder / "study")))
    return config


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in another process: neither added, nor imported."""
    for registry in (METHODS, MODIFIERS, TASKS, FAMILIES):
        monkeypatch.setattr(registry, "_added", {})
        monkeypatch.setattr(registry, "_live", lambda base: iter(()))


def test_a_study_of_methods_next_to_its_config_runs_and_is_reported_and_used_without_their_code(
    tmp_path: Path, bert_folder: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, study = write_study(tmp_path / "mine", bert_folder, table), tmp_path / "mine" / "study"
    tl.run_study(read_config(config))
    assert read_config(config).methods["tops"].method.scales == (2.0,)  # pyright: ignore[reportAttributeAccessIssue]
    records = json.loads((study / "config.json").read_text())["code"]["methods"]
    assert {name: (one["module"], one["class"], one["file"]) for name, one in records.items()} == {
        "tops": ("my_methods", "Tops", "my_methods.py"), "edits": ("my_methods", "Edits", "my_methods.py"),
    }  # fmt: skip
    before = json.loads((study / "result.json").read_text())["arms"]
    text, run = "a fine film", str(study / "runs" / "tops" / "12" / "0")
    expected = CliRunner().invoke(cli, ["predict", run, text, "--json"]).stdout

    for path in (tmp_path / "mine").glob("*.py"):
        path.unlink()
    forget(monkeypatch)
    (study / "report.html").unlink()
    done = CliRunner().invoke(cli, ["report", str(study)])
    assert done.exit_code == 0, done.output
    assert "tops" in (study / "report.html").read_text()
    assert json.loads((study / "result.json").read_text())["arms"] == before
    # It only chose what trains.
    assert CliRunner().invoke(cli, ["predict", run, text, "--json"]).stdout == expected
    # The other edits the module: its code is needed.
    edited = str(study / "runs" / "edited" / "12" / "0")
    done = CliRunner().invoke(cli, ["predict", edited, text])
    assert done.exit_code == 1 and "'edits', the class Edits of the file my_methods.py" in done.output
    assert "--code my_methods.py" in done.output and "Traceback" not in done.output
    write_study(tmp_path / "elsewhere", bert_folder, table)
    given = ["--code", str(tmp_path / "elsewhere" / "my_methods.py")]
    done = CliRunner().invoke(cli, ["predict", edited, text, "--json", *given])
    assert done.exit_code == 0 and json.loads(done.stdout)["label"] in ("up", "down")
    # Nothing can be added to it without its methods.
    forget(monkeypatch)
    with pytest.raises(TransferlabError, match=r"needs the method 'tops', the class Tops of the file my_methods\.py"):
        Study(parse_config(recorded_config(study))).run()


def test_opening_a_run_imports_nothing_that_its_directory_names(
    tmp_path: Path, bert_folder: Path, films: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    tl.adapt(str(bert_folder), films, method=Probe(), settings=QUICK, directory=run).fit()
    trap, mark = tmp_path / "trap_of_test.py", tmp_path / "executed"
    trap.write_text(f"open({str(mark)!r}, 'w').close()")
    (run / "trap_of_test.py").write_text(trap.read_text())
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(run)
    identity = json.loads((run / "run.json").read_text())
    record = {"name": "lora2", "module": "trap_of_test", "class": "Mine", "file": "trap_of_test.py", "sha256": "0" * 64}
    for kind in ("method", "task", "family"):
        code = {kind: {**record, "needed": True, "linear_head": False}}
        (run / "run.json").write_text(json.dumps({**identity, "code": code}))
        with pytest.raises(
            TransferlabError, match=rf"needs the {kind} 'lora2', .*file trap_of_test\.py, and nothing that .* imported"
        ):
            tl.open_run(run)
        assert CliRunner().invoke(cli, ["predict", str(run), "a film"]).exit_code == 1
    with pytest.raises(TransferlabError, match=r"needs the task 'lora2'"):
        (run / "run.json").write_text(json.dumps({**identity, "code": {"task": record}}))
        tl.train.evaluate_run(run)
    assert not mark.exists() and "trap_of_test" not in sys.modules


@dataclass(frozen=True)
class Edited(Probe):
    """A method whose code is needed."""

    name: ClassVar[str] = "edited"

    def edit(self, module: Any) -> None:
        assert module.head is not None


@dataclass(frozen=True)
class Renamed(Classification):
    name: ClassVar[str] = "renamed"


def test_a_run_opens_where_its_class_was_imported_or_is_passed(
    tmp_path: Path, bert_folder: Path, films: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    result = tl.adapt(str(bert_folder), films, method=Edited(), task=Renamed(), settings=QUICK, directory=run).fit()
    texts = ["a fine film", "a sad day"]
    expected = result.predict(texts)
    identity = json.loads((run / "run.json").read_text())
    assert identity["code"]["method"]["needed"]
    assert identity["code"]["task"] == {"name": "renamed", "module": __name__, "class": "Renamed"}
    np.testing.assert_array_equal(tl.open_run(run)(texts), expected)
    assert tl.train.evaluate_run(run).task == Renamed()
    forget(monkeypatch)
    with pytest.raises(
        TransferlabError, match=rf"needs the task 'renamed', the class Renamed of the module {__name__}"
    ):
        tl.open_run(run)
    np.testing.assert_array_equal(tl.open_run(run, code=[Edited, Renamed])(texts), expected)


@dataclass(frozen=True)
class Halved(Modifier):
    """It changes how fast leaves train, and nothing of what a predictor needs."""

    name: ClassVar[str] = "halved"

    def leaf_settings(self, assigned: Any, stages: Any) -> dict[str, Any]:
        return {path: replace(settings, lr_scale=settings.lr_scale / 2) for path, settings in assigned.items()}


def test_a_modifier_of_ones_own_is_needed_where_its_method_is(
    tmp_path: Path, bert_folder: Path, films: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, methods = ["a fine film"], {"probe": Probe() | Halved(), "edited": Edited() | Halved()}
    predicted = {}
    for name, method in methods.items():
        run = tl.adapt(str(bert_folder), films, method=method, settings=QUICK, directory=tmp_path / name)
        predicted[name] = run.fit().predict(texts)
        np.testing.assert_array_equal(tl.open_run(tmp_path / name)(texts), predicted[name])
    forget(monkeypatch)
    np.testing.assert_array_equal(tl.open_run(tmp_path / "probe")(texts), predicted["probe"])
    with pytest.raises(
        TransferlabError, match=rf"needs the modifier 'halved', the class Halved of the module {__name__}"
    ):
        tl.open_run(tmp_path / "edited", code=Edited)
    np.testing.assert_array_equal(tl.open_run(tmp_path / "edited", code=Halved)(texts), predicted["edited"])


def test_a_task_without_a_name_opens_where_its_class_was_imported(
    tmp_path: Path, bert_folder: Path, films: Any
) -> None:
    @dataclass(frozen=True)
    class Unnamed(Classification):
        name: ClassVar[str] = ""

    tl.adapt(str(bert_folder), films, method=Probe(), task=Unnamed(), settings=QUICK, directory=tmp_path / "run").fit()
    assert type(tl.open_run(tmp_path / "run").task) is Unnamed


def test_a_changed_file_is_said_when_a_run_is_opened_or_continued(
    tmp_path: Path, bert_folder: Path, films: Any, caplog: pytest.LogCaptureFixture
) -> None:
    add_code(_methods_file(tmp_path))
    run = tl.adapt(str(bert_folder), films, method=METHODS["edits"](), settings=QUICK, directory=tmp_path / "run")
    run.fit()
    file = _methods_file(tmp_path)
    file.write_text(f"{file.read_text()}\n# another version")
    with caplog.at_level(logging.WARNING):
        tl.open_run(tmp_path / "run", code=file)
    assert "the file my_methods.py of the method 'edits' has changed since" in caplog.text
    caplog.clear()
    tl.adapt(str(bert_folder), films, method=METHODS["edits"](), settings=QUICK, directory=tmp_path / "run").fit()
    assert "the file my_methods.py of the method 'edits' has changed since" in caplog.text


def _methods_file(folder: Path) -> Path:
    (folder / "helper.py").write_text("SCALE = 3.0")
    (folder / "my_methods.py").write_text(METHODS_FILE)
    return folder / "my_methods.py"


@dataclass(frozen=True)
class Nameless(Method):
    name: ClassVar[str] = ""


@dataclass(frozen=True)
class Borrowed(LoRA):
    """It has LoRA's own name."""


@dataclass(frozen=True)
class Placed(Full):
    where: Path = Path("here")
    name: ClassVar[str] = "placed"


@dataclass(frozen=True)
class Listed(Full):
    numbers: Any = (1, 2)
    name: ClassVar[str] = "listed"


class Plain(Full):
    strength: float = 1.0
    name: ClassVar[str] = "plain"


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (Borrowed(), r"Two methods are called 'lora': transferlab\.methods\.lora\.LoRA and test_own_code\.Borrowed"),
        (Placed(), r"method\.where of Placed is .*, which a run's directory cannot record as JSON"),
        (Listed(), r"method\.numbers of Listed is \(1, 2\), and would be another value when the run is opened: \[1, 2\]"),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_method_that_a_directory_cannot_record_is_refused_before_anything_is_written(
    method: Method, said: str, tmp_path: Path, bert_folder: Path, films: Any
) -> None:
    with pytest.raises(TransferlabError, match=said):
        tl.adapt(str(bert_folder), films, method=method, directory=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (3, "code is '3', which is no method, task or family"),
        ([dict], "code is the class dict, which is no method, task or family"),
        ("nothing.py", "There is no file 'nothing.py'"),
        ("no_such_module_of_test", "The module 'no_such_module_of_test' cannot be imported: ModuleNotFoundError"),
        ("json", "json has no method, task or family of its own"),
        ([Borrowed], "Two methods are called 'lora'"),
        ([Nameless], "is no method; one is a subclass of transferlab.methods.base.Method, with a name"),
        ([Plain], r"test_own_code\.Plain is no dataclass, .* @dataclass\(frozen=True\)"),
    ],
    ids=str,
)
def test_code_that_defines_nothing_of_use_is_one_error(code: Any, said: str) -> None:
    with pytest.raises(TransferlabError, match=said):
        add_code(code)


def test_a_config_cannot_take_the_name_of_a_method_of_ours(tmp_path: Path) -> None:
    (tmp_path / "config.py").write_text(
        "from dataclasses import dataclass\nfrom transferlab.methods import Full\n"
        "@dataclass(frozen=True)\nclass Mine(Full):\n    name = 'probe'\ndef get_config():\n    return {}"
    )
    with pytest.raises(
        TransferlabError, match=r"Two methods are called 'probe': .*Probe and config\.Mine \(config\.py\)"
    ):
        read_config(tmp_path / "config.py")


def test_a_config_next_to_a_task_and_a_family_of_ones_own_uses_both(
    tmp_path: Path, bert_folder: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, study = write_averaging(tmp_path / "averaging", bert_folder), tmp_path / "study"
    for name in ("own_family", "own_task"):
        (tmp_path / f"{name}.py").write_text((EXAMPLES / f"{name}.py").read_text())
    text = CONFIG.format(source=str(model), data=str(table), workdir=str(study)).replace(
        "from my_methods import Edits, Tops", "import own_family, own_task"
    )
    text = text.replace('"tops": {"scales": [2.0]}, "edited": {"method": "edits"}', '"probe": {}').replace(
        '"workdir"', '"task": "ordinal", "workdir"'
    )
    (tmp_path / "config.py").write_text(text)
    tl.run_study(read_config(tmp_path / "config.py"))
    recorded = json.loads((study / "config.json").read_text())["code"]
    assert (recorded["task"]["file"], recorded["family"]["file"]) == ("own_task.py", "own_family.py")
    forget(monkeypatch)
    done = CliRunner().invoke(cli, ["report", str(study)])
    assert done.exit_code == 1 and "needs the task 'ordinal', the class Ordinal of the file own_task.py" in done.output
    given = ["--code", str(EXAMPLES / "own_task.py")]
    done = CliRunner().invoke(cli, ["report", str(study), *given])
    assert done.exit_code == 1 and "needs the family 'averaging', the class AveragingConfig of the file" in done.output
    done = CliRunner().invoke(cli, ["report", str(study), *given, "--code", str(EXAMPLES / "own_family.py")])
    assert done.exit_code == 0, done.output
    assert CliRunner().invoke(cli, ["predict", str(study), "a fine film"]).exit_code == 0


# Entry points --------------------------------------------------------------------------------------------------------


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """Entry points that are there, as if packages with them were installed."""
    there: list[EntryPoint] = []
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point for point in there if point.group == group])
    return there


def test_entry_points_are_imported_when_a_name_is_asked_for_that_is_not_ours(
    tmp_path: Path, bert_folder: Path, points: list[EntryPoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("own_method", "own_task", "own_family"):
        (tmp_path / f"{name}_of_test.py").write_text((EXAMPLES / f"{name}.py").read_text())
    monkeypatch.syspath_prepend(tmp_path)
    points += [
        EntryPoint("last", "own_method_of_test:Last", "transferlab.methods"),
        EntryPoint("ordinal", "own_task_of_test", "transferlab.tasks"),
        EntryPoint("averaging", "own_family_of_test:AVERAGING", "transferlab.families"),
    ]
    assert METHODS["lora"] is LoRA and "full" in METHODS and family_of(tl.load(bert_folder).config).name == "bert"
    parse_config(
        {
            "source": "minilm-l6",
            "data": "tweets",
            "budgets": 16,
            "seeds": 0,
            "methods": {"probe": {}},
            "baselines": ("majority",),
        }
    )
    assert not [name for name in sys.modules if name.startswith("own_") and name.endswith("_of_test")]
    face: Any = tl
    assert face.methods.Last(layers=1).name == "last" and face.tasks.Ordinal().name == "ordinal"
    assert tl.load(write_averaging(tmp_path / "averaging", bert_folder)).family == "averaging"
    assert "last" in CliRunner().invoke(cli, ["methods"]).output
    assert "averaging" in CliRunner().invoke(cli, ["models"]).output
    for name in ("own_method", "own_task", "own_family"):
        del sys.modules[f"{name}_of_test"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (
            "no_such_module_at_all",
            r"entry point 'mine' of a package in the group 'transferlab\.methods' cannot be loaded",
        ),
        (
            "builtins:dict",
            r"entry point 'mine' of a package .* has no method: it must be a subclass of transferlab\.methods\.base\.Method",
        ),
        ("test_own_code:Borrowed", r"Two methods are called 'lora'"),
    ],
)
def test_an_entry_point_that_is_no_method_is_named_where_one_is_looked_for(
    value: str, said: str, points: list[EntryPoint]
) -> None:
    points.append(EntryPoint("mine", value, "transferlab.methods"))
    assert METHODS["lora"] is LoRA
    with pytest.raises(TransferlabError, match=said):
        _ = "mine" in METHODS


def test_help_imports_no_plugins_and_no_jax() -> None:
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom transferlab.cli.main import cli\n"
        "assert '--code' in CliRunner().invoke(cli, ['predict', '--help']).output\n"
        "assert not {'jax', 'transferlab.plugins', 'transferlab.user_code'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_run_on_a_network_of_ones_own_has_no_family_to_compare(caplog: pytest.LogCaptureFixture) -> None:
    network = tl.network(lambda rngs: nnx.Linear(3, 2, rngs=rngs), "x", output="hidden")
    source = tl.from_tree(network, nnx.state(nnx.Linear(3, 2, rngs=nnx.Rngs(0))))
    data = tl.dataset({"x": np.eye(3, dtype=np.float32)[np.arange(30) % 3], "label": list("abc" * 10)})
    run = tl.adapt(source, data, method=Probe(), settings=QUICK)
    warn_of_changes(run, {"method": {"name": "probe", "module": "elsewhere", "class": "Mine"}}, "here")
    assert "the method 'probe' is" in caplog.text
