"""The methods of stage fuse, and what can be seen of them before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from blender_med.errors import ConfigError
from blender_med.fusers.applied import (
    GUARDED,
    AppliedEmbedding,
    AppliedGenFuser,
    FuserToApply,
    WritingFuser,
)
from blender_med.models import local_folder, read_config
from blender_med.rankers.config import AppliedMean, RankerToApply, check_source
from blender_med.registry import suggestion
from blender_med.stages.base import Run
from blender_med.stages.config import EmbedConfig, FuseConfig, RankConfig, TrainFuserConfig
from blender_med.stages.fusing.experts import prompt_room
from blender_med.stages.fusing.served import check_served
from blender_med.stages.gate_config import TrainGateConfig
from blender_med.stages.methods import METHODS
from blender_med.stages.rank import ranked_tasks
from blender_med.training.embedding_config import EmbeddingFuserJob
from blender_med.training.fuser_config import FuserJob


class Role(NamedTuple):
    """A method of the stage: a fuser, or its guard."""

    fuser: FuserToApply
    position: int
    is_guard: bool

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.fuser.method + (GUARDED if self.is_guard else "")

    @property
    def key(self) -> str:
        """Key of the fuser in the recipe, for messages."""
        return f"fuse.fusers.{self.position}"


def roles_of(config: FuseConfig) -> list[Role]:
    """The methods of a recipe, a guard behind its fuser."""
    return [
        Role(fuser, position, is_guard)
        for position, fuser in enumerate(config.fusers)
        for is_guard in ((False, True) if fuser.guard else (False,))
    ]


def rankers_of(run: Run) -> dict[str, RankerToApply]:
    """Rankers of a run, by method."""
    rank = run.recipe.stage("rank")
    rankers = rank.rankers if isinstance(rank, RankConfig) else ()
    return {ranker.method: ranker for ranker in rankers}


def ranker_of(role: Role, run: Run) -> str | None:
    """Ranker that orders the candidates of a fuser, or that of its guard; None for none."""
    named = (role.fuser.guard_ranker if role.is_guard else None) or role.fuser.ranker
    return named or next(iter(rankers_of(run)), None)


def trained_fusers(run: Run) -> dict[str, FuserJob]:
    """Training jobs of a run's fusers, by name."""
    stage = run.recipe.stage("train-fuser")
    return {job.name: job for job in stage.jobs} if isinstance(stage, TrainFuserConfig) else {}


def trained_writers(run: Run) -> dict[str, EmbeddingFuserJob]:
    """Training jobs of a run's embedding fusers that write, by name."""
    stage = run.recipe.stage("train-gate")
    jobs = stage.jobs if isinstance(stage, TrainGateConfig) else ()
    return {job.name: job for job in jobs if job.writes}


def origin_of(fuser: AppliedGenFuser, run: Run) -> str:
    """The weights of a fuser, or those that it is trained from."""
    if fuser.trained is not None:
        return trained_fusers(run)[fuser.trained].fuser.backbone
    return str(fuser.model)


def check_role(role: Role, run: Run, splits: Sequence[str] | None) -> None:
    """Check a method of the stage.

    Args:
        role: The method.
        run: The run.
        splits: Of the stage; None takes those that are ranked.

    Raises:
        ConfigError: Its name is taken, or it names what the run does not have.
        MissingDependencyError: It needs vLLM, which is not installed.
    """
    _check_method(role, run)
    _check_ranker(role, run, splits)
    fuser = role.fuser
    if role.is_guard:
        return
    if isinstance(fuser, AppliedEmbedding):
        _check_embedding(fuser, role.key, run, splits)
    elif isinstance(fuser, WritingFuser) and fuser.asked_expert is not None:
        experts = {expert.name: expert for expert in run.experts}
        _check_known("expert", fuser.asked_expert, list(experts), f"{role.key}.expert")
        prompt_room(experts[fuser.asked_expert], fuser, role.key)
    elif isinstance(fuser, AppliedGenFuser):
        _check_genfuser(fuser, role.key, run)


def _check_genfuser(fuser: AppliedGenFuser, key: str, run: Run) -> None:
    if fuser.trained is not None:
        _check_known("fuser", fuser.trained, list(trained_fusers(run)), f"{key}.trained")
    else:
        check_source(str(fuser.model), f"{key}.model")
    if fuser.engine == "vllm":
        check_served(origin_of(fuser, run), key)


def _check_embedding(
    fuser: AppliedEmbedding, key: str, run: Run, splits: Sequence[str] | None
) -> None:
    if fuser.trained is not None:
        kind = "embedding fuser that writes"
        _check_known(kind, fuser.trained, list(trained_writers(run)), f"{key}.trained")
    else:
        check_source(str(fuser.model), f"{key}.model")
    embed = run.recipe.stage("embed")
    if not isinstance(embed, EmbedConfig):
        return  # that it is there is the chain's concern
    folder = None if fuser.model is None else local_folder(fuser.model)
    reads = read_config(folder).get("gate_input") if folder is not None else None
    if reads == "question" and embed.question_encoder is None:
        fix = "give stage embed the question_encoder that the fuser was trained with"
        raise ConfigError("the fuser's gate reads embeddings of the questions", key=key, fix=fix)
    if "question" not in embed.texts:
        fix = "add 'question' to 'texts' of stage embed"
        raise ConfigError("an embedding fuser reads the states of the question", key=key, fix=fix)
    rank = run.recipe.stage("rank")
    ranked = rank.splits if isinstance(rank, RankConfig) else None
    missing = [split for split in splits or ranked or ("train", "dev", "test")
               if embed.splits is not None and split not in embed.splits]  # fmt: skip
    if missing:
        fix = f"add {', '.join(missing)} to 'splits' of stage embed, or set 'splits' of fuse"
        raise ConfigError(f"stage embed leaves out split {missing[0]}", key=key, fix=fix)


def _check_method(role: Role, run: Run) -> None:
    if role.method in METHODS or role.method in rankers_of(run):
        fix = "give the fuser another 'name'"
        problem = "a method of another kind has this name"
        raise ConfigError(problem, key=f"{role.key}.name", value=role.method, fix=fix)


def _check_ranker(role: Role, run: Run, splits: Sequence[str] | None) -> None:
    name, rankers = ranker_of(role, run), rankers_of(run)
    key = f"{role.key}.{'guard_ranker' if role.is_guard else 'ranker'}"
    if name is None:
        if role.is_guard:
            fix = "add stage rank before fuse, or leave the guard out"
            raise ConfigError("a guard needs a ranker", key=f"{role.key}.guard", fix=fix)
        return
    _check_known("ranker", name, list(rankers), key)
    if role.is_guard and isinstance(rankers[name], AppliedMean):
        problem = "of two texts a mean of rankers only says how many rankers prefer which"
        fix = "name one of its rankers with guard_ranker"
        raise ConfigError(problem, key=key, value=name, fix=fix)
    if "long" not in ranked_tasks(run, rankers[name]):
        fix = "name a ranker with a label of long answers"
        raise ConfigError("this ranker ranks no long answers", key=key, value=name, fix=fix)
    rank = run.recipe.stage("rank")
    ranked = rank.splits if isinstance(rank, RankConfig) else None
    for split in splits or ():
        if ranked is not None and split not in ranked:
            fix = "add it to 'splits' of stage rank"
            raise ConfigError("this split is not ranked", key="fuse.splits", value=split, fix=fix)


def _check_known(kind: str, name: str, known: Sequence[str], key: str) -> None:
    if name not in known:
        fix = suggestion(name, known) if known else f"name a {kind} that comes before stage fuse"
        raise ConfigError(f"this run has no such {kind}", key=key, value=name, fix=fix)
