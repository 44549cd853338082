"""What starts several processes: what they share, and which launchers are refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from blender_med.errors import ConfigError
from blender_med.training import processes
from blender_med.training.trainer import check_launcher


class _Plugin(SimpleNamespace):
    def set_state_dict_type(self, kind: str) -> None:
        self.kind = kind


def _trainer(
    *, fsdp: bool = False, zero_stage: int | None = None, saves_whole: bool = True
) -> SimpleNamespace:
    plugin = SimpleNamespace(zero_stage=zero_stage, zero3_save_16bit_model=saves_whole)
    state = SimpleNamespace(
        deepspeed_plugin=None if zero_stage is None else plugin,
        fsdp_plugin=_Plugin() if fsdp else None,
    )
    return SimpleNamespace(is_fsdp_enabled=fsdp, accelerator=SimpleNamespace(state=state))


def test_launchers_that_spread_the_weights_are_refused_where_nothing_gathers_them() -> None:
    for trainer in (_trainer(fsdp=True), _trainer(zero_stage=3)):
        with pytest.raises(ConfigError, match="spread the weights"):
            check_launcher(trainer, gathers=False)
        check_launcher(trainer, gathers=True)
    for trainer in (_trainer(), _trainer(zero_stage=2)):
        check_launcher(trainer, gathers=False)


def test_spread_weights_are_saved_whole() -> None:
    fsdp = _trainer(fsdp=True)
    check_launcher(fsdp, gathers=True)
    assert fsdp.accelerator.state.fsdp_plugin.kind == "FULL_STATE_DICT"
    with pytest.raises(ConfigError, match="stage3_gather_16bit_weights_on_model_save"):
        check_launcher(_trainer(zero_stage=3, saves_whole=False), gathers=True)


def test_processes_share_all_items_and_none_twice(monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    shares = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        shares.append(processes.share(range(7)))
        assert processes.is_first() == (rank == 0)
    assert [list(own) for own in shares] == [[0, 3, 6], [1, 4], [2, 5]]


def test_one_process_has_everything() -> None:
    assert processes.process_count() == 1
    assert list(processes.share([1, 2])) == [1, 2]
    assert processes.gathered([1.0]) == [1.0]
    assert processes.from_first(lambda: "made") == "made"
