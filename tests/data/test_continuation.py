"""Passages as questions about how they go on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blender_med.config import parse
from blender_med.data.config import DatasetConfig
from blender_med.data.continuation import Continuation, continuations, is_continuation
from blender_med.data.fingerprint import dataset_identity
from blender_med.data.loading import load_dataset_config
from blender_med.errors import ConfigError
from blender_med.records import Passage, Question

CUT = Continuation(prefix_words=10, target_words=9)


def passage(words: int, number: int = 0) -> Passage:
    text = "  ".join(f"w{i}\n" for i in range(words))
    return Passage(f"p{number}", "pubmed", "train", "t", text, None, {"pmid": "7"})


def test_stretches_are_disjoint_and_in_order() -> None:
    first, second = continuations([passage(40)], CUT)  # 19 + 19 words, 2 are left over
    assert first.question.split() == [f"w{i}" for i in range(10)]
    assert first.reference.split() == [f"w{i}" for i in range(10, 19)]
    assert second.question.split()[0] == "w19" and second.reference.split()[-1] == "w37"
    assert (first.id, second.id, first.task, first.split) == ("p0/0", "p0/1", "long", "train")
    assert first.meta == {"pmid": "7", "group": "p0", "question_type": "continuation"}
    assert is_continuation(first) and not is_continuation(Question("q", "d", "test", "long", "?"))


@pytest.mark.parametrize(("words", "found"), [(0, 0), (17, 0), (18, 1), (19, 1), (36, 1), (37, 2)])
def test_a_short_end_counts_where_eight_words_follow(words: int, found: int) -> None:
    own = list(continuations([passage(words)], CUT))
    assert len(own) == found
    assert all(8 <= len(q.reference.split()) <= 9 for q in own)


def test_a_data_set_of_passages_is_read_as_questions(tmp_path: Path) -> None:
    articles = {str(i): {"title": "t", "abstract": passage(40).text} for i in range(6)}
    file = tmp_path / "test.json"
    file.write_text(json.dumps(articles))
    tree = {"type": "pubmed_abstracts", "path": str(file)}
    plain = parse(DatasetConfig, tree)
    # What runs knew of a data set before this setting is unchanged.
    assert "continuation" not in dataset_identity(plain)["dataset"]
    cut = parse(DatasetConfig, tree | {"continuation": {"prefix_words": 10, "target_words": 9}})
    assert dataset_identity(cut)["dataset"]["continuation"]["prefix_words"] == 10
    questions = load_dataset_config(cut)
    assert len(questions) == 12 and len({q.id for q in questions}) == 12
    assert len(load_dataset_config(cut.model_copy(update={"limit": 5}))) == 5
    with pytest.raises(ConfigError, match="target_words"):
        parse(DatasetConfig, tree | {"continuation": {"target_words": 3}})
