"""Fixtures of all tests, and how the suite is run. Helpers that are not fixtures are in ``tests/support``."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from support.checkpoints import write_bert
from support.configs import write_config
from support.tables import write_table

if os.environ.setdefault("JAX_PLATFORMS", "cpu") != "cpu":
    # JAX_PLATFORMS=cuda,cpu pytest -n 2: a GPU multiplies float32 with ten bits of fraction unless it is told to take all.
    os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")
# The models of these tests are tiny: nearly all their time went to XLA optimising programs that run for a millisecond.
# Parity tests, the README's own line and the benchmarks run what a user's machine compiles; HURRIED=1 has parity tests hurry too.
HURRIED = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if version("jax").startswith("0.10."):
    HURRIED.append("--xla_cpu_use_fusion_emitters=false")  # gone from jax 0.11.2, and an unknown flag ends the process


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("data") / "films.csv")


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory, bert_folder: Path, table: Path) -> Path:
    """The config of a small study."""
    return write_config(tmp_path_factory.mktemp("configs") / "films.py", bert_folder, table)


@pytest.fixture(autouse=True)
def seeded(request: pytest.FixtureRequest) -> None:
    """A parity test draws the same random weights whichever tests ran before it."""
    if request.path.parent.name == "parity" and "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def source(bert_folder: Path):
    import transferlab as tl

    return tl.load(bert_folder)


@pytest.fixture(scope="session")
def films(table: Path):
    import transferlab as tl

    return tl.dataset(table, test_examples=60)


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Methods, tasks and families as they are at the start; what a test adds is gone afterwards, and entry points are read anew."""
    from transferlab.methods import METHODS, MODIFIERS
    from transferlab.pretrained.families import FAMILIES
    from transferlab.tasks import TASKS

    for registry in (METHODS, MODIFIERS, TASKS, FAMILIES):
        monkeypatch.setattr(registry, "_added", {})
        monkeypatch.setattr(registry, "_packages", None)


@pytest.fixture(autouse=True, scope="session")
def frontier_cache(tmp_path_factory: pytest.TempPathFactory):
    """Carries of tests stay out of the user's cache."""
    from transferlab.train import setup
    from transferlab.transfer.cache import FrontierCache

    made = FrontierCache(tmp_path_factory.mktemp("frontier"))
    patch = pytest.MonkeyPatch()
    patch.setattr(setup, "shared_cache", lambda: made)
    yield made
    patch.undo()


def pytest_configure(config: pytest.Config) -> None:
    """Set the flags before any device is used; processes that tests start inherit them."""
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)  # readline sets them for pytest-xdist's workers, and plans are printed to that width
    if os.environ.get("HURRIED") == "1" or not any("parity" in Path(place).parts for place in config.args):
        os.environ["XLA_FLAGS"] = " ".join((*HURRIED, os.environ.get("XLA_FLAGS", "")))


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """The differences for the table are collected in one process."""
    if config.getoption("--parity-table"):
        config.option.numprocesses, config.option.dist = 0, "no"


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--parity-table FILE``: where to write the differences from the reference implementations, as Markdown."""
    parser.addoption(
        "--parity-table",
        type=Path,
        help="write the table of largest differences from the reference implementations here",
    )


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the parity table of the tests that ran."""
    if place := session.config.getoption("--parity-table"):
        from support.comparison import DIFFERENCES, table

        place.write_text(table(DIFFERENCES))
