import pytest

from blender_med.errors import StoreError
from blender_med.store.cache import GenerationCache


def test_answers_survive_reopening(tmp_path) -> None:
    cache = GenerationCache("id", tmp_path)
    cache.put({f"k{i}": [i, {"text": "é\n"}] for i in range(1200)})
    cache.close()
    again = GenerationCache("id", tmp_path)
    found = again.get([f"k{i}" for i in range(1201)])
    assert len(found) == 1200
    assert found["k7"] == [7, {"text": "é\n"}]


def test_identities_do_not_mix(tmp_path) -> None:
    GenerationCache("one", tmp_path).put({"k": 1})
    assert GenerationCache("two", tmp_path).get(["k"]) == {}


def test_damaged_file_is_a_clear_error(tmp_path) -> None:
    (tmp_path / "id.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match=r"id\.sqlite.*Fix: delete this file"):
        GenerationCache("id", tmp_path).get(["k"])
