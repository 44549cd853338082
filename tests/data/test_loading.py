from __future__ import annotations

import subprocess
import sys
from collections import Counter
from hashlib import sha256

import pytest

import blender_med
from blender_med.config import parse
from blender_med.data import Questions, load_dataset_config, load_passages, load_questions
from blender_med.data.config import DATASETS, DatasetConfig
from blender_med.data.fingerprint import dataset_identity
from blender_med.errors import BlenderMedError, ConfigError, DataError


def rows(n: int) -> list[dict[str, str]]:
    return [{"question": f"Question {i}?", "reference": "r"} for i in range(n)]


def test_public_names():
    assert blender_med.load_questions is load_questions
    assert blender_med.load_passages is load_passages


def test_import_is_light():
    heavy = "{'datasets', 'pyarrow', 'numpy', 'lxml', 'datasketch', 'torch', 'pandas'}"
    code = f"import sys, blender_med.data; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_type_names_a_loader():
    for name in DATASETS:
        assert DATASETS.load(name).name == name


def test_limit_is_a_fixed_spread_in_file_order(write):
    path = write("m.jsonl", rows(300))
    questions = load_questions("jsonl", path)
    limited = load_questions("jsonl", path, limit=40)
    lowest = sorted((q.id for q in questions), key=lambda i: sha256(i.encode()).digest())[:40]
    assert [q.id for q in limited] == [q.id for q in questions if q.id in set(lowest)]
    smaller = {q.id for q in load_questions("jsonl", path, limit=10)}
    assert smaller < {q.id for q in limited}
    assert len(load_questions("jsonl", path, limit=1000)) == 300


def test_limit_counts_after_the_split(write):
    marked = [{**row, "split": "test" if i % 3 else "dev"} for i, row in enumerate(rows(60))]
    questions = load_questions("jsonl", write("m.jsonl", marked), split="dev", limit=15)
    assert len(questions) == 15
    assert {q.split for q in questions} == {"dev"}


def test_where_keeps_the_values_named(write):
    marked = [{**row, "source": "ABC"[i % 3]} for i, row in enumerate(rows(30))]
    path = write("m.jsonl", marked)
    found = parse(
        DatasetConfig, {"type": "jsonl", "path": str(path), "where": {"source": ["A", "C"]}}
    )
    assert [q.meta["source"] for q in load_dataset_config(found)] == ["A", "C"] * 10
    wrong = found.model_copy(update={"where": {"source": ("Bb",)}})
    with pytest.raises(DataError, match="did you mean 'B'") as caught:
        load_dataset_config(wrong)
    assert caught.value.key == "dataset.where.source"


def test_a_share_of_the_documents_keeps_them_whole(write):
    marked = [{**row, "group": f"g{i // 3}"} for i, row in enumerate(rows(600))]
    tree = {"type": "jsonl", "path": str(write("m.jsonl", marked)), "columns": {"group": "group"}}
    groups = {}
    for share in (0.1, 0.5, 1.0):
        found = load_dataset_config(parse(DatasetConfig, tree | {"documents": share}))
        groups[share] = Counter(q.meta["group"] for q in found)
        assert set(groups[share].values()) == {3}
    assert set(groups[0.1]) < set(groups[0.5]) < set(groups[1.0])
    assert len(groups[1.0]) == 200
    assert 70 <= len(groups[0.5]) <= 130  # four standard deviations around 100


def test_choices_that_are_not_made_leave_the_identity_as_it_was(write):
    path = str(write("m.jsonl", rows(3)))
    plain = dataset_identity(parse(DatasetConfig, {"type": "jsonl", "path": path}))
    assert not {"where", "documents"} & set(plain["dataset"])
    chosen = parse(DatasetConfig, {"type": "jsonl", "path": path, "documents": 0.5})
    assert dataset_identity(chosen)["dataset"]["documents"] == 0.5


def test_missing_split_names_those_there_are(write):
    with pytest.raises(DataError, match="train") as caught:
        load_questions("jsonl", write("m.jsonl", rows(2)), split="dev")
    assert caught.value.key == "dataset.split"


@pytest.mark.parametrize("limit", [0, -1, "many", 1.5])
def test_wrong_limit(write, limit):
    with pytest.raises(ConfigError, match="limit"):
        load_questions("jsonl", write("m.jsonl", rows(2)), limit=limit)


def test_unknown_type():
    with pytest.raises(ConfigError, match="did you mean 'medquad'"):
        load_questions("medquda")


@pytest.mark.parametrize("name", ["jsonl", "medmcqa", "medqa", "pubmedqa", "medquad", "liveqa_med"])
def test_missing_file(name, tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        load_questions(name, tmp_path / "none" / "x.json")


@pytest.mark.parametrize("name", ["jsonl", "csv", "medmcqa", "medqa", "pubmedqa", "medical_meadow"])
@pytest.mark.parametrize("content", ["", "\n \n", "[]"])
def test_empty_file(name, content, write):
    if name == "csv" and content == "[]":
        content = "question,reference\n"
    with pytest.raises(DataError, match=r"empty|no header"):
        load_questions(name, write("x.json", content))


def test_empty_folder(tmp_path):
    with pytest.raises(DataError, match="empty"):
        load_questions("medmcqa", tmp_path)


def test_an_unreachable_hub_is_a_clear_error(monkeypatch):
    import datasets

    def fail(*args, **kwargs):
        raise ConnectionError("offline\nmore lines")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match="offline") as caught:
        load_questions("medmcqa", "no/such-set")
    assert "local file" in caught.value.fix
    assert "more lines" not in str(caught.value)


def test_recipe_and_arguments_agree(write):
    path = write("m.jsonl", rows(9))
    config = parse(DatasetConfig, {"type": "jsonl", "path": str(path), "limit": 5})
    loaded = load_dataset_config(config)
    assert isinstance(loaded, Questions)
    assert loaded == load_questions("jsonl", path, limit=5)


def test_strict_names_the_first_malformed_row(write):
    path = write("m.jsonl", [*rows(2), {"question": "No answer?"}, "x"])
    with pytest.raises(DataError) as caught:
        load_questions("jsonl", path, strict=True)
    assert (caught.value.file, caught.value.row) == (str(path), "3")
    assert isinstance(caught.value, BlenderMedError)


def test_ids_are_stable_and_unique(write):
    path = write("m.jsonl", [*rows(5), *rows(5)])
    ids = [q.id for q in load_questions("jsonl", path)]
    assert len(set(ids)) == 10
    assert ids == [q.id for q in load_questions("jsonl", path)]


def test_questions_survive_the_store(write):
    from blender_med.records import Question
    from blender_med.store.tables import from_table, to_table

    strange = {"question": "a\ud800b\x00c", "reference": "\udcff", "options": None}
    (question,) = load_questions("jsonl", write("m.jsonl", [strange]))
    assert question.question == "a�bc"
    assert list(from_table(to_table([question], Question), Question)) == [question]
