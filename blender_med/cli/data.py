"""``blender-med data``: look at a data set before it is used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blender_med.cli.run import Overrides

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from blender_med.data.config import DatasetConfig
    from blender_med.data.describe import DatasetDescription, PassagesDescription

app = typer.Typer(help="Describe a data set; find overlap between two.", no_args_is_help=True)

_MOST_ROWS = 20

Recipe = Annotated[Path, typer.Argument(help="Data recipe (YAML), yours or a shipped one.")]
Strict = Annotated[bool, typer.Option("--strict", help="Make a malformed row an error.")]


@app.command("describe")
def describe_command(recipe: Recipe, set_: Overrides = None, strict: Strict = False) -> None:
    """Print counts, lengths, label balance and quarantined rows of a data set."""
    from blender_med.cli.console import set_up_logging, stdout
    from blender_med.data import Passages
    from blender_med.data.describe import describe, describe_passages
    from blender_med.data.loading import load_any

    set_up_logging(quiet=False, verbose=False)
    config = _load_config(recipe, set_ or [], strict)
    loaded = load_any(config)
    if isinstance(loaded, Passages):
        _print_passages(describe_passages(loaded), config)
    else:
        _print_description(describe(loaded), config)
    if loaded.quarantined:
        file = Path(f"{recipe.stem}.quarantine.csv")
        loaded.quarantined.write_csv(file)
        stdout.print(f"Quarantined rows with their reasons: {file}", soft_wrap=True)


@app.command("overlap")
def overlap_command(
    a: Annotated[Path, typer.Argument(help="Recipe of the set in question, such as the test set.")],
    b: Annotated[Path, typer.Argument(help="Recipe of the set that may have leaked into it.")],
    set_a: Annotated[list[str] | None, typer.Option(help="Override a key of the first.")] = None,
    set_b: Annotated[list[str] | None, typer.Option(help="Override a key of the second.")] = None,
    threshold: Annotated[float, typer.Option(min=0.01, max=1.0, help="Least containment.")] = 0.5,
    output: Annotated[Path | None, typer.Option(help="Write every overlap to this CSV.")] = None,
) -> None:
    """Find questions and answers of the first set that are (nearly) in the second."""
    from rich.table import Table

    from blender_med.cli.console import set_up_logging, stdout
    from blender_med.data import load_dataset_config
    from blender_med.data.contamination import overlap
    from blender_med.reports.overlap import write_overlap

    set_up_logging(quiet=False, verbose=False)
    first = load_dataset_config(_load_config(a, set_a or [], strict=False))
    second = load_dataset_config(_load_config(b, set_b or [], strict=False))
    report = overlap(first, second, threshold)
    stdout.print(f"{report.n_a} questions compared with {report.n_b}")
    table = Table("overlap", "pairs", "questions of the first", "questions of the second")
    for kind, counts in report.summary().items():
        table.add_row(kind, *map(str, counts))
    stdout.print(table if table.row_count else "No overlap.")
    if output is not None:
        write_overlap(output, report)
        stdout.print(f"Every overlap: {output}", soft_wrap=True)


def _load_config(path: Path, overrides: list[str], strict: bool) -> DatasetConfig:
    from blender_med.config import apply_overrides, load_yaml, parse
    from blender_med.data.config import DatasetConfig
    from blender_med.recipes_folder import find_recipe

    file = find_recipe(path)
    tree = apply_overrides(load_yaml(file), overrides)
    return parse(DatasetConfig, tree | ({"strict": True} if strict else {}), file=file)


def _print_passages(found: PassagesDescription, config: DatasetConfig) -> None:
    _print_head(f"{found.passages} passages, {found.words:,} words,", found, config)
    _print_counts("split", found.counts.items())
    _print_lengths(found.lengths)
    _print_counts("licence", found.licenses.items())
    _print_counts("source", found.sources.items())
    _print_counts("quarantined because", found.quarantined.items())


def _print_head(
    size: str, found: DatasetDescription | PassagesDescription, config: DatasetConfig
) -> None:
    from blender_med.cli.console import stdout

    place, refused = config.path or "its default source", sum(found.quarantined.values())
    counts = f"{size} in {found.groups} groups, {refused} rows quarantined"
    stdout.print(f"{config.type} from {place}: {counts}", soft_wrap=True)


def _print_lengths(lengths: Mapping[str, Mapping[str, float]]) -> None:
    from rich.table import Table

    from blender_med.cli.console import stdout

    if lengths:
        table = Table("words", *next(iter(lengths.values())), title="length in words")
        for name, quantiles in lengths.items():
            table.add_row(name, *(f"{value:.0f}" for value in quantiles.values()))
        stdout.print(table)


def _print_description(found: DatasetDescription, config: DatasetConfig) -> None:
    _print_head(f"{found.questions} questions", found, config)
    _print_counts("split, task", ((", ".join(k), n) for k, n in found.counts.items()))
    _print_lengths(found.lengths)
    _print_counts("right answer", found.labels.items())
    _print_counts("question type", found.question_types.items())
    _print_counts("subject", found.subjects.items())
    _print_counts("source", found.sources.items())
    _print_counts("quarantined because", found.quarantined.items())
    notes = {
        "questions asked more than once": found.repeated_questions,
        "questions with two equal options": found.duplicate_options,
    }
    _print_counts("note", ((name, count) for name, count in notes.items() if count))


def _print_counts(title: str, counts: Iterable[tuple[str, int]]) -> None:
    """Print a table of the first counts; the rest are summed up in its last row."""
    from rich.table import Table

    from blender_med.cli.console import stdout

    table, listed = Table(title, "count"), list(counts)
    for name, count in listed[:_MOST_ROWS]:
        table.add_row(name, str(count))
    if rest := listed[_MOST_ROWS:]:
        table.add_row(f"{len(rest)} others", str(sum(count for _, count in rest)))
    if table.row_count:
        stdout.print(table)
