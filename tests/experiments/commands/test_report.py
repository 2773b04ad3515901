"""`parm report` and `parm trace`: a page that works in a real browser, a timeline that other tools open."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.figures.report import _shortest
from tests.command import parm

EXPERIMENT = """\
name: small
trials: 2
workload: {arrivals: {kind: poisson, rate: 90}, queries: 600}
cluster: {instances: 4, extra: 2, service: {kind: exponential, mean: 0.03}}
policies:
  - equal_resources
  - {kind: coded, name: two, k: 2, parity_instances: budget}
sweep: {workload.arrivals.rate: [60, 90]}
figures: [latency_vs_sweep, ccdf]
claims:
  - {kind: reduction, says: coding helps, policy: two, against: equal_resources, above: 0.9}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    there = tmp_path_factory.mktemp("report")
    (there / "experiment.yaml").write_text(EXPERIMENT)
    with pytest.MonkeyPatch.context() as monkeypatch:
        words = ["run", there / "experiment.yaml", "--out", there / "out", "--workers", 1]
        assert parm(*words, monkeypatch=monkeypatch) == 0
    return there / "out"


def test_a_page_needs_nothing_else(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert parm("report", folder, "--slo", "p999=1500ms", "--out", page, monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out.strip() == str(page)
    text = page.read_text(encoding="utf-8")
    assert "meet p99.9 &lt;= 1500 ms" in text
    assert "coding helps" in text
    assert "not reproduced" in text
    assert text.count("data:image/png;base64,") == 2
    for outside in ("http://", "https://", 'src="/', "@import", "url(h", "url(/"):
        assert outside not in re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    assert len(text) < 3_000_000


@pytest.fixture
def browser() -> Iterator[Any]:
    """Chromium without a window; skipped where it is not installed."""
    webdriver = pytest.importorskip("selenium.webdriver")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.mark.parametrize("width", [390, 1280], ids=["phone", "desktop"])
def test_a_page_renders_and_sorts_in_a_browser(
    folder: Path, tmp_path: Path, browser: Any, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.html"
    assert parm("report", folder, "--out", page, monkeypatch=monkeypatch) == 0
    browser.set_window_size(width, 900)
    browser.get(page.as_uri())
    overflow = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert browser.execute_script(overflow) <= 0, "the page scrolls sideways"
    images = browser.find_elements("css selector", "figure img")
    assert len(images) == 2
    assert all(browser.execute_script("return arguments[0].decode().then(() => true)", image) for image in images)

    headings = browser.find_elements("css selector", "table:first-of-type th")
    column = next(index for index, one in enumerate(headings) if one.text.startswith("p99.9"))

    def values() -> list[float]:
        table = browser.find_element("css selector", "#numbers ~ div table")
        cells = table.find_elements("css selector", f"tbody td:nth-child({column + 1})")
        return [float(cell.get_attribute("data-key")) for cell in cells]

    before = values()
    button = headings[column].find_element("tag name", "button")
    browser.execute_script("arguments[0].click()", button)
    assert values() == sorted(before)
    browser.execute_script("arguments[0].click()", button)
    assert values() == sorted(before, reverse=True)
    assert headings[column].get_attribute("aria-sort") == "descending"
    assert browser.get_log("browser") == []


def test_a_timeline_is_json_that_other_tools_open(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parm("trace", folder, "--slowest", 3, "--policy", "two", monkeypatch=monkeypatch) == 0
    assert "open it in https://ui.perfetto.dev" in capsys.readouterr().out
    document = json.loads(gzip.decompress((folder / "trace.json.gz").read_bytes()))
    marked = [event["name"] for event in document["traceEvents"] if event.get("cname") == "bad"]
    assert len(marked) == 3
    plain = tmp_path / "trace.json"
    words = ["--whole", "--at", "rate=60", "--trial", 1, "--out", plain]
    assert parm("trace", folder, *words, monkeypatch=monkeypatch) == 0
    events = json.loads(plain.read_text())["traceEvents"]
    names = [event["args"]["name"] for event in events if event["name"] == "process_name"]
    assert names[0] == "equal_resources, rate=60, trial 1: instances"
    assert len(names) == 4


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["report", "--slo", "p98=50ms"], "there is no 'p98' in the summary"),
        (["report", "--slo", "p999=50"], "it needs a unit"),
        (["trace", "--policy", "three"], "there is no policy 'three'"),
        (["trace", "--at", "rate"], "--at rate: must look like rate=300."),
        (["reversals", "--against", "rate"], "--against rate: must look like rate=300."),
        (["reversals", "--against", "rate=1"], "there is no sweep point with workload.arrivals.rate = 1"),
        (["trace", "--trial", "7"], "there is no trial 7: the run has trials 0 to 1."),
    ],
)
def test_mistakes_are_sentences(
    folder: Path, words: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    verb, *rest = words
    assert parm(verb, folder, *rest, monkeypatch=monkeypatch) == 2
    assert says in capsys.readouterr().err


def test_a_folder_without_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parm("report", tmp_path, monkeypatch=monkeypatch) == 2
    assert "is not a run directory" in capsys.readouterr().err


def test_headings_tell_swept_keys_apart() -> None:
    keys = ["policies.coded.k", "cluster.encode.value", "cluster.decode.value", "a.value"]
    assert [_shortest(key, keys) for key in keys] == ["k", "encode.value", "decode.value", "a.value"]
