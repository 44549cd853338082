from __future__ import annotations

import io
import zipfile
from collections import Counter

import pytest

from blender_med.data import load_questions
from blender_med.errors import DataError

DOCUMENT = """<?xml version="1.0" encoding="UTF-8"?>
<Document id="0000001_1" source="CancerGov" url="u">
<Focus>Gout</Focus>
<FocusAnnotations><Category>Disease</Category></FocusAnnotations>
<QAPairs>
<QAPair pid="1"><Question qid="1-1" qtype="information">What is (are) Gout ?</Question>
<Answer>Key Points
                    - Gout hurts.    - It affects &lt;5% of people.


                    It is   treatable.</Answer></QAPair>
<QAPair pid="3"><Question qid="1-2" qtype="treatment">What helps Gout? ?</Question>
<Answer>Summary : Rest.</Answer></QAPair>
</QAPairs></Document>"""
NINDS = """<doc docid="0000018" corpus="NINDS" url="u"><doctitle-focus>ALS</doctitle-focus>
<umls><cui></cui></umls><qaPairs><pair pid="1">
<question qid="0000018-1" qtype="information">what is als?</question><answer>A disease.</answer>
</pair></qaPairs></doc>"""
CDC = """<DiseaseFile fid="0000397" source="CDC" url="u"><Focus>Flu</Focus>
<UMLS><CUI/><SemanticType/><SemanticGroup/></UMLS><QAPairs><QAPair pid="1">
<Question qid="0000397-1" qtype="prevention">How to prevent Flu ?</Question>
<Answer>Get vaccinated.</Answer></QAPair></QAPairs></DiseaseFile>"""
REMOVED = """<Document id="1" source="ADAM" url="u"><Focus>X</Focus><QAPairs><QAPair pid="1">
<Question qid="1-1" qtype="information">What is X ?</Question><Answer></Answer></QAPair>
</QAPairs></Document>"""


def document(focus: str, question: str, source: str = "GARD") -> str:
    return (
        f'<Document id="1" source="{source}"><Focus>{focus}</Focus><QAPairs><QAPair pid="1">'
        f"<Question>{question}</Question><Answer>Text.</Answer></QAPair></QAPairs></Document>"
    )


def test_document(write):
    path = write("1_CancerGov_QA/0000001_1.xml", DOCUMENT)
    first, second = load_questions("medquad", path)
    assert first.id == "medquad/1_CancerGov_QA/0000001_1/1"
    assert second.id == "medquad/1_CancerGov_QA/0000001_1/3"
    assert (first.task, first.dataset) == ("long", "medquad")
    assert first.meta["subject"] == "Gout"
    assert first.meta["question_type"] == "information"
    assert first.meta["source"] == "CancerGov"
    assert first.meta["category"] == "Disease"


def test_debris_is_cleaned_and_content_kept(write):
    first, second = load_questions("medquad", write("f/1.xml", DOCUMENT))
    assert first.question == "What is (are) Gout?"
    assert first.reference == "- Gout hurts.\n- It affects <5% of people.\n\nIt is treatable."
    assert (second.question, second.reference) == ("What helps Gout?", "Rest.")


@pytest.mark.parametrize(
    ("text", "focus", "source", "qtype"),
    [(NINDS, "ALS", "NINDS", "information"), (CDC, "Flu", "CDC", "prevention")],
)
def test_the_other_two_schemas(write, text, focus, source, qtype):
    (question,) = load_questions("medquad", write("f/1.xml", text))
    meta = question.meta
    assert (meta["subject"], meta["source"], meta["question_type"]) == (focus, source, qtype)


def test_removed_answers_are_quarantined_with_the_reason(write):
    path = write("10_MPlus_ADAM_QA/0000001.xml", REMOVED)
    questions = load_questions("medquad", path)
    assert list(questions) == []
    assert "removed by the source" in questions.quarantined[0].reason
    write("10_MPlus_ADAM_QA/0000002.xml", REMOVED.replace("ADAM", "GARD"))
    reasons = load_questions("medquad", path.parent).quarantined.reasons()
    assert reasons["the answer is empty"] == 1


def test_zips_folders_and_single_files_agree(write, tmp_path):
    folder = write("all/1_CancerGov_QA/0000001_1.xml", DOCUMENT).parents[1]
    write("all/6_NINDS_QA/0000018.xml", NINDS)
    with zipfile.ZipFile(tmp_path / "medquad.zip", "w") as archive:
        for path in sorted(folder.rglob("*.xml")):
            archive.write(path, path.relative_to(folder))
    assert load_questions("medquad", tmp_path / "medquad.zip") == load_questions("medquad", folder)


def test_the_same_document_in_a_zip_and_a_folder_is_read_once(write, tmp_path):
    write("1_CancerGov_QA/0000001_1.xml", DOCUMENT)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("1_CancerGov_QA/0000001_1.xml", DOCUMENT)
    write("1_CancerGov_QA.zip", buffer.getvalue())
    assert len(load_questions("medquad", tmp_path)) == 2


def test_groups_join_pages_focuses_and_questions(write, tmp_path):
    write("1_CancerGov_QA/0000001_1.xml", document("Gout", "What is gout?", "CancerGov"))
    write("1_CancerGov_QA/0000001_2.xml", document("Acne", "What is acne?", "CancerGov"))
    write("2_GARD_QA/0000005.xml", document("acne", "Is there a cure?"))
    write("2_GARD_QA/0000006.xml", document("Mumps", "Is there a  CURE"))
    write("2_GARD_QA/0000007.xml", document("Lupus", "What is lupus?"))
    groups = {q.id.split("/")[2]: q.meta["group"] for q in load_questions("medquad", tmp_path)}
    joined = {groups[name] for name in ("0000001_1", "0000001_2", "0000005", "0000006")}
    assert joined == {"1_CancerGov_QA/0000001"}
    assert groups["0000007"] not in joined


@pytest.mark.parametrize(
    "text",
    [
        "<Document><QAPairs>",
        "<html><body/></html>",
        "<Document id='1'><QAPairs></QAPairs></Document>",
        '<!DOCTYPE d [<!ENTITY a "boom">]><Document>&a;</Document>',
        "",
        "\x00\x01",
        "<a>" * 5000,
    ],
)
def test_a_broken_document_does_not_stop_the_others(write, text):
    write("f/1.xml", DOCUMENT)
    questions = load_questions("medquad", write("f/2.xml", text).parent)
    assert (len(questions), len(questions.quarantined)) == (2, 1)
    assert questions.quarantined[0].file.endswith("2.xml")


def test_another_type_of_xml_is_refused(write):
    with pytest.raises(DataError, match="root is <html>"):
        load_questions("medquad", write("f/1.xml", "<html/>"))


def test_hub_columns(hub):
    row = {
        "document_id": "0000001_1",
        "document_source": "GARD",
        "question_id": "0000001_1-1",
        "question_focus": "Gout",
        "question_type": "treatment",
        "question": "What helps Gout ?",
        "answer": "Rest.",
    }
    hub({"train": [row, {**row, "question_id": "0000001_1-2", "answer": None}]})
    questions = load_questions("medquad")
    assert questions[0].id == "medquad/0000001_1/0000001_1-1"
    assert questions[0].meta["subject"] == "Gout"
    assert len(questions.quarantined) == 1
    calls = hub({"train": [{"qtype": "symptoms", "Question": "Q?", "Answer": "A."}]})
    (question,) = load_questions("medquad", "keivalya/MedQuad-MedicalQnADataset")
    assert calls[0][0] == "keivalya/MedQuad-MedicalQnADataset"
    assert question.meta["question_type"] == "symptoms"


def test_real_counts(medquad):
    assert len(medquad) == 13737
    assert Counter(q.meta["source"] for q in medquad) == {
        "CancerGov": 606,
        "GARD": 4558,
        "GHR": 4460,
        "MPlusHealthTopics": 835,
        "NIDDK": 976,
        "NINDS": 932,
        "NIHSeniorHealth": 677,
        "NHLBI": 473,
        "CDC": 220,
    }
    types = Counter(q.meta["question_type"] for q in medquad)
    assert (types["information"], types["symptoms"], types["support groups"]) == (3816, 2310, 1)
    assert len(types) == 16
    assert len({q.meta["document"] for q in medquad}) == 4612
    assert len({q.id for q in medquad}) == 13737


def test_real_quarantine(medquad):
    assert medquad.quarantined.reasons() == {
        "the answer is empty (removed by the source for copyright)": 120,
        "the answer is empty": 4,
    }


def test_real_quirks(medquad):
    assert not any(q.question.endswith(("? ?", " ?")) for q in medquad)
    assert not any((q.reference or "").startswith(("Summary :", "Key Points")) for q in medquad)
    assert any("<5%" in (q.reference or "") for q in medquad)
    assert sum("subject" not in q.meta for q in medquad) > 0
    assert "Topics" in {q.reference for q in medquad}


def test_real_groups(medquad):
    by_question: dict[str, set[str]] = {}
    for question in medquad:
        by_question.setdefault(question.question.lower(), set()).add(question.meta["group"])
    assert all(len(groups) == 1 for groups in by_question.values())
    sizes = Counter(q.meta["group"] for q in medquad)
    assert len(sizes) == 4001
    assert max(sizes.values()) == 73
