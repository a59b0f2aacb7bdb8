"""The site: whole, readable without network, and open in a browser as a reader opens it."""

import json
import os
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from bs4 import BeautifulSoup

from reid_core import site
from reid_core.__main__ import main
from reid_core.config import ConfigError
from reid_core.notebooks import NotebookError
from reid_core.paths import NOTEBOOKS, results_folder

EQUATIONS, RESULTS = "02", "21"  # executed here: a notebook with equations, one with tables


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The whole site, two of its notebooks executed; what Sphinx complained about stands beside."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REID_RESULTS", str(tmp_path_factory.mktemp("results")))
        assert main(["site", EQUATIONS, RESULTS, "--profile", "smoke"]) == 0
        yield results_folder() / "site"


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium that no name leads out of, and that keeps account of what it loads."""
    driver = shutil.which("chromedriver")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not driver or not chromium:
        pytest.skip("no chromium and chromedriver (Debian: apt install chromium chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for switch in (
        "headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "no-first-run",
        "disable-background-networking", "disable-component-update", "disable-sync",
        "host-resolver-rules=MAP * ~NOTFOUND", "window-size=1400,1000",
    ):  # fmt: skip
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield browser
    browser.quit()


def test_every_notebook_has_a_page_that_says_what_it_is(pages):
    for notebook in site.chosen():
        text = (pages / "notebooks" / f"{notebook.stem}.html").read_text(encoding="utf-8")
        own = notebook.name[:2] in (EQUATIONS, RESULTS)
        assert ("Executed with profile" in text) is own, notebook.name
        assert ("Not executed with profile" in text) is not own, notebook.name


def test_no_link_is_broken(pages):
    """Files exist, and places within them too."""
    read = {p: BeautifulSoup(p.read_bytes(), "html.parser") for p in pages.rglob("*.html")}
    places = {p: {tag["id"] for tag in page.find_all(id=True)} for p, page in read.items()}
    links = [
        (path, tag.get("href") or tag.get("src"))
        for path, page in read.items()
        for tag in page.find_all(["a", "link", "script", "img"])
        if tag.get("href") or tag.get("src")
    ]
    assert len(links) > 20 * len(read)
    broken = []
    for path, link in links:
        url = urlsplit(link)
        if url.scheme:
            continue
        target = (path.parent / unquote(url.path)).resolve() if url.path else path
        if not target.is_file() or (url.fragment and url.fragment not in places[target] | {""}):
            broken.append(f"{path.relative_to(pages)}: {link}")
    assert not broken


def test_reads_in_a_browser_without_network(pages, browser):
    """Every page loads from the disk alone, with all its pictures and equations, and fits."""
    figures = equations = 0
    for path in sorted(pages.rglob("*.html")):
        browser.get(path.as_uri())
        browser.set_script_timeout(300)
        seen = browser.execute_async_script(LOOK)
        assert seen["title"], path
        assert not seen["hidden"], f"{path.name}: pictures that do not show"
        assert not seen["errors"], f"{path.name}: equations that MathJax cannot read"
        assert seen["typeset"] == seen["written"], f"{path.name}: equations"
        assert not seen["overflow"], f"{path.name}: wider than the window"
        figures, equations = figures + seen["figures"], equations + seen["typeset"]
    events = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    loaded = [
        e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"
    ]
    assert not [url for url in loaded if not url.startswith(("file:", "data:", "blob:"))]
    assert not [e["params"] for e in events if e["method"] == "Network.loadingFailed"]
    assert not [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]
    assert figures > 4  # of README and of the two executed notebooks
    assert equations > 50
    assert len(loaded) > 100


LOOK = """
const done = arguments[0];
const count = (selector) => document.querySelectorAll(selector).length;
const loaded = new Promise((ready) => {  // MathJax and pictures too, whatever the driver waits for
    if (document.readyState === "complete") ready(); else addEventListener("load", ready);
});
loaded.then(async () => {
    const images = [...document.images];
    for (const image of images) image.loading = "eager";
    await Promise.all(images.map((image) => image.decode().catch(() => {})));
    await window.MathJax?.startup?.promise;
    done({
        title: document.title,
        figures: images.length,
        hidden: images.filter((i) => !i.naturalWidth || !i.getBoundingClientRect().width).length,
        written: count(".math"), typeset: count(".math mjx-container"), errors: count("mjx-merror"),
        overflow: document.documentElement.scrollWidth > window.innerWidth,
    });
});
"""


def _executed(folder: Path, *, count: int | None = 1, outputs: tuple = ()) -> Path:
    cell = nbformat.v4.new_code_cell("1 + 1", execution_count=count, outputs=list(outputs))
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), folder / "executed.ipynb")
    return folder / "executed.ipynb"


def test_only_a_notebook_that_ran_to_its_end_is_reused(tmp_path):
    teaching, results = NOTEBOOKS / "03_baselines.ipynb", NOTEBOOKS / "25_mrda_results.ipynb"
    error = nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[])
    assert site.is_current(teaching, _executed(tmp_path))
    assert not site.is_current(results, _executed(tmp_path)), "runs may have come since"
    assert not site.is_current(teaching, _executed(tmp_path, count=None)), "killed before it"
    assert not site.is_current(teaching, _executed(tmp_path, outputs=(error,)))
    assert not site.is_current(teaching, tmp_path / "none.ipynb")
    (tmp_path / "half.ipynb").write_text(_executed(tmp_path).read_text()[:90])
    assert not site.is_current(teaching, tmp_path / "half.ipynb"), "killed while it was written"
    os.utime(_executed(tmp_path), (0, 0))
    assert not site.is_current(teaching, tmp_path / "executed.ipynb"), "edited since"


def test_a_notebook_that_fails_stops_no_other(tmp_path, monkeypatch, capsys):
    def execute(notebook, executed, parameters):
        if notebook.name[:2] == "00":
            raise NotebookError("ValueError: no")
        if notebook.name[:2] == "02":
            raise OSError("No space left on device")

    monkeypatch.setenv("REID_RESULTS", str(tmp_path))
    monkeypatch.setattr(site, "execute", execute)
    failed = site.execute_missing(site.chosen(["00", "02", "03"]), "smoke")
    full = "No space left on device"
    assert failed == {"00_start_here": "ValueError: no", "02_evaluation_protocols": full}
    assert "03_baselines: … executed in 0 s" in capsys.readouterr().out


def test_an_unknown_profile_is_refused_before_anything_is_made(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("REID_RESULTS", str(tmp_path))
    assert main(["site", "--profile", "typo"]) == 2
    assert "profile: found 'typo', expected one of: demo" in capsys.readouterr().err
    assert not (results_folder() / "site").exists()


def test_an_unknown_number_is_refused_with_the_choices():
    with pytest.raises(ConfigError, match="found 77, expected numbers of: 00, 01"):
        site.chosen(["02", "77"])
