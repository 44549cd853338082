"""Prompts and fused texts of llm-blender 0.0.2 (reference/genfuser), on the very same weights."""

import json
from pathlib import Path

import pytest

from blender_med import Blender, BlenderConfig
from blender_med.fusers.genfuser import GenFuser

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "reference" / "genfuser"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the reference values are not at hand")


@pytest.fixture(scope="module")
def expected() -> dict:
    return json.loads((FOLDER / "expected.json").read_text())


@pytest.fixture(scope="module")
def fuser() -> GenFuser:
    return GenFuser.from_pretrained(FOLDER / "model", device="cpu")


def test_prompt_ids_are_those_of_llm_blender(fuser, expected):
    for case in expected["cases"]:
        prompt = fuser.formatter.encode(case["instruction"], case["input"], case["candidates"])
        assert list(prompt.ids) == case["prompt_ids"]
        assert prompt.candidates == len(case["candidates"])


def _fused(fuser: GenFuser, cases: list[dict], **settings) -> list[str]:
    columns = [[case[name] for case in cases] for name in ("instruction", "input", "candidates")]
    return fuser.fuse(*columns, **settings)


def test_fused_texts_are_those_of_llm_blender(fuser, expected):
    cases = expected["cases"]
    settings = {name: expected[name] for name in ("num_beams", "max_new_tokens")}
    assert _fused(fuser, cases, **settings) == [case["fused"] for case in cases]
    alone = [_fused(fuser, [case], **settings)[0] for case in cases]
    assert alone == [case["fused"] for case in cases]


def test_shared_keys_change_nothing(expected):
    plain = GenFuser.from_pretrained(FOLDER / "model", device="cpu", attn_implementation="eager")
    cases = expected["cases"]
    assert _fused(plain, cases) == [case["fused"] for case in cases]


def test_a_saved_checkpoint_keeps_the_texts(fuser, expected, tmp_path):
    """transformers 5 decides from the saved configuration whether T5 scales its last states."""
    fuser.save_pretrained(tmp_path)
    again = GenFuser.from_pretrained(tmp_path, device="cpu")
    assert again.engine.model.config.scale_decoder_outputs is False
    assert _fused(again, expected["cases"]) == [case["fused"] for case in expected["cases"]]


def test_blender_fuses_as_llm_blender(expected):
    blender = Blender(BlenderConfig(device="cpu", use_tqdm=False))
    blender.loadfuser(FOLDER / "model")
    cases = expected["cases"]
    inputs, candidates, instructions = (
        [case[name] for case in cases] for name in ("input", "candidates", "instruction")
    )
    fused = blender.fuse(inputs, candidates, instructions, batch_size=1)
    assert fused == [case["fused"] for case in cases]
    short = blender.fuse(inputs, candidates, instructions, max_new_tokens=3, num_beams=1)
    assert all(len(a) < len(b) for a, b in zip(short, fused, strict=True))
    assert blender.fuse(inputs, candidates, instructions, candidate_max_length=5) != fused
