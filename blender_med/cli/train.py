"""``blender-med train``: run a training job."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blender_med.cli.run import Overrides, Quiet, Verbose

if TYPE_CHECKING:
    from blender_med.training.jobs import Job


def train(
    recipe: Annotated[Path, typer.Argument(help="Training recipe (YAML), yours or a shipped one.")],
    set_: Overrides = None,
    force: Annotated[bool, typer.Option(help="Train anew even if nothing changed.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a ranker or a fuser, or make an expert: tune, merge, quantise.

    A job that was killed continues at its last checkpoint.

    torchrun shares a job between processes: torchrun --nproc-per-node N -m blender_med train ...
    """
    from blender_med.cli.console import set_up_logging, stdout
    from blender_med.config import apply_overrides, load_yaml
    from blender_med.training.config import recipe_file
    from blender_med.training.jobs import load_job
    from blender_med.training.processes import is_first

    quiet = quiet or not is_first()
    set_up_logging(quiet=quiet, verbose=verbose)
    file = recipe_file(recipe)
    job = load_job(apply_overrides(load_yaml(file), set_ or []), file)
    folder = Path(job.output_dir) / job.name
    trained = _train(job, folder, force=force, quiet=quiet)
    if not quiet:
        state = "trained" if trained else "up to date"
        stdout.print(f"{job.name}: {state}, in {folder}", highlight=False, markup=False)


def _train(job: Job, folder: Path, *, force: bool, quiet: bool) -> bool:
    from blender_med.cli.console import stderr
    from blender_med.executors.progress import ProgressDisplay
    from blender_med.store.lock import run_lock
    from blender_med.training.jobs import prepared
    from blender_med.training.processes import is_first

    steps, bring_up_to_date = prepared(job)
    display = ProgressDisplay(stderr, quiet=quiet)
    lock = run_lock(folder) if is_first() else nullcontext()
    with lock, display.stage(job.name, steps) as advance:
        return bring_up_to_date(folder, force=force, advance=advance)
