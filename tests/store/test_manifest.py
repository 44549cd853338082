import subprocess
import sys

import pytest

from blender_med.errors import StoreError
from blender_med.store.lock import run_lock
from blender_med.store.manifest import (
    Manifest,
    Progress,
    fingerprint,
    provenance,
    read_manifest,
    read_progress,
    write_manifest,
    write_progress,
)


def test_round_trip(tmp_path) -> None:
    manifest = Manifest(
        stage="score", fingerprint="f", identity={"a": 1}, inputs={}, parts={"x": 2}, rows=2,
        seconds=0.1, finished="t", provenance=provenance(),
    )  # fmt: skip
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    progress = Progress(fingerprint="f", units=["x"], shard_size=3)
    write_progress(tmp_path, progress)
    assert read_progress(tmp_path) == progress


@pytest.mark.parametrize("text", ["", "{", "[]", '{"stage": 1}', "null"])
def test_damaged_manifest_counts_as_missing(tmp_path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    assert read_manifest(tmp_path) is None


def test_fingerprint_depends_on_settings_and_inputs() -> None:
    base = fingerprint("s", {"a": 1}, {"x": "1"})
    others = {
        fingerprint("s", {"a": 2}, {"x": "1"}),
        fingerprint("s", {"a": 1}, {"x": "2"}),
        fingerprint("t", {"a": 1}, {"x": "1"}),
    }
    assert base not in others
    assert len(others) == 3


def test_second_run_in_one_folder_is_refused_with_the_first_ones_pid(tmp_path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from blender_med.store.lock import run_lock\n"
        f"with run_lock(Path({str(tmp_path)!r})): print('held', flush=True); time.sleep(60)"
    )
    first = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout is not None
        assert first.stdout.readline().strip() == "held"
        with pytest.raises(StoreError, match=str(first.pid)), run_lock(tmp_path):
            pass
    finally:
        first.kill()
        first.wait()
    with run_lock(tmp_path):
        pass
