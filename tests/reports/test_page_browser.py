"""The page in a real browser: headless Chromium, where the machine has one with its driver.

``BLENDER_MED_SCREENSHOTS`` names a folder that the screenshots are written to, and
``BLENDER_MED_PAGE`` the page of a run of which there shall be some too.
"""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blender_med.reports.page import document

pytestmark = pytest.mark.slow

WIDE, NARROW = (1280, 1000), (360, 740)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless browser that keeps its log."""
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    browser = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("no Chromium with its driver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    opened.set_page_load_timeout(300)
    opened.set_script_timeout(300)
    yield opened
    opened.quit()


def wait_for(chromium: Any, script: str) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(chromium, 120).until(lambda d: d.execute_script(f"return {script}"))


def show(chromium: Any, page: Path, size: tuple[int, int] = WIDE, theme: str = "light") -> None:
    """Open the page anew and wait until its questions are there."""
    chromium.get_log("browser")
    metrics = {
        "width": size[0],
        "height": size[1],
        "deviceScaleFactor": 1,
        "mobile": size == NARROW,
    }
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    prefers = [{"name": "prefers-color-scheme", "value": theme}]
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": prefers})
    chromium.get("about:blank")
    chromium.get(page.as_uri())
    wait_for(chromium, "document.querySelector('#browser').dataset.ready === 'true'")


def hits(chromium: Any) -> list[str]:
    script = "return [...document.querySelectorAll('#hits [data-i]')].map((b) => b.textContent)"
    return list(chromium.execute_script(script))


def choose(chromium: Any, box: str, text: str) -> None:
    """Choose the option of a box whose text contains ``text``."""
    script = """
        const box = document.getElementById(arguments[0]);
        const found = [...box.options].find((o) => o.text.includes(arguments[1]));
        box.value = found.value;
        box.dispatchEvent(new Event("change"));"""
    chromium.execute_script(script, box, text)


def count_becomes(chromium: Any, number: int) -> None:
    wait_for(chromium, f"document.querySelector('#count').textContent.startsWith('{number} of ')")


def screenshot(chromium: Any, name: str) -> None:
    folder = os.environ.get("BLENDER_MED_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        taken = chromium.execute_cdp_cmd("Page.captureScreenshot", {})
        (Path(folder) / f"{name}.png").write_bytes(base64.b64decode(taken["data"]))


def test_opens_without_errors_and_runs_no_text(chromium, study_page):
    for theme in ("light", "dark"):
        show(chromium, study_page, theme=theme)
        screenshot(chromium, theme)
        assert chromium.get_log("browser") == []
    for i in range(8):  # the questions with attacks, in every text that is shown
        chromium.execute_script(f"document.querySelector('#hits [data-i=\"{i}\"]')?.click()")
        wait_for(chromium, "document.querySelector('#question h3').textContent.length > 0")
    assert chromium.execute_script("return window.attacked") is None
    assert chromium.execute_script("return document.querySelectorAll('img').length") == 0
    shown = chromium.execute_script("return document.querySelector('main').textContent")
    assert "<script>window.attacked = 1</script>" in shown
    assert chromium.get_log("browser") == []


def test_search_finds_words_and_ids(chromium, study_page):
    show(chromium, study_page)
    count_becomes(chromium, 18)  # 24 long questions, of which a quarter is dev
    box = chromium.find_element("id", "search")
    box.send_keys("onerror img")
    count_becomes(chromium, 2)
    assert all("onerror" in hit for hit in hits(chromium))
    box.clear()
    box.send_keys("l20")
    count_becomes(chromium, 1)
    box.clear()
    box.send_keys("Zelorfan")
    count_becomes(chromium, 0)
    chromium.find_element("id", "deep").click()
    count_becomes(chromium, 18)


def test_filters_by_slice_outcome_and_block(chromium, study_page):
    show(chromium, study_page)
    choose(chromium, "slice", "specialty: s0")
    count_becomes(chromium, 6)
    choose(chromium, "slice", "all")
    choose(chromium, "method", "expert:poor")
    choose(chromium, "outcome", "worse than best_single")
    count_becomes(chromium, 18)
    choose(chromium, "outcome", "better than best_single")
    count_becomes(chromium, 0)
    choose(chromium, "block", "mcq, generative: test")
    count_becomes(chromium, 18)
    choose(chromium, "method", "expert:poor")
    choose(chromium, "outcome", "wrong")
    count_becomes(chromium, 6)  # poor errs on every third question


def test_a_question_shows_candidates_matrix_and_support(chromium, study_page):
    show(chromium, study_page)
    choose(chromium, "method", "genfuser")
    wait_for(chromium, "document.querySelector('.final b').textContent === 'Answer of genfuser'")
    read = chromium.execute_script
    assert read("return document.querySelectorAll('.card').length") == 2
    assert "good#0" in read("return document.querySelector('.final .held').title")
    assert "drug" in read("return document.querySelector('.final .loose').title")
    cells = read("return [...document.querySelectorAll('.matrix td')].map((t) => t.textContent)")
    assert cells == ["", "1.50", "-1.25", ""]
    assert "pairranker: rank 1" in read("return document.querySelector('.card').textContent")
    screenshot(chromium, "question")


def test_light_and_dark_follow_the_system_and_the_button(chromium, study_page):
    colour = "return getComputedStyle(document.body).backgroundColor"
    show(chromium, study_page, theme="dark")
    dark = chromium.execute_script(colour)
    chromium.find_element("id", "theme").click()
    light = chromium.execute_script(colour)
    assert (dark, light) == ("rgb(18, 22, 28)", "rgb(255, 255, 255)")
    chromium.execute_script("localStorage.clear()")


def test_a_phone_needs_no_sideways_scrolling(chromium, study_page):
    show(chromium, study_page, NARROW)
    screenshot(chromium, "phone")
    width = chromium.execute_script("return document.documentElement.scrollWidth")
    assert width <= NARROW[0]


def test_keyboard_reaches_search_questions_and_marks(chromium, study_page):
    from selenium.webdriver.common.keys import Keys

    show(chromium, study_page)
    body = chromium.find_element("tag name", "body")
    body.send_keys("/")
    assert chromium.switch_to.active_element.get_attribute("id") == "search"
    figure = "document.querySelector('[data-figure=methods] svg')"
    chromium.execute_script(f"{figure}.focus()")
    chromium.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    tip = chromium.execute_script("return document.querySelector('#tip').textContent")
    assert ": " in tip
    assert (
        chromium.execute_script(f"return {figure}.querySelectorAll('[data-current]').length") == 1
    )
    chromium.execute_script("document.querySelector('#hits button').focus()")
    chromium.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    place = "[...document.querySelectorAll('#hits button')].indexOf(document.activeElement)"
    assert chromium.execute_script(f"return {place}") == 1


def test_pages_of_data_beside_the_page_are_read(chromium, write_page_of, tmp_path, monkeypatch):
    monkeypatch.setattr(document, "MOST_INLINE", 100)
    page = write_page_of(80, tmp_path)
    show(chromium, page)
    count_becomes(chromium, 60)
    wait_for(chromium, "document.querySelectorAll('.card').length === 2")
    assert chromium.get_log("browser") == []


@pytest.mark.skipif("BLENDER_MED_PAGE" not in os.environ, reason="no page of a run is named")
def test_pictures_of_a_run(chromium):
    page = Path(os.environ["BLENDER_MED_PAGE"]).resolve()
    for theme in ("light", "dark"):
        show(chromium, page, theme=theme)
        screenshot(chromium, f"run-{theme}")
    chromium.execute_script("document.querySelector('#browser').scrollIntoView()")
    screenshot(chromium, "run-questions")
    assert chromium.get_log("browser") == []
