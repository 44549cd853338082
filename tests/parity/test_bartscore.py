"""BARTScore equals the authors' scorer."""

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from blender_med.metrics.bartscore import bart_score, multi_ref_bart_score

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "reference" / "bartscore"
# float32 sums in another order differ by about 1e-6 here; 1e-4 holds between processors.
TOLERANCE = 1e-4

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the reference values are not at hand")


@pytest.fixture(scope="module")
def expected():
    return json.loads((FOLDER / "expected.json").read_text())


@pytest.mark.parametrize("batch_tokens", [None, 1, 500])
def test_both_directions(expected, batch_tokens):
    settings = {
        "model": FOLDER / "model",
        "max_length": expected["max_length"],
        "batch_tokens": batch_tokens,
    }
    hypotheses, references = expected["hypotheses"], expected["references"]
    forward = bart_score(hypotheses, references, **settings)
    assert forward == pytest.approx(expected["score_hyp_to_ref"], abs=TOLERANCE)
    backward = bart_score(references, hypotheses, **settings)
    assert backward == pytest.approx(expected["score_ref_to_hyp"], abs=TOLERANCE)


def test_several_references(expected):
    case = expected["multi_ref"]
    n, references = case["n"], expected["references"]
    targets = [[references[i], references[(i + 1) % n]] for i in range(n)]
    scores = multi_ref_bart_score(
        expected["hypotheses"][:n], targets, agg=case["agg"], model=FOLDER / "model"
    )
    assert scores == pytest.approx(case["scores"], abs=TOLERANCE)
