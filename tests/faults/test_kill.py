"""A run that is killed at any moment and started again equals one that was never disturbed."""

from __future__ import annotations

import random
import signal
import subprocess
from collections import Counter

import pytest

SIGNALS = [signal.SIGKILL, signal.SIGINT] * 3 + [signal.SIGKILL]


def _assert_same(study, name, undisturbed) -> None:
    subprocess.run(study.command(name), check=True)
    assert study.results(study.runs / name) == study.results(undisturbed)
    assert not list((study.runs / name).rglob("*.tmp"))


def test_a_run_stopped_again_and_again_equals_an_undisturbed_one(study, undisturbed) -> None:
    total = study.files(undisturbed)
    points = sorted(random.Random(17).sample(range(1, total), len(SIGNALS)))
    cut = Counter(
        number
        for point, number in zip(points, SIGNALS, strict=True)
        if study.stop("killed", point, number)
    )
    assert cut[signal.SIGKILL] >= 3, "the signals came too late to test anything"
    assert cut[signal.SIGINT] >= 2, "the signals came too late to test anything"
    _assert_same(study, "killed", undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(50))
def test_killed_at_a_random_point(study, undisturbed, seed) -> None:
    """Each point has a run and a generation cache of its own."""
    rng = random.Random(seed)
    files = rng.randrange(study.files(undisturbed))
    study.stop("killed", files, signal.SIGKILL, delay=rng.random() * 0.03)
    _assert_same(study, "killed", undisturbed)
