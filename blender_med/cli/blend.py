"""``blender-med blend``, ``rank`` and ``fuse``: on a file of one's own, without a recipe."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blender_med.cli.run import Quiet, Verbose

if TYPE_CHECKING:
    from blender_med.data.user_file import UserFile

File = Annotated[
    str, typer.Argument(metavar="FILE", help="CSV or JSON lines; - for standard input.")
]
Output = Annotated[
    str, typer.Option("--output", "-o", help="CSV or JSON lines; - for standard output.")
]
Question = Annotated[str, typer.Option(help="Column of the question.")]
Context = Annotated[str, typer.Option(help="Column of a text that the question is about.")]
Candidates = Annotated[
    str, typer.Option(help="Column with a list of answers, or several columns (comma-separated).")
]
Guard = Annotated[bool, typer.Option("--guard", help="Keep what the ranker prefers.")]
TopK = Annotated[int, typer.Option(help="Candidates that are fused.")]
MaxNewTokens = Annotated[int, typer.Option(help="Longest answer of expert or fuser, in tokens.")]
_RANKER = "bm25, embedding, or a trained ranker: folder or Hub id."
_FUSER = (
    "expert:NAME, aggregate:NAME, concatenation, or a trained fuser: folder or Hub id, behind "
    "vllm: where vLLM is to serve it."
)
AllowPickle = Annotated[
    bool,
    typer.Option("--allow-pickle", help="Read rankers and fusers that come without safetensors."),
]


def blend(
    file: File,
    experts: Annotated[str, typer.Option(help="Recipes of experts (comma-separated).")],
    ranker: Annotated[str, typer.Option(help=_RANKER)] = "embedding",
    fuser: Annotated[
        str | None, typer.Option(help=f"{_FUSER} Default: expert: and the first expert.")
    ] = None,
    output: Output = "-",
    question: Question = "question",
    context: Context = "context",
    samples: Annotated[int, typer.Option(help="Answers of each expert.")] = 1,
    top_k: TopK = 3,
    max_new_tokens: MaxNewTokens = 192,
    guard: Guard = False,
    seed: int = 0,
    allow_pickle: AllowPickle = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Ask experts the questions of a file, rank their answers, and fuse the best."""
    from blender_med.stages.blending import fuser_tree, ranker_tree

    names = _listed(experts)
    sampling = {"temperature": 0.7, "top_k": 50, "max_tokens": max_new_tokens}
    trusted = _trusted(allow_pickle)
    tree = trusted(fuser_tree(fuser or f"expert:{names[0]}")) | {"top_k": top_k}
    stages: list[dict[str, Any]] = [
        {"type": "generate", "long": {"samples": samples, "sampling": sampling}},
        {"type": "rank", "rankers": [trusted(ranker_tree(ranker))]},
        {"type": "fuse", "fusers": [_fuser(tree, max_new_tokens, guard=guard)]},
    ]
    _run(file, output, stages, names, (question, context), None, seed, quiet, verbose)


def rank(
    file: File,
    ranker: Annotated[str, typer.Option(help=_RANKER)] = "embedding",
    output: Output = "-",
    question: Question = "question",
    context: Context = "context",
    candidates: Candidates = "candidates",
    allow_pickle: AllowPickle = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Rank the given answers of each question of a file."""
    from blender_med.stages.blending import ranker_tree

    stages = [{"type": "rank", "rankers": [_trusted(allow_pickle)(ranker_tree(ranker))]}]
    _run(file, output, stages, [], (question, context), candidates, 0, quiet, verbose)


def fuse(
    file: File,
    fuser: Annotated[str, typer.Option(help=_FUSER)],
    ranker: Annotated[
        str | None,
        typer.Option(help=f"{_RANKER} Default: the column candidate_ranks, else best first."),
    ] = None,
    output: Output = "-",
    question: Question = "question",
    context: Context = "context",
    candidates: Candidates = "candidates",
    top_k: TopK = 3,
    max_new_tokens: MaxNewTokens = 128,
    guard: Guard = False,
    seed: int = 0,
    allow_pickle: AllowPickle = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write one answer from the given answers of each question of a file."""
    from blender_med.errors import ConfigError
    from blender_med.stages.blending import fuser_tree, ranker_tree

    if guard and ranker is None:
        raise ConfigError("a guard needs a ranker", key="--guard", fix="name one with --ranker")
    trusted = _trusted(allow_pickle)
    tree = _fuser(trusted(fuser_tree(fuser)) | {"top_k": top_k}, max_new_tokens, guard=guard)
    stages: list[dict[str, Any]] = [{"type": "fuse", "fusers": [tree]}]
    if ranker:
        stages.insert(0, {"type": "rank", "rankers": [trusted(ranker_tree(ranker))]})
    names = [tree["expert"]] if "expert" in tree else []
    _run(file, output, stages, names, (question, context), candidates, seed, quiet, verbose)


def _trusted(allow_pickle: bool) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Adds the switch to recipes that name a model."""
    switch = {"allow_pickle": True} if allow_pickle else {}
    return lambda tree: tree | (switch if "model" in tree else {})


def _fuser(tree: dict[str, Any], max_new_tokens: int, *, guard: bool) -> dict[str, Any]:
    writes = tree["type"] != "concatenation"
    decoding = {"decoding": {"max_new_tokens": max_new_tokens}} if writes else {}
    return tree | decoding | ({"guard": "ranker"} if guard else {})


def _run(
    file: str,
    output: str,
    stages: list[dict[str, Any]],
    experts: list[str],
    columns: tuple[str, str],
    candidates: str | None,
    seed: int,
    quiet: bool,
    verbose: bool,
) -> None:
    from blender_med.cli.console import set_up_logging, stderr
    from blender_med.data.user_file import RANKS
    from blender_med.executors.local import LocalExecutor
    from blender_med.executors.progress import ProgressDisplay
    from blender_med.stages.blending import blend_rows, open_blend, temporary_folder

    set_up_logging(quiet=quiet, verbose=verbose)
    opened = _opened(file)
    questions = opened.questions(*columns)
    ranks = None if any(stage["type"] == "rank" for stage in stages) else RANKS
    given = None if candidates is None else opened.candidates(_listed(candidates), ranks)
    executor = LocalExecutor(ProgressDisplay(stderr, quiet=quiet))
    with temporary_folder() as folder:
        run = open_blend(stages, experts, Path(folder), seed=seed, verbose=verbose)
        added = blend_rows(run, opened, questions, executor, given)
    _write(output, opened, added)
    if not quiet:
        for note in run.notes:
            stderr.print(f"- {note}", soft_wrap=True)
        if output != "-":
            stderr.print(f"Rows with answers: {output}", soft_wrap=True)


def _listed(names: str) -> list[str]:
    from blender_med.errors import ConfigError

    found = [name.strip() for name in names.split(",") if name.strip()]
    if not found:
        raise ConfigError("no name in the list", value=names, fix="name at least one")
    return found


def _opened(file: str) -> UserFile:
    from blender_med.data.user_file import read_user_file
    from blender_med.errors import DataError

    if file == "-":
        return read_user_file(sys.stdin.buffer.read(), "standard input")
    path = Path(file)
    if not path.is_file():
        raise DataError("no such file", file=file, fix="correct the path, or write - to pipe")
    return read_user_file(path.read_bytes(), file)


def _write(output: str, file: UserFile, added: list[dict[str, Any]]) -> None:
    from blender_med.reports.user_file import write_rows, write_user_file

    if output == "-":
        write_rows(sys.stdout, file.format, file, added)
    else:
        write_user_file(Path(output), file, added)
