"""``push_to_hub`` uploads everything that ``from_pretrained`` needs, and no pickle."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.utils import hub

from blender_med.rankers import RANKERS


class FakeHub:
    """Keeps what is uploaded in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.private: list[Any] = []

    def create_repo(self, repo_id: str, *, private: Any = None, **settings: Any) -> Any:
        self.private.append(private)
        return SimpleNamespace(repo_id=repo_id)

    def create_commit(self, *, repo_id: str, operations: Any, **settings: Any) -> str:
        for operation in operations:
            shutil.copy(operation.path_or_fileobj, self._folder / operation.path_in_repo)
        return repo_id


@pytest.mark.parametrize("kind", ["pairranker", "simcls", "summareranker"])
def test_what_is_pushed_loads_and_ranks_alike(kind, tiny_model, tmp_path, monkeypatch) -> None:
    fake = FakeHub(tmp_path)
    monkeypatch.setattr(hub, "hf_api", lambda: fake)
    card = SimpleNamespace(save=lambda path: Path(path).write_text("card"))
    monkeypatch.setattr(hub, "create_and_tag_model_card", lambda *given, **settings: card)
    torch.manual_seed(0)
    train = RANKERS.load(kind).from_backbone
    ranker = train(tiny_model("bert"), source_maxlength=24, candidate_maxlength=24).eval()
    ranker.push_to_hub("me/ranker", private=True)
    assert fake.private == [True]
    names = {file.name for file in tmp_path.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt"))]
    pushed = RANKERS.load(kind).from_pretrained(tmp_path)
    expected = ranker.rank(["what?"], [["a", "b c"]])[0].scores
    assert pushed.rank(["what?"], [["a", "b c"]])[0].scores == pytest.approx(expected, abs=1e-6)
