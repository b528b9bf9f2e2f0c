"""The page in a real browser: it loads without a complaint, filters, sorts, opens a run, and takes 10,000 of them."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from pbt_bench.analysis.pages.report import write_report
from pbt_bench.running.record import RunRecord
from pbt_bench.running.store import Store
from pbt_bench.spec import Grid

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">'"
FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --window-size=1200,1600"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    paths = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in paths:
        pytest.skip("no browser (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = str(paths[0])
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(paths[1]))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(
    tmp_path_factory: pytest.TempPathFactory,
    grid: Callable[..., Grid],
    record: Callable[..., RunRecord],
    stored: Callable[[Path, Sequence[RunRecord]], Store],
) -> Path:
    """A study with a hostile method, a failed, a collapsed and a missing run."""
    specs = grid(method=("magnitude", "snip", HOSTILE), sparsity=(0.9, 0.98)).runs()
    runs = [record(spec, environment={"host": HOSTILE}) for spec in specs[:-3]]
    runs += [record(specs[-3], "collapsed", 0.1), record(specs[-2], "failed", error=HOSTILE)]
    folder = tmp_path_factory.mktemp("study")
    return write_report(HOSTILE, specs, stored(folder / "results", runs), folder / "report")


def load(browser: webdriver.Chrome, path: Path) -> float:
    """Open a page and wait for its table; seconds."""
    browser.get("about:blank")
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    start = perf_counter()
    browser.get(path.as_uri())
    WebDriverWait(browser, 30, 0.02).until(lambda b: b.find_elements(By.CSS_SELECTOR, "#runs[data-ready]"))
    return perf_counter() - start


def column(browser: webdriver.Chrome, name: str) -> list[str]:
    """The texts of one column of the run table, as shown."""
    heads = [
        head.get_attribute("data-column") for head in browser.find_elements(By.CSS_SELECTOR, "#run-table thead th")
    ]
    cells = f"#run-table tbody td:nth-child({heads.index(name) + 1})"
    return [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, cells)]


def choose(browser: webdriver.Chrome, name: str, *texts: str) -> None:
    """Mark the boxes of these values, and no other, in the list of a column."""
    part = browser.find_element(By.CSS_SELECTOR, f".filters [data-filter={name}]")
    part.find_element(By.TAG_NAME, "summary").click()
    for box in part.find_elements(By.TAG_NAME, "input"):
        if box.is_selected() != (box.get_attribute("value") in texts):
            box.click()
    part.find_element(By.TAG_NAME, "summary").click()


def open_sections(browser: webdriver.Chrome) -> None:
    browser.find_element(By.ID, "open-all").click()


def sort(browser: webdriver.Chrome, name: str) -> None:
    browser.find_element(By.CSS_SELECTOR, f"#run-table th[data-column={name}] button").click()


def test_the_page_loads_without_a_complaint_or_a_request(browser: webdriver.Chrome, page: Path) -> None:
    load(browser, page)
    assert browser.get_log("browser") == []
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in sent if event["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [page.as_uri()]
    figures = browser.execute_script("return document.images.length")
    assert figures > 10
    browser.execute_script(
        "for (const image of document.images) image.loading = 'eager'"
    )  # as if they were scrolled to
    open_sections(browser)
    whole = """return [...document.images].filter(i => i.naturalWidth && i.width > 300
               && Math.abs(i.naturalHeight / i.naturalWidth - i.height / i.width) < .01).length"""
    WebDriverWait(browser, 10).until(lambda b: b.execute_script(whole) == figures)


def test_hostile_texts_are_shown_and_nothing_else(browser: webdriver.Chrome, page: Path) -> None:
    load(browser, page)
    assert browser.title == f"{HOSTILE} – pbt-bench"
    assert HOSTILE in column(browser, "method")
    choose(browser, "status", "failed")
    browser.find_element(By.CSS_SELECTOR, "button.run").click()
    assert browser.find_element(By.CSS_SELECTOR, "#one-run .notice").text == HOSTILE
    assert browser.find_elements(By.CSS_SELECTOR, "img[src=x]") == []
    assert browser.get_log("browser") == []


def test_filters_narrow_the_table(browser: webdriver.Chrome, page: Path) -> None:
    load(browser, page)
    everything = len(column(browser, "run"))
    assert everything == 42
    choose(browser, "method", "snip")
    choose(browser, "model", "vgg8")
    assert set(column(browser, "method")) == {"snip"}
    assert set(column(browser, "model")) == {"vgg8"}
    assert len(column(browser, "run")) == 6
    assert browser.find_element(By.ID, "run-count").text == "6 of 42 runs"
    choose(browser, "sparsity", "0.98")
    assert column(browser, "sparsity") == ["0.98"] * 3
    choose(browser, "method", "snip", "magnitude")
    assert set(column(browser, "method")) == {"snip", "magnitude"}
    assert browser.find_element(By.CSS_SELECTOR, "[data-filter=method] summary").text == "method: magnitude, snip"
    browser.find_element(By.XPATH, "//button[text()='reset']").click()
    assert len(column(browser, "run")) == everything
    choose(browser, "status", "missing")
    assert column(browser, "test_accuracy") == ["–"]
    head = browser.find_element(By.CSS_SELECTOR, "#run-table th[data-column=test_accuracy]")
    assert head.text == "test accuracy (%), as recorded", "elsewhere some count at chance"


def test_a_search_finds_words_in_runs_and_in_errors(browser: webdriver.Chrome, page: Path) -> None:
    load(browser, page)
    box = browser.find_element(By.NAME, "search")
    box.send_keys("VGG8  snip")
    assert set(zip(column(browser, "model"), column(browser, "method"), strict=True)) == {("vgg8", "snip")}
    assert browser.find_element(By.ID, "run-count").text == "6 of 42 runs"
    box.clear()
    box.send_keys("<img failed")
    assert (column(browser, "method"), column(browser, "status")) == ([HOSTILE], ["failed"])


def test_runs_stand_by_network_and_sparsity_at_first(browser: webdriver.Chrome, page: Path) -> None:
    load(browser, page)
    rows = list(zip(column(browser, "model"), map(float, column(browser, "sparsity")), strict=True))
    assert rows == sorted(rows)


def test_the_chosen_rows_are_downloaded_as_csv(browser: webdriver.Chrome, page: Path, tmp_path: Path) -> None:
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    load(browser, page)
    choose(browser, "status", "failed", "collapsed")
    browser.find_element(By.ID, "download-runs").click()
    WebDriverWait(browser, 10).until(lambda _: list(tmp_path.glob("*.csv")))
    (path,) = tmp_path.glob("*.csv")
    assert "<" not in path.name
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == column(browser, "run")
    assert sorted(row["status"] for row in rows) == ["collapsed", "failed"]
    failed = next(row for row in rows if row["status"] == "failed")
    assert (failed["error"], failed["method"], failed["test_accuracy"]) == (HOSTILE, HOSTILE, "")
    assert browser.get_log("browser") == []


def test_an_address_opens_its_section(browser: webdriver.Chrome, page: Path) -> None:
    load(browser, page)
    link = browser.find_element(By.LINK_TEXT, "Training curves")
    anchor = link.get_attribute("href").partition("#")[2]
    part = f"return document.getElementById('{anchor}').closest('details').open"
    assert not browser.execute_script(part)
    link.click()
    WebDriverWait(browser, 5).until(lambda b: b.execute_script(part))
    load(browser, page)
    browser.execute_script("location.hash = '#settings'; location.reload()")
    WebDriverWait(browser, 10).until(
        lambda b: b.execute_script("return document.getElementById('settings')?.closest('details').open")
    )


def test_a_sort_sorts_both_ways_and_keeps_what_has_no_number_last(browser: webdriver.Chrome, page: Path) -> None:
    load(browser, page)
    for way in ("ascending", "descending"):
        sort(browser, "test_accuracy")
        head = browser.find_element(By.CSS_SELECTOR, "#run-table th[data-column=test_accuracy]")
        assert head.get_attribute("aria-sort") == way
        shown = column(browser, "test_accuracy")
        assert shown[-2:] == ["–", "–"]  # failed and missing
        numbers = [float(text) for text in shown[:-2]]
        assert numbers == sorted(numbers, reverse=way == "descending")
        assert len(set(numbers)) > 10
    sort(browser, "method")
    assert column(browser, "method") == sorted(column(browser, "method"))


def test_a_run_opens_with_its_curve_and_layers(
    browser: webdriver.Chrome, page: Path, tmp_path: Path, record: Callable[..., RunRecord], grid: Callable[..., Grid]
) -> None:
    load(browser, page)
    choose(browser, "method", "magnitude")
    run_id = column(browser, "run")[0]
    browser.find_element(By.CSS_SELECTOR, "button.run").click()
    opened = browser.find_element(By.ID, "one-run")
    assert opened.is_displayed()
    assert run_id in opened.text
    (spec,) = [spec for spec in grid(method=("magnitude",), sparsity=(0.9, 0.98)).runs() if spec.run_id == run_id]
    run = record(spec)
    rows = opened.find_elements(By.CSS_SELECTOR, "table.layers tbody tr")
    assert [row.find_elements(By.TAG_NAME, "td")[1].text for row in rows] == [str(x.kept) for x in run.pruning.layers]
    lines = opened.find_elements(By.CSS_SELECTOR, "svg.curve polyline")
    assert [len(line.get_attribute("points").split()) for line in lines] == [len(run.curve)] * 4
    assert browser.save_screenshot(str(tmp_path / "run.png"))
    assert (tmp_path / "run.png").stat().st_size > 10_000
    load(browser, page.with_name("index.html"))  # the address names the run, and opens it again
    browser.execute_script(f"location.hash = '#run-{run_id}'; location.reload()")
    WebDriverWait(browser, 10).until(lambda b: run_id in b.find_element(By.ID, "one-run").text)
    browser.find_element(By.CSS_SELECTOR, "#one-run h3 button").click()
    assert not browser.find_element(By.ID, "one-run").is_displayed()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(browser: webdriver.Chrome, page: Path, scheme: str) -> None:
    media: dict[str, Any] = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    load(browser, page)
    for selector in ("body", "#run-table button", ".soft", ".filters summary", "input"):
        text, back = browser.execute_script(
            """const style = getComputedStyle(document.querySelector(arguments[0]));
               const light = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(x => ((x / 255 + .055) / 1.055) ** 2.4)
                                             .reduce((sum, x, i) => sum + x * [.2126, .7152, .0722][i], 0);
               return [light(style.color), light(getComputedStyle(document.body).backgroundColor)]""",
            selector,
        )
        assert (max(text, back) + 0.05) / (min(text, back) + 0.05) > 4.5, selector  # WCAG AA
        assert (back < 0.1) == (scheme == "dark")


def test_the_page_prints_without_its_controls(browser: webdriver.Chrome, page: Path) -> None:
    load(browser, page)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert not browser.find_element(By.CSS_SELECTOR, ".filters").is_displayed()
    assert browser.find_element(By.ID, "run-table").is_displayed()
    style = "return [...document.querySelectorAll(arguments[0])].map(part => getComputedStyle(part)[arguments[1]])"
    assert set(browser.execute_script(style, "main p", "breakInside")) == {"avoid"}
    assert set(browser.execute_script(style, "#run-table th button", "display")) == {"contents"}, (
        "else heads repeat blank"
    )
    heights = browser.execute_script(style, "details figure img", "maxHeight")
    assert {round(float(height.removesuffix("px")) / 96 * 2.54, 1) for height in heights} <= {11, 20}, (
        "a page has room for head and text too"
    )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    lazily = len(browser.print_page())
    browser.execute_script("for (const image of document.images) image.loading = 'eager'")
    assert lazily > 0.9 * len(browser.print_page())  # the figures are on paper though nobody scrolled to them


def test_a_table_of_nine_methods_and_an_opened_run_need_no_scrolling_in_a_wide_window(
    browser: webdriver.Chrome,
    tmp_path: Path,
    grid: Callable[..., Grid],
    record: Callable[..., RunRecord],
    stored: Callable[[Path, Sequence[RunRecord]], Store],
) -> None:
    nine = ("random", "magnitude", "grad_norm", "snip", "grasp", "fisher_diagonal", "fisher_pruning", "fts", "fbss")
    specs = grid(dataset=("cifar10",), model=("resnet18",), method=nine, sparsity=(0.9, 0.98)).runs()
    path = write_report("nine", specs, stored(tmp_path / "in", list(map(record, specs))), tmp_path / "out")
    size = browser.get_window_size()
    browser.set_window_size(1366, 900)
    load(browser, path)
    browser.find_element(By.CSS_SELECTOR, "button.run").click()
    cut = "return [...document.querySelectorAll('.scroll')].filter(s => s.scrollWidth > s.clientWidth).length"
    assert browser.execute_script(cut) == 0
    browser.set_window_size(size["width"], size["height"])


def test_ten_thousand_runs_open_in_three_seconds_and_15_mb(
    browser: webdriver.Chrome,
    tmp_path: Path,
    grid: Callable[..., Grid],
    record: Callable[..., RunRecord],
    stored: Callable[[Path, Sequence[RunRecord]], Store],
) -> None:
    specs = grid(seed=tuple(range(118))).runs()
    assert len(specs) > 10_000
    path = write_report("large", specs, stored(tmp_path / "in", list(map(record, specs))), tmp_path / "out")
    assert path.stat().st_size < 15e6
    took = min(load(browser, path) for _ in range(2))
    assert took < 3
    choose(browser, "method", "fts")
    assert browser.find_element(By.ID, "run-count").text.startswith(f"{7 * 118 * 2} of {len(specs)} runs")
    browser.find_element(By.CSS_SELECTOR, "button.run").click()
    assert len(browser.find_elements(By.CSS_SELECTOR, "#one-run svg.curve polyline")) == 4
    print(f"{path.stat().st_size / 1e6:.1f} MB, {took:.2f} s")
