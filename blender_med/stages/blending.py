"""Blend, rank and fuse on a user's own questions, through the stages of a pipeline."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from blender_med.config import parse
from blender_med.data.user_file import UserFile
from blender_med.errors import ConfigError
from blender_med.experts.config import ExpertConfig
from blender_med.experts.loading import load_expert_config
from blender_med.models import local_folder
from blender_med.rankers import RANKERS
from blender_med.records import Candidate, FusedAnswer, Question, Ranking
from blender_med.stages.base import Run, Stage
from blender_med.stages.config import STAGES, FuseConfig, PipelineRecipe
from blender_med.stages.runner import Executor
from blender_med.store.files import read_json
from blender_med.store.shards import part_path, read_parts, write_part

New = dict[str, Any]  # new cells of a row, by column

_NEED_NOTHING = ("bm25", "embedding")
_FUSED = ("fused_answer", "fused_outcome")
_GUARDED = ("guard_kept", "guard_margin")
_RANKED = ("best_candidate", "candidate_ranks", "candidate_scores")
_GENERATED = ("candidates", "candidate_experts")


def ranker_tree(name: str) -> dict[str, Any]:
    """Recipe of a ranker that a command line names.

    Args:
        name: ``bm25``, ``embedding``, or the model of a trained ranker: a folder, a Hub id or
            ``package:NAME``. A folder says itself of which type it is; others are PairRankers.
    """
    if name in _NEED_NOTHING:
        return {"type": name, "name": name}
    folder = local_folder(name)
    config = read_json(folder / "config.json") if folder is not None else None
    found = config.get("model_type") if isinstance(config, dict) else None
    trained = found if found in RANKERS else "pairranker"
    return {"type": trained, "model": name, "name": "ranker"}


def fuser_tree(name: str) -> dict[str, Any]:
    """Recipe of a fuser that a command line names.

    Args:
        name: ``concatenation``, ``expert:NAME``, ``aggregate:NAME`` (an expert with the prompt of
            Mixture-of-Agents), or a model: a folder, a Hub id or ``package:NAME``, behind
            ``vllm:`` where vLLM is to serve it.
    """
    kind, _, named = name.partition(":")
    if name == "concatenation":
        return {"type": "concatenation"}
    if kind == "expert":
        return {"type": "genfuser", "expert": named}
    if kind == "aggregate":
        return {"type": "aggregate", "expert": named}
    if kind == "vllm":
        return {"type": "genfuser", "model": named, "engine": "vllm"}
    return {"type": "genfuser", "model": name}


def open_blend(
    stages: Sequence[Mapping[str, Any]],
    experts: Sequence[str],
    folder: Path,
    *,
    seed: int = 0,
    verbose: bool = False,
) -> Run:
    """A run of some stages.

    Args:
        stages: Their recipes.
        experts: Names or paths of recipes of experts.
        folder: Where the run keeps its shards.
        seed: Of the run.
        verbose: Let the engines' own logs through.

    Raises:
        ConfigError: A recipe is wrong, or two experts have one name.
    """
    configs = tuple(load_expert_config(name, key="--experts") for name in experts)
    _check_names(configs)
    names = {source: config.name for source, config in zip(experts, configs, strict=True)}
    tree = {
        "name": "file",
        "seed": seed,
        "dataset": {"type": "jsonl"},
        "experts": list(experts) or ["given"],
        "stages": [_with_names(stage, names) for stage in stages],
    }
    recipe = parse(PipelineRecipe, tree)
    return Run(recipe, configs, folder, verbose=verbose)


def _with_names(stage: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The stage with the names of experts in place of the paths of their recipes."""
    fusers = [
        fuser | {key: names.get(fuser[key], fuser[key]) for key in ("expert",) if key in fuser}
        for fuser in stage.get("fusers", ())
    ]
    return {**stage, **({"fusers": fusers} if fusers else {})}


def _check_names(configs: Sequence[ExpertConfig]) -> None:
    names = [config.name for config in configs]
    for name in names:
        if names.count(name) > 1:
            fix = "name each expert once"
            raise ConfigError(
                "two experts have the same name", key="--experts", value=name, fix=fix
            )


def new_columns(run: Run, *, given: bool) -> list[str]:
    """Columns that :func:`blend_rows` adds.

    Args:
        run: From :func:`open_blend`.
        given: Whether the candidates stand in the user's file.
    """
    fuse = run.recipe.stage("fuse")
    columns = [] if given else [*_GENERATED]
    columns += [*_RANKED] if run.recipe.stage("rank") else []
    columns += [*_FUSED] if isinstance(fuse, FuseConfig) else []
    guarded = isinstance(fuse, FuseConfig) and fuse.fusers[0].guard
    return columns + ([*_GUARDED] if guarded else [])


def blend_rows(
    run: Run,
    file: UserFile,
    questions: Sequence[Question],
    executor: Executor,
    given: Sequence[Candidate] | None = None,
) -> list[New]:
    """Run the stages on a file; the new cells of each row.

    Args:
        run: From :func:`open_blend`.
        file: The user's rows.
        questions: One for each row.
        executor: Runs the stages.
        given: The candidates of the questions; None asks the experts.

    Raises:
        DataError: A new column stands in the file already.
        BlenderMedError: What the stages raise.
    """
    file.check_free(new_columns(run, given=given is not None))
    stages = [_stage(run, name) for name in run.recipe.stage_names()]
    _write(run, "prepare", questions, Question)
    if given is not None:
        _write(run, "generate", given, Candidate)
    for stage in stages:
        units = stage.plan(stage.shard_size)
        executor.execute(stage, units, sum(unit.size for unit in units))
    _note_cut_answers(run)
    cells = _cells(run, generated=given is None)
    return [cells[question.id] for question in questions]


def _stage(run: Run, name: str) -> Stage:
    config = run.recipe.stage(name)
    stage: Stage = STAGES.load(name)(config, run)
    return stage


def _write(run: Run, stage: str, records: Sequence[Any], record_type: Any) -> None:
    path = part_path(run.stage_folder(stage), "file")
    write_part(path, records, record_type)


def _cells(run: Run, *, generated: bool) -> dict[str, New]:
    """New cells by question id, in the order of :func:`new_columns`."""
    by_question: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in _candidates(run, generated=generated):
        by_question[candidate.question_id].append(candidate)
    cells: dict[str, New] = defaultdict(dict)
    for question_id, own in by_question.items() if generated else ():
        values = ([c.text for c in own], [c.key for c in own])
        cells[question_id] |= dict(zip(_GENERATED, values, strict=True))
    for ranking in read_parts(run.stage_folder("rank"), Ranking):
        cells[ranking.question_id] |= _ranked(ranking, by_question[ranking.question_id])
    for fused in _last(read_parts(run.stage_folder("fuse"), FusedAnswer)):
        text = fused.text.strip() if generated else fused.text
        cells[fused.question_id] |= dict(zip(_FUSED, (text, fused.outcome), strict=True))
        if fused.kept is not None:
            verdict = (fused.kept, fused.margin)
            cells[fused.question_id] |= dict(zip(_GUARDED, verdict, strict=True))
    return cells


def _candidates(run: Run, *, generated: bool) -> Iterator[Candidate]:
    """Given ones as they are; those of experts in the order of the experts, without blank ends."""
    stored = read_parts(run.stage_folder("generate"), Candidate)
    if not generated:
        yield from stored
        return
    places = {expert.name: place for place, expert in enumerate(run.experts)}
    for candidate in sorted(stored, key=lambda candidate: places[candidate.expert]):
        yield replace(candidate, text=candidate.text.strip())


def _note_cut_answers(run: Run) -> None:
    """Say how many answers were cut at the longest length."""
    answers = read_parts(run.stage_folder("generate"), Candidate)
    fusions = read_parts(run.stage_folder("fuse"), FusedAnswer)
    reasons = {
        "of experts": [answer.finish_reason for answer in answers],
        "that were fused": [fused.finish_reason for fused in fusions if fused.kept is None],
    }
    for whose, own in reasons.items():
        if cut := own.count("length"):
            run.note(f"{cut} of {len(own)} answers {whose} were cut: see --max-new-tokens")


def _ranked(ranking: Ranking, candidates: Sequence[Candidate]) -> New:
    """Ranks and scores in the order of the candidates."""
    texts = {candidate.key: candidate.text for candidate in candidates}
    ranks = dict(zip(ranking.candidates, ranking.ranks, strict=True))
    scores = dict(zip(ranking.candidates, ranking.scores, strict=True))
    best = ranking.candidates[ranking.ranks.index(1)]
    values = (texts[best], [ranks[key] for key in texts], [scores[key] for key in texts])
    return dict(zip(_RANKED, values, strict=True))


def _last(fusions: Iterable[FusedAnswer]) -> list[FusedAnswer]:
    """The guarded answer of each question where there is one, else the plain one."""
    found: dict[str, FusedAnswer] = {}
    for fused in fusions:
        known = found.get(fused.question_id)
        if known is None or known.kept is None:
            found[fused.question_id] = fused
    return list(found.values())


def temporary_folder() -> TemporaryDirectory[str]:
    """A folder for a run that is not kept; every expert's answer stays in the cache."""
    return TemporaryDirectory(prefix="blender-med-")
