"""The page: sections, escaping, data of the browser, size."""

from __future__ import annotations

import base64
import gzip
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from lxml import html

from blender_med.reports.page import document
from blender_med.reports.page.kinds import BUILT_IN, Kinds
from blender_med.reports.page.numbers import duration, figure, interval, p_value, percent, signed
from blender_med.reports.page.sections import figures
from blender_med.reports.page.verdict import verdicts
from blender_med.stages.comparison import Diagnosis, Estimate, GatingRow
from blender_med.stages.methods import METHODS, MethodSettings

MOST_BYTES = 5_000_000


def unpacked(text: str):
    return json.loads(gzip.decompress(base64.b64decode(text)))


@pytest.fixture(scope="module")
def page(study_page):
    return html.fromstring(study_page.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def parts(page):
    scripts = page.xpath("//script[@data-part]")
    return {s.get("data-part"): unpacked(s.text) for s in scripts}


def test_every_section_with_records_is_there(page):
    keys = set(page.xpath("//figure/@data-figure"))
    assert keys >= {
        "methods", "frontier", "headroom", "wins", "complementarity", "slice-subject",
        "coverage", "usage", "quality", "quarantine", "contamination",
    }  # fmt: skip
    assert "rankings" not in keys  # this study has no rows of them
    assert len(page.xpath("//article[contains(@class, 'verdict')]")) == 2
    assert page.xpath("//section[@id='browser']")


def test_a_figure_is_a_drawing_with_its_numbers(page):
    figure = page.xpath("//section[@data-block='0']//figure[@data-figure='methods']")[0]
    marks = figure.xpath(".//*[@role='graphics-symbol'][starts-with(@aria-label, 'pairranker: ')]")
    assert len(marks) == 1
    assert re.search(
        r"[+\N{MINUS SIGN}]\d\.\d{3} \(.* to .*\), p .*Holm", marks[0].get("aria-label")
    )
    assert figure.xpath(".//svg/@tabindex") == ["0"]
    assert "pairranker" in figure.xpath(".//tbody//th/text()")


def test_texts_are_never_markup(page, study_page, attacks):
    assert page.xpath("//img | //*[@onerror] | //*[@onmouseover]") == []
    scripts = [s for s in page.xpath("//script") if s.get("data-part") is None]
    assert len(scripts) == 1
    assert "attacked" not in scripts[0].text
    # What is not packed stands there as text: the lead, the names of slices, reasons.
    text = page.text_content()
    assert attacks[0] in text
    assert attacks[1][:20] in text
    assert "no <script>x</script> answer" in text
    assert "window.attacked = 1</script>" not in study_page.read_text(encoding="utf-8")


def test_nothing_is_loaded_from_elsewhere(page):
    assert page.xpath("//link/@href") == ["data:,"]
    assert page.xpath("//script/@src | //iframe | //object") == []
    (policy,) = page.xpath("//meta[@http-equiv]/@content")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-inline" not in policy.split("style-src")[0]


def test_questions_carry_texts_ranks_logits_and_support(parts, attacks):
    index, details = parts["index"], parts["0"]
    assert len(index["ids"]) == 48
    assert [b[3] for b in index["blocks"]] == ["dev", "test", "dev", "test"]
    assert set(index["slices"]) >= {"subject", "specialty"}
    assert len(index["values"]["pairranker"]) == 48
    first = details[index["ids"].index("l0")]
    assert first["question"].startswith(attacks[0])
    assert [c["key"] for c in first["candidates"]] == ["good#0", "poor#0"]
    assert first["rankings"]["pairranker"]["logits"] == [[0, 1.5], [-1.25, 0]]
    fused = next(a for a in first["answers"] if a["method"] == "genfuser")
    assert fused["sentences"][0]["links"] == [["good#0", 1]]
    assert fused["sentences"][1]["flags"][1] == ["drug", "absent", "Zelorfan"]
    nasty = details[index["ids"].index("l3")]
    assert "\\ud800" in nasty["question"]


def test_the_same_run_gives_the_same_page(study_page, write_page_of, tmp_path):
    again = write_page_of(24, tmp_path)
    kept = study_page.read_text(encoding="utf-8").split('<section aria-label="Data">')[0]
    assert again.read_text(encoding="utf-8").startswith(kept)


def test_the_verdict_names_the_method_that_is_best_on_dev(comparison_of):
    comparison = comparison_of(40)
    (long, choice) = verdicts(comparison)
    assert long.ensemble in {"pairranker", "mbr"}
    assert long.block.split == "test"
    assert "best ensemble method on dev" in long.reason
    facts = dict(long.facts)
    assert facts["questions"] == "30"
    assert choice.ensemble in {"majority_vote", "weighted_vote"}


def _with_delta(comparison, method, estimate):
    for row in comparison.methods:
        if row.method == method:
            row.metrics[row.primary] = estimate
    return verdicts(comparison)[0]


@pytest.mark.parametrize(
    ("delta", "p", "tone", "start"),
    [
        (0.2, 0.01, "better", "Yes: "),
        (-0.2, 0.01, "worse", "No: "),
        (0.2, 0.2, "open", "Not shown: "),
        (0.0, None, "open", "pairranker gives exactly"),
    ],
)
def test_verdicts_follow_the_corrected_test(comparison_of, delta, p, tone, start):
    comparison = comparison_of(24)
    estimate = Estimate(9.0, 8.0, 10.0, delta, p, p, delta - 0.1, delta + 0.1)
    verdict = _with_delta(comparison, "pairranker", estimate)
    assert (verdict.ensemble, verdict.tone) == ("pairranker", tone)
    assert verdict.headline.startswith(start)


def _contrast(one: str, other: str) -> float:
    """Of two colours ``#rrggbb``, by WCAG 2.2."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_colours_stand_out_in_both_themes():
    style = document._asset("style.css")
    themes = [
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
        for block in re.findall(r"\{([^{}]*--page:[^{}]*)\}", style)
    ]
    assert len(themes) == 3 and themes[1] == themes[2]
    texts, backgrounds = {"text", "soft", "good", "bad"}, ("page", "panel")
    for theme in themes:
        for name, colour in theme.items():
            if name not in (*backgrounds, "line"):
                least = min(_contrast(colour, theme[back]) for back in backgrounds)
                assert least >= (4.5 if name in texts else 3.0), (name, least)


def test_two_thousand_questions_fit(write_page_of, tmp_path, realistic_text):
    # gzip takes English prose to 0.35 to 0.4 of its size; texts that repeat would prove nothing.
    sample = realistic_text(np.random.default_rng(5), 20_000).encode()
    assert len(gzip.compress(sample)) > 0.35 * len(sample)
    # 2,000 questions of both kinds; references and each of three answers are of 200 words.
    page = write_page_of(1000, tmp_path, words=200, text=realistic_text)
    loaded = html.fromstring(page.read_text(encoding="utf-8"))
    packed = sum(len(script.text) for script in loaded.xpath("//script[@data-part]"))
    assert 2_500_000 < packed < page.stat().st_size <= document.MOST_INLINE == MOST_BYTES


def test_figures_count_too(write_page_of, tmp_path, monkeypatch):
    page = write_page_of(80, tmp_path)
    size = page.stat().st_size
    monkeypatch.setattr(document, "MOST_INLINE", size)
    assert not (write_page_of(80, tmp_path).parent / "questions").exists()
    monkeypatch.setattr(document, "MOST_INLINE", size - 1)
    assert (write_page_of(80, tmp_path).parent / "questions").is_dir()


def test_more_than_fits_goes_beside_the_page(write_page_of, tmp_path, realistic_text):
    page = write_page_of(1000, tmp_path, words=400, text=realistic_text)
    assert page.stat().st_size < 1_000_000
    assert len(list((page.parent / "questions").iterdir())) == 21


def test_large_data_goes_beside_the_page(write_page_of, tmp_path, monkeypatch):
    monkeypatch.setattr(document, "MOST_INLINE", 100)
    page = write_page_of(8, tmp_path)
    folder = page.parent / "questions"
    assert sorted(p.name for p in folder.iterdir()) == ["0.js", "index.js"]
    match = re.fullmatch(
        r'blenderPart\("index","([A-Za-z0-9+/=]+)"\)\n', (folder / "index.js").read_text()
    )
    assert unpacked(match[1])["ids"][0] == "l0"
    assert "data-part" not in page.read_text(encoding="utf-8").split("<script>")[0]
    monkeypatch.setattr(document, "MOST_INLINE", 10**9)
    write_page_of(8, tmp_path)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("expert:a", "expert"),
        ("best_single", "expert"),
        ("random", "baseline"),
        ("self_consistency:a", "baseline"),
        ("mbr", "ensemble"),
        ("oracle:bleu", "upper bound"),
        ("my-ranker", "ensemble"),
        ("a-name-of-nobody", "other"),
    ],
)
def test_kinds_of_methods(method, expected):
    assert Kinds(MethodSettings(combining=("my-ranker",)))(method) == expected


def test_every_method_has_a_kind():
    assert set(BUILT_IN) == set(METHODS)


def test_a_method_of_nobody_is_shown_and_not_judged(comparison_of):
    comparison = comparison_of(24)
    stranger = replace(comparison.settings, combining=("pairranker",))
    unknown = replace(comparison, settings=stranger)
    drawn = figures(verdicts(unknown)[0], unknown, Diagnosis([], [], [], [], []), [], [])
    assert "genfuser" in str(drawn[0].svg) and "other" in str(drawn[0].svg)
    known = [verdicts(one)[0].ensemble for one in (comparison, unknown)]
    assert known[0] in ("genfuser", "pairranker", "mbr") and known[1] in ("pairranker", "mbr")


def test_what_gates_weigh_is_drawn(comparison_of):
    comparison = comparison_of(24)
    verdict = verdicts(comparison)[0]
    weights, shares = {"mistral": 0.75, "biogpt": 0.25}, {"mistral": 1.0, "biogpt": 0.5}
    row = GatingRow(verdict.block, "fused", "fused", 18, 0.5, (0.5,), weights, shares)
    other = replace(row, block=replace(verdict.block, split="another"))
    empty = Diagnosis([], [], [], [], [])
    drawn = {f.key: f for f in figures(verdict, comparison, empty, [], [], [row, other])}
    assert "mean weight 75 % for mistral, above 0 on 100 %" in str(drawn["gates"].svg)
    assert drawn["gates"].table.rows == (
        ("fused", "mistral", "75 %", "100 %"),
        ("fused", "biogpt", "25 %", "50 %"),
    )
    assert "gates" not in {f.key for f in figures(verdict, comparison, empty, [], [])}


def test_several_data_sets_are_counted_and_judged_apart(write_page_of, tmp_path):
    written = write_page_of(24, tmp_path, datasets={"mcq": "exam", "long": "answers"})
    page = html.fromstring(written.read_text(encoding="utf-8"))
    about = page.xpath("//dl[@class='about']/div")
    facts = {div.findtext("dt"): div.findtext("dd") for div in about}
    assert facts["questions of exam"] == facts["questions of answers"] == "18 test, 6 dev"
    (summary,) = page.xpath("//p[@class='summary']/text()")
    assert summary.startswith("Of 2 sets of questions the ensemble is better")
    families = page.xpath("//article/@data-family")
    assert families == ["answers, long, generative", "exam, mcq, generative"]


def test_numbers_as_they_are_shown():
    assert (figure(0.12345), figure(-42.12), figure(None), figure(float("nan"))) == (
        "0.123", "\N{MINUS SIGN}42.1", "", "",
    )  # fmt: skip
    assert (signed(0.5), signed(-0.5)) == ("+0.500", "\N{MINUS SIGN}0.500")
    assert interval(0.1, None) == ""
    assert (percent(0.051), percent(0.5), percent(0.0)) == ("5.1 %", "50 %", "0 %")
    assert [duration(s) for s in (0.0, 0.001, 0.123, 66.04)] == ["0", "< 0.01", "0.12", "66"]
    assert (p_value(0.0001), p_value(0.25)) == ("< 0.001", "0.250")
