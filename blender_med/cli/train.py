"""``blender-med train``: run a training job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blender_med.cli.run import Overrides, Quiet, Verbose

if TYPE_CHECKING:
    from blender_med.training.config import RankerJob


def train(
    recipe: Annotated[Path, typer.Argument(help="Training recipe (YAML), yours or a shipped one.")],
    set_: Overrides = None,
    force: Annotated[bool, typer.Option(help="Train anew even if nothing changed.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a ranker; a job that was killed continues at its last checkpoint."""
    from blender_med.cli.console import set_up_logging, stdout
    from blender_med.config import apply_overrides, load_yaml
    from blender_med.training.config import load_ranker_job, recipe_file

    set_up_logging(quiet=quiet, verbose=verbose)
    file = recipe_file(recipe)
    job = load_ranker_job(apply_overrides(load_yaml(file), set_ or []), file=file)
    folder = Path(job.output_dir) / job.name
    trained = _train(job, folder, force=force, quiet=quiet)
    if not quiet:
        state = "trained" if trained else "up to date"
        stdout.print(f"{job.name}: {state}, in {folder}", highlight=False, markup=False)


def _train(job: RankerJob, folder: Path, *, force: bool, quiet: bool) -> bool:
    from blender_med.cli.console import stderr
    from blender_med.errors import ConfigError
    from blender_med.executors.progress import ProgressDisplay
    from blender_med.store.lock import run_lock
    from blender_med.training.examples import load_examples
    from blender_med.training.job import train_ranker

    if job.data is None:
        fix = "add data: {run: runs/NAME}, or --set data.run=runs/NAME"
        raise ConfigError("the recipe names no data to train on", key="data", fix=fix)
    examples = load_examples(job.data, job.labels)
    steps = job.training.total_steps(len(examples.train))
    display = ProgressDisplay(stderr, quiet=quiet)
    with run_lock(folder), display.stage(job.name, steps) as advance:
        return train_ranker(job, examples, folder, force=force, advance=advance)
