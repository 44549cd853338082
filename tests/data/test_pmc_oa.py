from __future__ import annotations

from collections import Counter

import pytest

from blender_med.data import load_passages
from blender_med.data.pmc_oa import read_file_list
from blender_med.errors import BlenderMedError, DataError

ARTICLE = """<!DOCTYPE article PUBLIC "-//NLM//DTD JATS v1.0//EN" "JATS-archivearticle1.dtd">
<article xmlns:xlink="http://www.w3.org/1999/xlink"><front><journal-meta><journal-title-group>
<journal-title>J Med</journal-title></journal-title-group></journal-meta><article-meta>
<article-id pub-id-type="pmid">11</article-id><article-id pub-id-type="pmc">99</article-id>
<title-group><article-title>On <italic>M</italic>. leprae</article-title></title-group>
<pub-date pub-type="ppub"><year>2011</year></pub-date>
<permissions>{license}</permissions>
<abstract><p>Short.</p></abstract></article-meta></front>
<body><sec><title>Intro</title><p>First <xref rid="b1">1</xref> part.</p><p>Second.</p></sec></body>
</article>"""
BY = '<license xlink:href="http://creativecommons.org/licenses/by/4.0/"><license-p>x</license-p></license>'
LINE = (
    "oa_package/08/e0/PMC{n}.tar.gz,J Med. 2001; 3(1):55,PMC{n},2019-11-05 11:56:12,{n},{license}\n"
)
HEADER = "File,Article Citation,Accession ID,Last Updated (YYYY-MM-DD HH:MM:SS),PMID,License\r\n"


def test_article(write):
    (passage,) = load_passages("pmc_oa", write("a.nxml", ARTICLE.format(license=BY)))
    assert passage.id == "pmc_oa/PMC99"
    assert passage.title == "On M. leprae"
    assert passage.text == "Short.\n\nFirst 1 part.\n\nSecond."
    assert passage.license == "CC BY"
    assert passage.meta["pmid"] == "11"
    assert (passage.meta["journal"], passage.meta["year"]) == ("J Med", "2011")


@pytest.mark.parametrize(
    ("license", "name"),
    [
        (
            '<license xlink:href="https://creativecommons.org/licenses/by-nc-nd/3.0"/>',
            "CC BY-NC-ND",
        ),
        ('<license xlink:href="http://creativecommons.org/publicdomain/zero/1.0/"/>', "CC0"),
        (
            '<license xlink:href="http://creativecommons.org/publicdomain/mark/1.0/"/>',
            "public domain",
        ),
        ("<license><p>Creative Commons Attribution License, ...</p></license>", "CC BY"),
        ("<license><p>Creative Commons Attribution Non-Commercial</p></license>", "CC BY-NC"),
        (
            "<copyright-statement>Creative Commons Attribution License</copyright-statement>",
            "CC BY",
        ),
        ("<copyright-statement>All rights reserved.</copyright-statement>", None),
        ("", None),
    ],
)
def test_licence_in_the_article(write, license, name):
    (passage,) = load_passages("pmc_oa", write("a.nxml", ARTICLE.format(license=license)))
    assert passage.license == name


def test_the_file_list_rules_the_licence(write):
    folder = write("pmc/a.nxml", ARTICLE.format(license=BY)).parent
    write("pmc/oa_file_list.csv", LINE.format(n=99, license="CC BY-NC"))
    (passage,) = load_passages("pmc_oa", folder)
    assert passage.license == "CC BY-NC"
    assert load_passages("pmc_oa", folder, options={"licenses": ["CC BY"]}) == []


def test_licence_filter_keeps_malformed_rows_in_sight(write):
    folder = write("pmc/a.nxml", ARTICLE.format(license=BY)).parent
    write("pmc/b.nxml", ARTICLE.format(license=""))
    write("pmc/c.nxml", "<article>")
    passages = load_passages("pmc_oa", folder, options={"licenses": ["CC BY", "CC0"]})
    assert [p.meta["source"] for p in passages] == ["a"]
    assert len(passages.quarantined) == 1
    with pytest.raises(BlenderMedError, match="licenses"):
        load_passages("pmc_oa", folder, options={"licenses": "CC BY"})


@pytest.mark.parametrize(
    "text",
    [
        "<article><front/></article>",
        "<html/>",
        "<article>",
        '<!DOCTYPE a [<!ENTITY x "y">]><article><body><p>&x;</p></body></article>',
    ],
)
def test_unusable_articles(write, text):
    write("pmc/a.nxml", ARTICLE.format(license=BY))
    passages = load_passages("pmc_oa", write("pmc/b.nxml", text).parent)
    assert (len(passages), len(passages.quarantined)) == (1, 1)


@pytest.mark.parametrize("header", ["", HEADER])
def test_file_list(write, header):
    text = header + LINE.format(n=1, license="CC BY") + LINE.format(n=2, license="NO-CC CODE")
    path = write("oa_file_list.csv", text + "a,b\n" + "x,y,12,d,p,CC BY\n")
    articles, quarantined = read_file_list(path)
    assert [a.accession_id for a in articles] == ["PMC1", "PMC2"]
    assert articles[0].updated == "2019-11-05 11:56:12"
    assert len(quarantined) == 2
    assert [a.license for a in read_file_list(path, ["CC BY"])[0]] == ["CC BY"]


def test_a_file_list_alone_has_no_text(write):
    path = write("oa_file_list.csv", LINE.format(n=1, license="CC BY"))
    with pytest.raises(DataError, match="read_file_list"):
        load_passages("pmc_oa", path)
    with pytest.raises(DataError, match="not a PMC file list"):
        read_file_list(write("other.csv", "a,b\n1,2\n"))


def test_real_articles(shared_data):
    passages = load_passages("pmc_oa", shared_data / "pmc_oa")
    assert {p.meta["source"]: (p.meta["pmcid"], p.license) for p in passages} == {
        "1471-2180-11-174": ("PMC3166277", "CC BY"),
        "1472-6831-8-11": ("PMC2329613", "CC BY"),
        "ehp-116-1694": ("PMC2599765", "public domain"),
        "mds526": ("PMC3574550", "CC BY-NC"),
        "pntd.0002065": ("PMC3585041", "CC BY"),
        "pone.0000217": ("PMC1790863", "CC BY"),
        "pone.0046493": ("PMC3460867", "CC BY"),
    }
    assert not passages.quarantined
    assert all(1695 <= len(p.text.split()) <= 7447 + 700 for p in passages)
    free = load_passages(
        "pmc_oa", shared_data / "pmc_oa", options={"licenses": ["CC BY", "public domain"]}
    )
    assert len(free) == 6


def test_real_file_lists(shared_data):
    folder = shared_data / "pmc_oa"
    articles, quarantined = read_file_list(folder / "oa_file_list_10000_noheader/oa_file_list.csv")
    assert (len(articles), len(quarantined)) == (10000, 0)
    assert Counter(a.license for a in articles) == {"NO-CC CODE": 7500, "CC BY": 2485, "CC0": 15}
    assert sum(not a.pmid for a in articles) == 585
    articles, _ = read_file_list(folder / "oa_file_list_header" / "oa_file_list.csv")
    assert articles[0].updated == "06-04-20 14:56"
    assert len(articles) == 4
