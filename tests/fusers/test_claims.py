"""What sentences claim: quantities in one form, names of drugs, polarity of clauses."""

import pytest

from blender_med.fusers.claims.drugs import drugs
from blender_med.fusers.claims.polarity import clauses, contradicted
from blender_med.fusers.claims.quantities import quantities
from blender_med.fusers.claims.words import sentences, stems


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two? Three!", ["One.", "Two?", "Three!"]),
        ("Take 2.5 mg. See Dr. Smith, e.g. today.", ["Take 2.5 mg.", "See Dr. Smith, e.g. today."]),
        ("Signs:\n- fever\n- cough\n\n1. Rest", ["Signs:", "fever", "cough", "Rest"]),
        ('He said "No." Then he left.', ['He said "No."', "Then he left."]),
        ("Candidate 1: Rest. **Candidate 2:** Ice.", ["Rest.", "Ice."]),
        ("1) Rest.\n(2) Ice.\n**3.** Heat.\n### 4. Sleep", ["Rest.", "Ice.", "Heat.", "Sleep"]),
        ("Causes: 1. Crystals. 2. Beer.", ["Causes: Crystals.", "Beer."]),
        ("Signs: 1. Fever 2. Cough 3. Pain", ["Signs: Fever Cough Pain"]),
        ("It brings (1) fever and (2) cough.", ["It brings fever and cough."]),
        ("It brings 1) fever, 2) cough.", ["It brings fever, cough."]),
        # No marks: quantities at a line's start, in parentheses, at a sentence's end, out of turn.
        ("Take\n2.5 mg daily.", ["Take", "2.5 mg daily."]),
        ("Diabetes (type 1) or (type 2) hurts.", ["Diabetes (type 1) or (type 2) hurts."]),
        ("The score is 1. The worst is 2. Rest.", ["The score is 1.", "The worst is 2.", "Rest."]),
        ("Between 2) and 5) it rises.", ["Between 2) and 5) it rises."]),
        ("Only 1) holds.", ["Only 1) holds."]),
        ("", []),
        (" \n ... ", []),
    ],
)
def test_sentences(text, expected):
    assert sentences(text) == expected


def test_stems_are_of_content_words():
    assert stems("The children were taken ill; they took 2 tablets.") == {
        "child",
        "take",
        "ill",
        "tablet",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("500 mg", [(500, "mg")]),
        ("0.5 g", [(500, "mg")]),
        ("300 micrograms", [(0.3, "mg")]),
        ("4,000mg", [(4000, "mg")]),
        ("5 to 10 percent", [(5, "%"), (10, "%")]),
        ("5-10%", [(5, "%"), (10, "%")]),
        ("140/90 mmHg", [(140, "mmhg"), (90, "mmhg")]),
        ("twice daily", [(2, "/day")]),
        ("3 times per day", [(3, "/day")]),
        ("every 8 hours", [(3, "/day")]),
        ("every 4 to 6 hours", [(6, "/day"), (4, "/day")]),
        ("Candidate 1 says the same as Candidates 2, 3 and 4", []),
        ("Answer 2 is right after 3 days", [(72, "hour")]),
        ("Response 2 weeks later", [(336, "hour")]),
        ("the candidate 20% better", [(20, "%")]),
        ("once or twice a day", [(1, "/day"), (2, "/day")]),
        ("1 in 100 people", [(0.01, "ratio")]),
        ("about one person in 100", [(0.01, "ratio")]),
        ("4 g in 24 hours", [(4000, "mg"), (24, "hour")]),
        ("two weeks", [(336, "hour")]),
        ("a two-year course", [(24, "month")]),
        ("two puffs", [(2, "")]),
        ("the two are one", []),
        ("type 2", [(2, "")]),
        ("vitamin B12, COVID-19, half of them", []),
        ("2.5 mg/kg", [(2.5, "mg/kg")]),
    ],
)
def test_quantities(text, expected):
    found = [(pytest.approx(q.value), q.unit) for q in quantities(text)]
    assert [(q.value, q.unit) for q in quantities(text)] == [
        (pytest.approx(value), unit) for value, unit in expected
    ], found


@pytest.mark.parametrize(
    ("claim", "fact", "given"),
    [
        ("0.5 g", "500 mg", True),
        ("500 mcg", "500 mg", False),
        ("2", "2 and 3", True),
        ("2 weeks", "2", False),
        ("14 days", "two weeks", True),
        ("4 times a day", "every 6 hours", True),
    ],
)
def test_given_by(claim, fact, given):
    (quantity,) = quantities(claim)
    assert any(quantity.given_by(other) for other in quantities(fact)) is given


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Acetaminophen and aspirin", {"paracetamol", "aspirin"}),
        ("atorvastatin, losartan, omeprazole", {"atorvastatin", "losartan", "omeprazole"}),
        ("Zelorfan 50 mg or 5 mg of it", {"zelorfan"}),
        ("Patients receive 50 mg; start taking 20 mg", set()),
        ("Statins lower cholesterol.", set()),
    ],
)
def test_drugs(text, names):
    assert set(drugs(text)) == names


def test_a_drug_has_its_place():
    assert drugs("Take ibuprofen, then ibuprofen") == {"ibuprofen": 5}


@pytest.mark.parametrize(
    ("claim", "facts", "expected"),
    [
        ("Asthma can be cured.", ["Asthma cannot be cured, but it can be controlled."], True),
        ("There is no cure for asthma.", ["Asthma cannot be cured."], False),
        ("It is safe in heart disease.", ["It is unsafe in heart disease."], True),
        ("It isn't contraindicated in pregnancy.", ["It is indicated in pregnancy."], False),
        ("Salt raises blood pressure.", ["Salt lowers blood pressure."], True),
        ("Less salt lowers blood pressure.", ["Reducing salt lowers blood pressure."], False),
        # One that agrees outweighs one that contradicts.
        ("Aspirin is safe.", ["Aspirin is not safe.", "Aspirin is safe."], False),
        # Too little in common to contradict.
        ("Gout is painful.", ["Pneumonia is not painful."], False),
        # Words about the answer claim nothing.
        ("The answer to this question is:", ["There is no answer to this question."], False),
    ],
)
def test_contradiction(claim, facts, expected):
    known = [clause for fact in facts for clause in clauses(fact)]
    assert any(contradicted(clause, known) for clause in clauses(claim)) is expected


def test_clauses_are_split_where_the_polarity_may_turn():
    first, second = clauses("It is safe and does not cause drowsiness.")
    assert (first.denied, second.denied) == (False, True)
    assert second.terms == {"caus", "drowsi"}
