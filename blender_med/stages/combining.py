"""Methods of a pipeline's own stages, by its recipe."""

from __future__ import annotations

from blender_med.stages.config import FuseConfig, PipelineRecipe, RankConfig
from blender_med.stages.gate_config import (
    ROUTE_METHOD,
    GateStageConfig,
    RouteConfig,
    TrainGateConfig,
)
from blender_med.training.embedding_config import EmbeddingFuserJob


def combining_methods(recipe: PipelineRecipe) -> tuple[str, ...]:
    """Methods that combine experts: those of the stages rank, fuse, gate and route."""
    stages = (s for s in recipe.stages if isinstance(s, (RankConfig, FuseConfig)))
    made = (method for stage in stages for method in stage.methods)
    return (*made, *_gated(recipe), *routed_methods(recipe))


def routed_methods(recipe: PipelineRecipe) -> tuple[str, ...]:
    """Methods of stage route; () without one.

    Beside the answer of the first expert: what each ranker puts first among the routed experts,
    where they are several and the rankers have seen others too.
    """
    rank, route = recipe.stage("rank"), recipe.stage("route")
    if not isinstance(route, RouteConfig):
        return ()
    is_ahead = recipe.stands_before("route", "generate")
    if not isinstance(rank, RankConfig) or route.experts_per_question == 1 or is_ahead:
        return (ROUTE_METHOD,)
    return (ROUTE_METHOD, *(f"{ROUTE_METHOD}:{method}" for method in rank.methods))


def _gated(recipe: PipelineRecipe) -> tuple[str, ...]:
    """Embedding fusers; one that is trained on a single expert, or chosen among such, is none."""
    gate, training = recipe.stage("gate"), recipe.stage("train-gate")
    if not isinstance(gate, GateStageConfig):
        return ()
    jobs: tuple[EmbeddingFuserJob, ...] = ()
    if isinstance(training, TrainGateConfig):
        jobs = (*training.fusers, *training.jobs)
    probes: dict[str, tuple[str, ...]] = {
        job.name: job.experts for job in jobs if job.experts and len(job.experts) == 1
    }
    found: list[str] = []
    for fuser in gate.fusers:
        sources = fuser.among or fuser.mean_of or (str(fuser.trained),)
        read = {probes.get(source, ()) for source in sources}
        # The best of probes is a probe; their mean is one where they read the same expert.
        experts = {name for own in read for name in own}
        if () in read or (fuser.mean_of and len(experts) > 1):
            found += fuser.methods
        else:
            probes[fuser.method] = tuple(sorted(experts))
    return tuple(found)
