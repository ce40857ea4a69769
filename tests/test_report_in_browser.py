"""The report as a reader meets it: opened and clicked through in headless Chromium."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from analysis.jobs.cache import OutcomeCache
from analysis.pipeline import analyze
from analysis.results import Options, StudyFacts
from tests.fake_records import FakeReader, small_study

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)
DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None, reason="needs chromium and chromedriver in the PATH"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    torch.set_num_threads(1)
    report = analyze(
        FakeReader(small_study(seeds=(0, 1), inits=("random", "2", "pretrained"))),
        StudyFacts("a study", question="Does it help?", run_address="http://127.0.0.1:5000/#/runs/{run_id}"),
        output=tmp_path_factory.mktemp("report"),
        options=Options(probe_images=64, positions_per_image=2, explained_images=0),
        cache=OutcomeCache(Path(tempfile.mkdtemp())),
    )
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1300,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.get(report.as_uri())
    yield driver
    driver.quit()


def shown_pages(browser) -> list[str]:
    script = "return [...document.querySelectorAll('.page')].filter(p => p.offsetHeight).map(p => p.id)"
    return browser.execute_script(script)


def wait_until(browser, script: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 20).until(lambda driver: driver.execute_script(f"return {script}"))


def open_page(browser, anchor: str) -> None:
    """Go to a page without waiting for the last one to come to rest after scrolling."""
    browser.execute_script(f"location.hash = '#{anchor}'")
    wait_until(browser, f"document.getElementById('{anchor}').offsetHeight > 0")


def in_the_middle(browser, element):
    """Scroll an element to where the list of pages does not cover it."""
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
    return element


def test_every_page_opens_from_its_link_and_shows_alone(browser):
    links = browser.find_elements("css selector", "nav a")
    assert len(links) > 10
    for link in links:
        link.click()
        anchor = link.get_attribute("href").split("#")[1]
        assert shown_pages(browser) == [anchor]
        assert link.get_attribute("class") == "shown"


def test_plots_are_drawn_when_their_page_is_opened(browser):
    open_page(browser, "convergence")
    wait_until(browser, "Bokeh.documents.length > 0")
    wait_until(browser, "document.querySelector('#convergence .plot').childElementCount > 0")
    figure = browser.find_element("css selector", "#convergence figure.asked")
    assert figure.find_element("css selector", ".plot").size["height"] > 200
    # The static picture is for paper.
    assert not figure.find_element("tag name", "img").is_displayed()


def test_a_table_is_sorted_by_a_click_on_its_heading(browser):
    open_page(browser, "performance")
    column = """
        const table = document.querySelector('#performance table');
        const place = [...table.tHead.rows[0].cells].findIndex(c => c.textContent.trim() === 'AUROC');
        return [...table.tBodies[0].rows].map(r => parseFloat(r.cells[place].textContent))
    """
    xpath = "//section[@id='performance']//th[normalize-space()='AUROC']/button"
    heading = browser.find_element("xpath", xpath)
    in_the_middle(browser, heading).click()
    ascending = browser.execute_script(column)
    assert ascending == sorted(ascending)
    in_the_middle(browser, heading).click()
    assert browser.execute_script(column) == ascending[::-1]


def test_trials_lead_to_their_runs(browser):
    open_page(browser, "trials")
    link = browser.find_element("css selector", "#trials td a")
    assert link.get_attribute("href").startswith("http://127.0.0.1:5000/#/runs/run-")


def test_folds_open(browser):
    open_page(browser, "similarity")
    fold = browser.find_element("css selector", "#similarity details")
    in_the_middle(browser, fold.find_element("tag name", "summary")).click()
    assert fold.find_element("tag name", "img").is_displayed()


def test_an_address_with_an_anchor_opens_that_page(browser):
    browser.execute_script("location.hash = '#study-file-that-is-not-there'")
    assert shown_pages(browser) == ["findings"]
    browser.execute_script("location.hash = '#papers'")
    wait_until(browser, "document.querySelector('#papers').offsetHeight > 0")


def test_the_browser_complains_of_nothing(browser):
    complaints = [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert complaints == []
