"""The order of an epoch depends on seed and epoch alone, and a step's examples on no length."""

import numpy as np

from blender_med.training.batches import BatchMaker, EpochSampler, ExampleDataset

from .conftest import toy_example


def _epoch(sampler: EpochSampler, epoch: int) -> list[tuple[int, int]]:
    sampler.set_epoch(epoch)
    return list(sampler)


def test_an_epoch_has_every_example_once() -> None:
    sampler = EpochSampler(range(10), 4, seed=0)
    assert len(sampler) == 10
    assert sorted(_epoch(sampler, 3)) == [(3, i) for i in range(10)]


def test_the_order_follows_from_seed_and_epoch() -> None:
    first, again = (EpochSampler(range(50), 5, seed=1) for _ in range(2))
    _epoch(again, 0)
    assert _epoch(first, 2) == _epoch(again, 2)
    positions = [[i for _, i in _epoch(first, epoch)] for epoch in (0, 1)]
    assert positions[0] != positions[1]
    other = [i for _, i in _epoch(EpochSampler(range(50), 5, seed=2), 0)]
    assert other != positions[0]


def test_examples_of_a_step_stand_by_length_and_stay_in_their_step() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 23)
    sorted_order = [i for _, i in _epoch(EpochSampler(lengths, 8, seed=4), 1)]
    plain_order = [i for _, i in _epoch(EpochSampler([1] * 23, 8, seed=4), 1)]
    for start in range(0, 23, 8):
        step = sorted_order[start : start + 8]
        assert set(step) == set(plain_order[start : start + 8])
        assert (np.diff(lengths[step]) <= 0).all()


class _Recorder:
    def training_batch(self, examples, rng):
        return {"draws": [rng.integers(1000) for _ in examples], "examples": examples}


def test_what_is_drawn_follows_from_the_questions_of_a_batch_and_their_epoch() -> None:
    dataset = ExampleDataset([toy_example(number) for number in range(4)])
    maker = BatchMaker(_Recorder(), seed=7)
    batch = maker([dataset[0, 1], dataset[0, 2]])
    assert [e.question_id for e in batch["examples"]] == ["q1", "q2"]
    assert maker([dataset[0, 1], dataset[0, 2]]) == batch
    assert maker([dataset[1, 1], dataset[1, 2]])["draws"] != batch["draws"]
    assert maker([dataset[0, 1], dataset[0, 3]])["draws"] != batch["draws"]
