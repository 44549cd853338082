from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import pytest

from blender_med.data import files, load_passages, load_questions
from blender_med.data.files import split_of
from blender_med.errors import DataError

ROW = '{"question": "Q?", "reference": "r"}\n'


def zipped(entries: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in entries.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def test_folder_and_zip_in_name_order(write):
    folder = write("d/b.jsonl", ROW).parent
    write("d/a/z.jsonl", ROW)
    write("d/.hidden/x.jsonl", ROW)
    write("d/notes.md", "no data")
    write(
        "d/c.zip", zipped({"in/y.jsonl": ROW, "__MACOSX/in/y.jsonl": "junk", "in/readme.md": "x"})
    )
    questions = load_questions("jsonl", folder)
    assert [q.dataset for q in questions] == ["z", "b", "y"]
    assert not questions.quarantined


@pytest.mark.parametrize(
    "name", ["../evil.jsonl", "/etc/evil.jsonl", "a/../../evil.jsonl", "..\\evil.jsonl"]
)
def test_zip_entries_that_leave_the_archive_are_refused(write, name):
    path = write("d.zip", zipped({"good.jsonl": ROW, name: ROW}))
    questions = load_questions("jsonl", path)
    assert len(questions) == 1
    assert "leaves the archive" in questions.quarantined[0].reason
    assert {p.name for p in path.parent.iterdir()} == {"d.zip"}


def test_zip_bomb_is_refused_by_what_is_really_unpacked(write, monkeypatch):
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 1000)
    data = bytearray(zipped({"bomb.jsonl": "x" * 100_000, "good.jsonl": ROW}))
    questions = load_questions("jsonl", write("d.zip", bytes(data)))
    assert len(questions) == 1
    assert "too many bytes" in questions.quarantined[0].reason
    lying = bytes(data).replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    questions = load_questions("jsonl", write("lying.zip", lying))
    assert (len(questions), len(questions.quarantined)) == (1, 1)


def test_total_of_a_zip_is_bounded(write, monkeypatch):
    monkeypatch.setattr(files, "MAX_ZIP_BYTES", 2 * len(ROW))
    path = write("d.zip", zipped({f"{n}.jsonl": ROW for n in range(5)}))
    questions = load_questions("jsonl", path)
    assert (len(questions), len(questions.quarantined)) == (2, 3)


def test_gzip_bomb(write, monkeypatch):
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 1000)
    path = write("a.xml.gz", gzip.compress(b"<PubmedArticleSet>" + b" " * 100_000))
    with pytest.raises(DataError, match="unpacks to more"):
        load_passages("pubmed_abstracts", path)


def test_damaged_archives(write):
    good = zipped({"a.jsonl": ROW, "b.jsonl": ROW * 50})
    with pytest.raises(DataError, match="not a zip"):
        load_questions("jsonl", write("d.zip", b"PK rubbish"))
    with pytest.raises(DataError, match="not a zip"):
        load_questions("jsonl", write("t.zip", good[: len(good) // 2]))
    damaged = bytearray(good)
    damaged[40:44] = b"\xff\xff\xff\xff"
    questions = load_questions("jsonl", write("c.zip", bytes(damaged)))
    assert len(questions) + len(questions.quarantined) == 51
    folder = write("mixed/bad.zip", b"rubbish").parent
    write("mixed/a.jsonl", ROW)
    questions = load_questions("jsonl", folder)
    assert (len(questions), len(questions.quarantined)) == (1, 1)


def test_xml_entities_are_refused(write):
    bomb = '<!DOCTYPE a [<!ENTITY b "x"><!ENTITY c "&b;&b;">]><Document>&c;</Document>'
    with pytest.raises(DataError, match="unsafe XML"):
        load_questions("medquad", write("f/1.xml", bomb))
    outside = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><Document>&b;</Document>'
    with pytest.raises(DataError, match="unsafe XML"):
        load_questions("medquad", write("f/1.xml", outside))


@pytest.mark.parametrize(
    ("stem", "split"),
    [
        ("CDR_TrainingSet.PubTator", "train"),
        ("CDR_DevelopmentSet.PubTator", "dev"),
        ("phrases_no_exclude_test", "test"),
        ("validation-00000-of-00001", "dev"),
        ("val_data_prepared", "dev"),
        ("TREC-2017-LiveQA-Medical-Test", "test"),
        ("latest", "none"),
        ("device", "none"),
        ("ori_pqal", "none"),
    ],
)
def test_split_in_a_file_name(stem, split):
    assert split_of(stem, "none") == split


def test_paths_may_be_text_or_path(write):
    path = write("a.jsonl", ROW)
    assert load_questions("jsonl", str(path)) == load_questions("jsonl", Path(path))
