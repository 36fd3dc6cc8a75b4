"""Commands. Each imports what it needs when it runs, so that ``transferlab --help`` takes no time."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import click

from transferlab import __version__
from transferlab.compute.host import catch_interrupts, restart_with_large_pages
from transferlab.errors import TransferlabError

OVERRIDES = {"ignore_unknown_options": True, "allow_interspersed_args": True}


def _cache_hint(where: object) -> str:
    """Advice on a file of the cache that cannot be written; empty for other files."""
    from transferlab.fetching import cache_dir

    cache = cache_dir()
    path = Path(str(where))
    if path != cache and cache not in path.parents and path not in cache.parents:
        return ""
    return f" The cache is {cache}; set TRANSFERLAB_CACHE to a directory that can be written."


class _Commands(click.Group):
    """Turns errors for users into one line and a non-zero exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TransferlabError as error:
            click.secho("Error: ", fg="red", nl=False, err=True)
            click.echo(str(error), err=True)
            sys.exit(1)
        except (KeyboardInterrupt, click.exceptions.Abort):
            click.echo("Stopped.", err=True)
            sys.exit(130)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except Exception as error:
            if type(error).__name__ == "Interrupted":
                click.echo(f"{error} Run the same command again to continue.", err=True)
                sys.exit(130)
            if isinstance(error, OSError):
                click.secho("Error: ", fg="red", nl=False, err=True)
                where = error.filename or "no file named"
                click.echo(f"{error.strerror or error} ({where}).{_cache_hint(where)}", err=True)
                sys.exit(1)
            raise

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        from transferlab.errors import nearest

        if args and args[0] not in self.commands and not args[0].startswith("-"):
            raise TransferlabError(f"There is no command '{args[0]}'.{nearest(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


def _code_option(command: Any) -> Any:
    """``--code``: files of a user's own that define methods, tasks or families."""
    return click.option(
        "--code",
        metavar="FILE",
        multiple=True,
        help="Execute FILE first, which defines a method, task or family of your own: my_method.py, or the name of a module.",
    )(command)


def _execute(code: tuple[str, ...]) -> None:
    if code:
        from transferlab.train.own_code import add_code

        add_code(code)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Transfer learning in JAX: what is transferred, how it is adapted, and how much it gains."""


@cli.command(context_settings=OVERRIDES)
@click.argument("config", metavar="CONFIG")
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--profile", is_flag=True, help="First show where a step's time goes, for each arm; traces in DIR/profile."
)
@click.option("--open", "browse", is_flag=True, help="Show the report in a browser at the end.")
def run(config: str, overrides: tuple[str, ...], profile: bool, browse: bool) -> None:
    """Run the study in CONFIG, or continue it.

    Override fields with --config.path=value, as --config.methods.lora.rank=4, --config.task.name=regression or
    --config.workdir=DIR.
    """
    from transferlab.cli.watch import run_watched
    from transferlab.config import read_config

    run_watched(read_config(config, overrides), profile, browse)


@cli.command(context_settings=OVERRIDES)
@click.argument("config", metavar="CONFIG")
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED)
@click.option("--whole", is_flag=True, help="Show every leaf, not collapsed by layer.")
@click.option("--json", "as_json", is_flag=True, help="Print the plans as JSON.")
def plan(config: str, overrides: tuple[str, ...], whole: bool, as_json: bool) -> None:
    """Show what would be copied, initialised, frozen and trained; allocate nothing."""
    from transferlab.cli.watch import SKIPPED_ARM, data_line, task_line
    from transferlab.config import read_config
    from transferlab.studies.study import Study

    study = Study(read_config(config, overrides))
    plans = study.plans
    if as_json:
        import json

        click.echo(json.dumps({name: arm.to_dict() for name, arm in plans.items()}, indent=1))
        return
    click.echo(data_line(study.data))
    click.echo(task_line(study.task))
    for arm in plans.values():
        _print(arm.table(whole))
    for name in study.skipped_arms:
        click.echo(SKIPPED_ARM.format(name))


@cli.command()
@click.argument("study", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--open", "browse", is_flag=True, help="Show the report in a browser.")
@_code_option
def report(study: Path, browse: bool, code: tuple[str, ...]) -> None:
    """Rewrite the tables and report.html of the study in DIR, from its finished runs."""
    _execute(code)
    from transferlab.cli.browser import open_in_browser
    from transferlab.cli.watch import REPORT, show_result
    from transferlab.config import parse_config
    from transferlab.studies.directory import recorded_config
    from transferlab.studies.study import Study
    from transferlab.transfer.show import console

    show_result(Study(parse_config(recorded_config(study))).report(), study)
    if browse:
        open_in_browser(study / REPORT, console())


@cli.command()
@click.argument("run_directory", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("inputs", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option(
    "--text", multiple=True, help="The column of tables, twice for pairs; by default those that RUN was trained on."
)
@click.option("--white", type=float, help="The value that is white in images of more than 8 bits: 4095 for 12 bits.")
@_code_option
def predict(
    run_directory: Path,
    inputs: tuple[str, ...],
    as_json: bool,
    text: tuple[str, ...],
    white: float | None,
    code: tuple[str, ...],
) -> None:
    """Predict labels, numbers or tags with a finished RUN.

    INPUTS are texts (of pairs: two for each), images or sounds, folders of them, or files of many: .txt (one text per line), .csv,
    .tsv, .jsonl, .parquet, .arrow or .conll.
    RUN is the directory of one run, or of a study, whose best run is used.
    """
    from transferlab.cli.predict import predict_all

    _execute(code)
    predict_all(run_directory, inputs, as_json, text, white)


@cli.command()
@click.argument("checkpoint", metavar="PATH_OR_NAME")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(checkpoint: str, as_json: bool) -> None:
    """Print any checkpoint's tree with shapes and dtypes: a registry name, hf:owner/name, a file, a directory, a run."""
    from transferlab.pretrained.inspection import inspect_checkpoint

    tree = inspect_checkpoint(checkpoint)
    if as_json:
        import json

        click.echo(json.dumps(tree.to_dict(), indent=1))
    else:
        _print(tree.table())


@cli.command()
@click.argument("source", metavar="SOURCE")
@click.argument("target", metavar="DEST")
@click.option("--format", "form", help="hf, timm, sentence-transformers, orbax or peft; by default SOURCE's own.")
@click.option("--dtype", help="Write floating tensors in this type; by default each in its own.")
@click.option("--shard-size", default="5GB", show_default=True, help="Size beyond which weights are split.")
@click.option("--overwrite", is_flag=True, help="Replace what is in DEST.")
@_code_option
def convert(
    source: str,
    target: str,
    form: str | None,
    dtype: str | None,
    shard_size: str,
    overwrite: bool,
    code: tuple[str, ...],
) -> None:
    """Write SOURCE to the directory DEST, as its reference implementation loads it or in another format.

    SOURCE is a registry name, hf:owner/name, a directory, a PEFT adapter (merged into its base), a run or a study.
    """
    from transferlab.cli import convert as converting

    _execute(code)
    click.echo(converting.convert(source, target, form, dtype, shard_size, overwrite))


@cli.command()
@click.argument("run_directory", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("target", metavar="DEST")
@click.option(
    "--format", "form", help="hf, timm, sentence-transformers, orbax or peft; by default the first that can hold it."
)
@click.option("--self-contained", is_flag=True, help="With the base's weights, which only the format peft omits.")
@click.option("--overwrite", is_flag=True, help="Replace what is in DEST.")
@_code_option
def export(
    run_directory: Path, target: str, form: str | None, self_contained: bool, overwrite: bool, code: tuple[str, ...]
) -> None:
    """Write the model of a finished RUN to the directory DEST, with its base, adapters merged.

    RUN is the directory of one run, or of a study, whose best run is used.
    """
    from transferlab.cli import convert as converting
    from transferlab.cli.predict import best_run

    _execute(code)
    if self_contained and form == "peft":
        raise TransferlabError(
            "A PEFT directory holds adapters alone, without their base; omit --self-contained or choose another --format."
        )
    click.echo(converting.convert(str(best_run(run_directory)), target, form, None, "5GB", overwrite))


@cli.command()
@click.argument("family", required=False)
def models(family: str | None) -> None:
    """List the models that have a name, with source and license, and the families that can be read; or a FAMILY's sizes."""
    from transferlab.pretrained.families import FAMILIES
    from transferlab.pretrained.registry import REGISTRY

    if family is not None:
        _sizes(family)
        return
    named = [
        (e.name, e.family, e.license, f"{e.artifact.package} {e.artifact.version}", e.about) for e in REGISTRY.values()
    ]
    _listing(("model", "family", "license", "from the package", ""), named)
    families = [
        (f.name, f.modality, ", ".join(f.sizes), ", ".join(f.model_types), f.architectures) for f in FAMILIES.values()
    ]
    _listing(("family", "reads", "sizes", "model_type of Hugging Face", "architecture of timm"), families)


def _sizes(name: str) -> None:
    from inspect import getdoc

    from transferlab import trees
    from transferlab.errors import TransferlabError, nearest
    from transferlab.pretrained.families import FAMILIES

    if name not in FAMILIES:
        raise TransferlabError(f"Unknown family '{name}'.{nearest(name, FAMILIES)}")
    family, rows = FAMILIES[name], []
    for size, make in family.sizes.items():
        count = trees.count(trees.define(make().build()).params)
        constructor = f"tl.models.{family.config.__name__}.{size}()"
        rows.append((size, f"{count:,}", constructor, (getdoc(make) or "").splitlines()[0]))
    _listing(("size", "parameters, without a head", "config", ""), rows)


@cli.command()
def methods() -> None:
    """List the methods and the modifiers, with their fields."""
    from dataclasses import fields

    from transferlab.methods import METHODS, MODIFIERS

    for noun, registry in (("method", METHODS), ("modifier", MODIFIERS)):
        rows = [(m.name, m.summary, ", ".join(f"{f.name}={f.default}" for f in fields(m))) for m in registry.values()]
        _listing((noun, "", "fields and defaults"), rows)


@cli.command()
def tasks() -> None:
    """List the tasks, with what they read, predict and are scored by, their baselines and fields; ↓: smaller is better."""
    from dataclasses import fields

    from transferlab.tasks import tasks as known

    rows = [
        (
            task.name,
            task.target,
            task.predicted,
            ", ".join(name + (" ↓" if direction < 0 else "") for name, direction in task.scores.items()),
            ", ".join(task.baselines),
            ", ".join(f"{f.name}={f.default}" for f in fields(task)),
        )
        for task in known().values()
    ]
    _listing(("task", "reads", "predicts", "scores", "baselines", "fields and defaults"), rows)


@cli.command()
def data() -> None:
    """List the data sets that have a name, with their licenses."""
    from transferlab.data.builders import DATASETS

    _listing(("data", "license", ""), [(name, entry.license, entry.about) for name, entry in DATASETS.items()])


def _listing(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(*columns, box=box.SIMPLE)
    for row in rows:
        table.add_row(*map(escape, row))
    _print(table)


def _print(table: Any) -> None:
    """Print a table: as wide as the terminal, or at its full width where the output goes to a file."""
    from transferlab.transfer.show import as_text, console

    if sys.stdout.isatty():
        console().print(table)
    else:
        click.echo(as_text(table))


def main() -> None:
    """Entry point."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal whose encoding has no "…" shows a question mark.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    if sys.argv[1:2] == ["run"]:
        restart_with_large_pages()
    catch_interrupts()
    cli()
