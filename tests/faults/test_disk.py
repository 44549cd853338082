"""Disks that are full and folders that cannot be written: one message, then the run goes on.

The system itself refuses: a small tmpfs and a read-only mount inside a namespace of the test's own,
and a limit on the size of files.
"""

from __future__ import annotations

import resource
import shlex
import subprocess
import sys

import pytest

from blender_med.stages.runner import open_run, status

NAMESPACE = ["unshare", "--mount", "--user", "--map-root-user", "sh", "-ec"]


def in_namespace(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*NAMESPACE, script], capture_output=True, text=True)


@pytest.fixture(scope="module", autouse=True)
def _namespaces() -> None:
    if in_namespace("true").returncode:
        pytest.skip("this machine gives no user namespaces")


def on_a_small_disk(study, place, kilobytes: int) -> list[subprocess.CompletedProcess[str]]:
    """A run with ``place`` on a full disk, then again with room; results go to ``study.folder``."""
    place.mkdir(parents=True)
    command = shlex.join(study.command("full"))
    files = [study.folder / f"{n}.{end}" for n in (1, 2) for end in ("out", "err")]
    kept = study.folder / "kept"
    done = in_namespace(
        f"mount -t tmpfs -o size={kilobytes}k none {place}\n"
        f"code=0; {command} >{files[0]} 2>{files[1]} || code=$?\n"
        f"mount -o remount,size=60m {place}\n"
        f"again=0; {command} >{files[2]} 2>{files[3]} || again=$?\n"
        f"cp -a {study.runs} {kept}; echo $code $again"
    )
    codes = [int(code) for code in done.stdout.split()]
    texts = [file.read_text() for file in files]
    return [
        subprocess.CompletedProcess(command, code, texts[2 * i], texts[2 * i + 1])
        for i, code in enumerate(codes)
    ]


@pytest.mark.parametrize(
    "kilobytes",
    [
        pytest.param(8, marks=pytest.mark.slow),
        pytest.param(40, marks=pytest.mark.slow),
        100,
        pytest.param(180, marks=pytest.mark.slow),
    ],
)
def test_a_full_disk(study, undisturbed, one_message, kilobytes: int) -> None:
    full, again = on_a_small_disk(study, study.runs, kilobytes)
    assert "No space left on device" in one_message(full)
    assert again.returncode == 0, again.stderr
    assert study.results(study.folder / "kept" / "full") == study.results(undisturbed)


def test_a_full_disk_of_the_cache(study, undisturbed, one_message, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("BLENDER_MED_CACHE", str(tmp_path / "cache"))
    full, again = on_a_small_disk(study, tmp_path / "cache", 60)
    assert "free disk space" in one_message(full)
    assert again.returncode == 0, again.stderr
    assert study.results(study.folder / "kept" / "full") == study.results(undisturbed)


def test_a_limit_on_the_size_of_files(study, undisturbed, one_message) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))

    assert "too large" in one_message(study.run("limited", preexec_fn=limit)).lower()
    assert study.run("limited").returncode == 0
    assert study.results(study.runs / "limited") == study.results(undisturbed)


@pytest.mark.parametrize("place", ["runs", "whole", "cache"])
def test_a_read_only_folder(study, finished, undisturbed, one_message, place, monkeypatch) -> None:
    cache = study.folder / "cache"
    cache.mkdir()
    monkeypatch.setenv("BLENDER_MED_CACHE", str(cache))
    folder = {"runs": study.runs, "whole": finished, "cache": cache}[place]
    (finished / "generate" / "manifest.json").unlink()
    next((finished / "generate").glob("part-*")).unlink()
    command = shlex.join(study.command("new" if place == "runs" else "whole"))
    refused = in_namespace(
        f"mount --bind {folder} {folder}; mount -o remount,ro,bind {folder}\n{command}"
    )
    assert str(folder) in one_message(refused)
    assert study.run("whole").returncode == 0
    assert study.results(finished) == study.results(undisturbed)


def test_the_state_of_a_run_on_a_read_only_disk(finished) -> None:
    script = f"mount --bind {finished} {finished}; mount -o remount,ro,bind {finished}\n"
    command = f"{sys.executable} -m blender_med status {finished}"
    done = in_namespace(script + command)
    assert done.stdout.count("finished") >= len(status(open_run(finished)))
