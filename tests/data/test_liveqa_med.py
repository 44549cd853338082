from __future__ import annotations

from collections import Counter

import pytest

from blender_med.data import load_questions
from blender_med.data.liveqa_med import load_grades
from blender_med.errors import DataError

XML = """<?xml version="1.0" encoding="UTF-8"?>
<LiveQA2017-Medical-Test-Set-Full>
 <NLM-QUESTION qid="TQ1">
  <Original-Question qfile="71.txt"><SUBJECT>Noonan</SUBJECT>
   <MESSAGE>What links\n\t\tthem &amp; why</MESSAGE></Original-Question>
  <NIST-PARAPHRASE>What is the link?</NIST-PARAPHRASE>{summary}
  <ANNOTATIONS><FOCUS fid="F1">noonan</FOCUS><TYPE tid="T1">EFFECT</TYPE>
   <TYPE tid="T2">EFFECT</TYPE></ANNOTATIONS>
  <ReferenceAnswers>
   <RefAnswer aid="1"><ANSWER> First. </ANSWER><AnswerURL>u</AnswerURL></RefAnswer>
   <ReferenceAnswer aid="2"><ANSWER>Second.</ANSWER></ReferenceAnswer>
  </ReferenceAnswers>
 </NLM-QUESTION>
 <NLM-QUESTION qid="TQ2"><Original-Question qFile="2"><MESSAGE>Only a message?</MESSAGE>
  </Original-Question><ReferenceAnswers><ReferenceAnswer><ANSWER>Yes.</ANSWER></ReferenceAnswer>
  </ReferenceAnswers></NLM-QUESTION>
 <NLM-QUESTION qid="TQ3"><Original-Question><MESSAGE>No answer?</MESSAGE></Original-Question>
  <ReferenceAnswers/></NLM-QUESTION>
</LiveQA2017-Medical-Test-Set-Full>"""
PLAIN = XML.format(summary="")
SUMMARIES = XML.format(summary="<NLM-Summary>The link?</NLM-Summary>")


def test_fields(write):
    questions = load_questions("liveqa_med", write("Test.xml", PLAIN))
    first, second = questions
    assert first.id == "liveqa_med/TQ1"
    assert (first.split, first.task) == ("test", "long")
    assert first.question == "Noonan\nWhat links them & why"
    assert (first.reference, first.meta["reference_2"]) == ("First.", "Second.")
    assert (first.meta["subject"], first.meta["question_type"]) == ("noonan", "EFFECT")
    assert first.meta["paraphrase"] == "What is the link?"
    assert (second.question, second.reference) == ("Only a message?", "Yes.")
    assert [(r.position, r.reason) for r in questions.quarantined] == [
        ("TQ3", "the question has no reference answer")
    ]


def test_folder_with_both_files_reads_each_question_once(write):
    write("liveqa/Test.xml", PLAIN)
    folder = write("liveqa/Test-Questions-w-summaries.xml", SUMMARIES).parent
    questions = load_questions("liveqa_med", folder)
    assert [q.id for q in questions] == ["liveqa_med/TQ1", "liveqa_med/TQ2"]
    assert questions[0].meta["summary"] == "The link?"


def test_other_xml_is_refused(write):
    with pytest.raises(DataError, match="not the LiveQA-Med test set"):
        load_questions("liveqa_med", write("Test.xml", "<Document/>"))


@pytest.fixture
def graded(write):
    folder = write("liveqa/Test.xml", PLAIN).parent
    write(
        "liveqa/x-qrels-NIST-692.txt",
        "1 3 Good.\n1 -2 Off topic.\n9 1 Unknown.\n2 5 Odd.\n1 4 Best\n",
    )
    write(
        "qrels/All-qrels_x.txt",
        "1 2-Related GARD_1_Sec1.txt\n1 4-Excellent GHR_2.txt\n2 1-Incorrect none.txt\nrubbish\n",
    )
    answers = 'AnswerID,Answer\r\nGARD_1_Sec1.txt,"Question: q\nURL: u\nAnswer: Text, one."\r\n'
    write("qrels/All-2479-Answers-x.csv", answers + 'GHR_2.txt,"Question: q\nAnswer: Two."\r\n')
    return folder


def test_grades(graded):
    found = load_grades(graded, graded.parent / "qrels")
    keys = [(c.question_id, c.expert, c.sample, c.text) for c in found.candidates]
    assert keys == [
        ("liveqa_med/TQ1", "nist", 0, "Good."),
        ("liveqa_med/TQ1", "nist", 1, "Best"),
        ("liveqa_med/TQ1", "medquad", 0, "Text, one."),
        ("liveqa_med/TQ1", "medquad", 1, "Two."),
    ]
    assert [s.value for s in found.scores] == [3.0, 4.0, 2.0, 4.0]
    assert {s.metric for s in found.scores} == {"human_grade"}
    assert [s.key for s in found.scores] == [c.key for c in found.candidates]
    assert len(found.quarantined) == 5


def test_no_grades(write):
    folder = write("liveqa/Test.xml", PLAIN).parent
    with pytest.raises(DataError, match="no graded answer"):
        load_grades(folder)
    with pytest.raises(DataError, match="no file All-2479"):
        load_grades(folder, folder)


@pytest.mark.parametrize("suffix", [".xml", "-Questions-w-summaries.xml"])
def test_real_files(shared_data, suffix):
    path = shared_data / "liveqa_med" / f"TREC-2017-LiveQA-Medical-Test{suffix}"
    questions = load_questions("liveqa_med", path)
    assert len(questions) == 104
    assert not questions.quarantined
    references = sum(1 + sum(name.startswith("reference_") for name in q.meta) for q in questions)
    assert references == 167
    types = [t for q in questions for t in q.meta.get("question_type", "").split("; ") if t]
    # 138 annotations, of which 6 repeat a type of the same question.
    assert (len(types), len(set(types))) == (132, 26)


def test_real_folder(shared_data):
    questions = load_questions("liveqa_med", shared_data / "liveqa_med")
    assert len(questions) == 104
    assert all("summary" in q.meta for q in questions)


def test_real_grades(shared_data):
    found = load_grades(shared_data / "liveqa_med", shared_data / "medquad" / "liveqa_med_qrels")
    assert Counter((s.expert, int(s.value)) for s in found.scores) == {
        ("nist", 1): 461,
        ("nist", 2): 90,
        ("nist", 3): 84,
        ("nist", 4): 39,
        ("medquad", 1): 268,
        ("medquad", 2): 116,
        ("medquad", 3): 60,
        ("medquad", 4): 38,
    }
    assert found.quarantined.reasons() == {"off-topic or unjudgeable (-2)": 18}
    assert len({c.question_id for c in found.candidates if c.expert == "medquad"}) == 83
