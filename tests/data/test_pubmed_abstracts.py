from __future__ import annotations

import gzip
from collections import Counter

import pytest

from blender_med.data import load_passages, load_questions
from blender_med.errors import DataError

PUBTATOR = """101|t|Title one.
101|a|Abstract | one.
101\t0\t5\tTitle\tChemical\tD1
101\tCID\tD1\tD2

102|t|Title two.
102|a|Abstract two.
"""
XML = """<?xml version="1.0"?>
<!DOCTYPE PubmedArticleSet PUBLIC "-//NLM//DTD X//EN" "https://example.invalid/x.dtd">
<PubmedArticleSet><PubmedArticle><MedlineCitation><PMID Version="1">7</PMID><Article>
<Journal><JournalIssue><PubDate><Year>2018</Year></PubDate></JournalIssue><Title>J</Title></Journal>
<ArticleTitle>On <i>asthma</i>.</ArticleTitle>
<Abstract><AbstractText Label="AIM">We  asked.</AbstractText>
<AbstractText Label="RESULTS">It <sub>2</sub> worked.</AbstractText></Abstract></Article>
<MeshHeadingList><MeshHeading><DescriptorName>Asthma</DescriptorName></MeshHeading>
</MeshHeadingList></MedlineCitation></PubmedArticle></PubmedArticleSet>"""
KD_DTI = {
    "5": {"title": "T", "abstract": "A.", "triples": [["a", "b", "c"]], "pmid": "5"},
    "6": {"title": "T", "abstract": "", "triples": [], "pmid": "6"},
}


def test_pubtator(write):
    passages = load_passages("pubmed_abstracts", write("CDR_TrainingSet.PubTator.txt", PUBTATOR))
    first, second = passages
    assert (first.id, first.title, first.text) == (
        "pubmed_abstracts/101",
        "Title one.",
        "Abstract | one.",
    )
    assert (second.split, second.meta["pmid"]) == ("train", "102")


def test_pubtator_with_crlf_and_bom(write):
    data = b"\xef\xbb\xbf" + PUBTATOR.replace("\n", "\r\n").encode()
    assert len(load_passages("pubmed_abstracts", write("a.txt", data))) == 2


def test_malformed_pubtator_blocks(write):
    text = PUBTATOR + "\n103|t|No abstract.\n\nrubbish\n\n104|t|T\n105|a|Other id.\n"
    passages = load_passages("pubmed_abstracts", write("a.txt", text))
    assert (len(passages), len(passages.quarantined)) == (2, 3)


def test_xml_and_gzip(write):
    path = write("p.xml", XML)
    (passage,) = load_passages("pubmed_abstracts", path)
    assert passage.title == "On asthma."
    assert passage.text == "AIM: We asked.\nRESULTS: It 2 worked."
    assert (passage.meta["journal"], passage.meta["year"], passage.meta["mesh"]) == (
        "J",
        "2018",
        "Asthma",
    )
    zipped = write("p.xml.gz", gzip.compress(XML.encode()))
    assert load_passages("pubmed_abstracts", zipped) == [passage]


def test_kd_dti(write):
    passages = load_passages("pubmed_abstracts", write("valid.json", KD_DTI))
    assert [(p.id, p.split) for p in passages] == [("pubmed_abstracts/5", "dev")]
    assert passages.quarantined[0].position == "6"


def test_readme_beside_the_data_is_no_data(write):
    folder = write("d/a.txt", PUBTATOR).parent
    write("d/README.txt", "About this corpus.\n\nMore.")
    passages = load_passages("pubmed_abstracts", folder)
    assert (len(passages), len(passages.quarantined)) == (2, 0)


@pytest.mark.parametrize("content", ["free text", "<html/>", "<PubmedArticleSet>", '{"a": 1}'])
def test_another_type_is_refused(write, content):
    with pytest.raises(DataError, match="pubmed_abstracts"):
        load_passages("pubmed_abstracts", write("a.txt", content))


def test_passages_are_no_questions(write):
    path = write("a.txt", PUBTATOR)
    with pytest.raises(DataError, match="load_passages"):
        load_questions("pubmed_abstracts", path)
    with pytest.raises(DataError, match="load_questions"):
        load_passages("medqa", path)


def test_real_files(shared_data):
    folder = shared_data / "pubmed_abstracts"
    passages = load_passages("pubmed_abstracts", folder / "BC5CDR")
    assert Counter(p.split for p in passages) == {"train": 500, "dev": 500, "test": 500}
    assert not passages.quarantined
    passages = load_passages("pubmed_abstracts", folder / "KD-DTI")
    assert Counter(p.split for p in passages) == {"test": 1159, "dev": 986}
    assert passages.quarantined.reasons() == {"'abstract' is empty": 14}
    (passage,) = load_passages("pubmed_abstracts", folder / "medline")
    assert passage.meta["pmid"] == "29768149"
    assert len(load_passages("pubmed_abstracts", folder)) == 1500 + 2145 + 1


def test_no_pmid_is_shared_with_pubmedqa(shared_data):
    passages = load_passages("pubmed_abstracts", shared_data / "pubmed_abstracts")
    questions = load_questions("pubmedqa", shared_data / "pubmedqa")
    assert {p.meta["pmid"] for p in passages}.isdisjoint(q.meta["pmid"] for q in questions)
