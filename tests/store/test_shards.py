import pytest

from blender_med.errors import StoreError
from blender_med.records import Candidate, Score
from blender_med.store.files import atomic_path, canonical_sha256, tree_sha256, write_json
from blender_med.store.shards import part_path, part_rows, read_part, read_parts, write_part

SCORES = [Score(f"q{i}", "e", 0, "m", i / 3) for i in range(10)]


def test_round_trip_in_order_of_the_parts(tmp_path) -> None:
    write_part(part_path(tmp_path, "b"), SCORES[5:], Score)
    write_part(part_path(tmp_path, "a"), SCORES[:5], Score)
    assert list(read_parts(tmp_path, Score)) == SCORES


def test_nothing_is_left_when_writing_fails(tmp_path) -> None:
    target = tmp_path / "x"
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_old_file_stays_until_the_new_one_is_whole(tmp_path) -> None:
    target = tmp_path / "x.json"
    write_json(target, {"a": 1})
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == '{\n  "a": 1\n}\n'


@pytest.mark.parametrize("keep", [0, 10, -20])
def test_truncated_part_is_seen_and_named(tmp_path, keep: int) -> None:
    path = part_path(tmp_path, "a")
    write_part(path, SCORES, Score)
    content = path.read_bytes()
    path.write_bytes(content[:keep])
    assert part_rows(path, Score) is None
    with pytest.raises(StoreError, match=r"part-a\.parquet"):
        list(read_part(path, Score))


def test_part_of_another_record_type_does_not_count(tmp_path) -> None:
    path = part_path(tmp_path, "a")
    write_part(path, SCORES, Score)
    assert part_rows(path, Score) == 10
    assert part_rows(path, Candidate) is None


def test_write_error_names_the_file(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Fix:"):
        write_part(tmp_path / "file" / "part-a.parquet", SCORES, Score)


def test_canonical_hash_ignores_key_order() -> None:
    assert canonical_sha256({"a": 1, "b": [2]}) == canonical_sha256({"b": [2], "a": 1})


def test_tree_hash_sees_names_and_content(tmp_path) -> None:
    (tmp_path / "a").write_text("1")
    first = tree_sha256(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    second = tree_sha256(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({first, second, tree_sha256(tmp_path)}) == 3
