"""JupyterLab in a headless Chromium: the retrieval browser's widgets are clicked, and the figure
must follow; pages that need no training are opened and must be readable. Screenshots stay in the
test's folder, which ``pytest --basetemp=FOLDER`` chooses."""

import os
import re
import shutil
import socket
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
import yaml
from papermill.execute import parameterize_notebook
from papermill.iorw import load_notebook_node
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from reid_core.browser import Browser
from reid_core.data.datasets import obtain
from reid_core.paths import NOTEBOOKS, PROFILES, ROOT

pytestmark = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)",
)
SECONDS = 240  # what a step may take where many processes share the machine; alone it takes one
LABELLED = "//label[text()='{}']/following-sibling::"
PAGES = [ROOT / "README.zh.md"]
PAGES += [NOTEBOOKS / name for name in ("glossary.md", "lecturers_guide.md", "00_start_here.ipynb")]
PAGES += sorted(NOTEBOOKS.glob("[169]*.ipynb"))


@pytest.fixture
def page(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    """Notebook 31 up to its browser, on the smoke profile, open in JupyterLab; ``PAGES`` beside
    it."""
    notebook = load_notebook_node(str(NOTEBOOKS / "31_retrieval_browser.ipynb"))
    shown = next(n for n, cell in enumerate(notebook.cells) if "browser.show()" in cell.source)
    notebook.cells = notebook.cells[: shown + 1]
    smoke = yaml.safe_load((PROFILES / "smoke.yaml").read_text())
    smoke = {name: smoke[name] for name in ("profile", "dataset", "overrides")}
    nbformat.write(parameterize_notebook(notebook, smoke), tmp_path / "browser.ipynb")
    for path in PAGES:
        shutil.copy(path, tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {f"JUPYTER_{name}_DIR": str(tmp_path / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    lab = subprocess.Popen(
        [
            sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}",
            "--ServerApp.port_retries=0", f"--ServerApp.root_dir={tmp_path}",
            "--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True",
            "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=",
            f"--LabApp.workspaces_dir={tmp_path / 'workspaces'}",
        ],
        env=os.environ | own | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL, stderr=(tmp_path / "lab.log").open("wb"),
    )  # fmt: skip
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
                 "disable-background-networking", "disable-component-update", "disable-sync",
                 "window-size=1700,1300", f"user-data-dir={tmp_path / 'chromium'}"):  # fmt: skip
        options.add_argument(f"--{flag}")
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    try:
        driver = webdriver.Chrome(options, service)
        try:
            wait(driver, lambda: answering(port), "JupyterLab to start")
            # JupyterLab's current notebook is the one with focus, which not every headless
            # Chromium gives to its window
            driver.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})
            driver.get(f"http://127.0.0.1:{port}/lab/tree/browser.ipynb?reset")
            yield driver
        finally:
            driver.quit()
    finally:
        lab.terminate()
        lab.wait(30)


def answering(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def wait(driver: webdriver.Chrome, condition, what: str):
    return WebDriverWait(driver, SECONDS, 0.2).until(lambda _: condition(), f"waited for {what}")


def figure(driver: webdriver.Chrome) -> str:
    """The source of the picture below the controls, "" while there is none; asked in one step, for
    a picture may be replaced meanwhile."""
    return driver.execute_script(
        "return [...document.querySelectorAll('.jp-OutputArea img')].at(-1)?.src ?? ''"
    )


def test_jupyterlab(page: webdriver.Chrome, tmp_path: Path) -> None:
    """One test, for JupyterLab takes longer to start than all that is done in it."""
    ready = "return !!(window.jupyterapp && jupyterapp.shell.currentWidget?.sessionContext?.isReady"
    ready += " && jupyterapp.shell.currentWidget.sessionContext.session?.kernel)"
    wait(page, lambda: page.execute_script(ready), "the notebook and its kernel")
    page.execute_script("jupyterapp.commands.execute('notebook:run-all-cells')")
    every_control_works(page, tmp_path)
    for path in PAGES:
        is_readable(page, path)
        page.save_screenshot(str(tmp_path / f"{path.name}.png"))


def every_control_works(page: webdriver.Chrome, screenshots: Path) -> None:
    """The page shows what a browser of this process shows that is set in the same way."""
    wait(page, lambda: figure(page), "the first figure")
    wait(page, lambda: page.find_elements(By.CSS_SELECTOR, ".noUi-handle"), "the controls")
    controls = page.find_element(By.CSS_SELECTOR, ".jp-OutputArea .widget-vbox")
    page.execute_script("arguments[0].scrollIntoView()", controls)
    browser = Browser("smoke", "paperdolls-tiny", obtain("paperdolls-tiny"), "baselines/two-stream")
    pictures = [""]

    def control(label: str, kind: str) -> WebElement:
        return controls.find_element(By.XPATH, f".{LABELLED.format(label)}{kind}")

    def slide(name: str, key: str) -> None:
        control(name, "*//*[contains(@class, 'noUi-handle')]").send_keys(key)

    def follows(name: str) -> None:
        pictures.append(f"data:image/png;base64,{b64encode(browser.picture().data).decode()}")
        assert pictures[-1] != pictures[-2], f"{name} changes nothing"
        wait(page, lambda: figure(page) == pictures[-1], f"the figure to follow {name}")
        told = "*[contains(@class, 'widget-readout')]"
        wait(page, lambda: control("query", told).text == browser.query.label, "the query's name")
        page.save_screenshot(str(screenshots / f"{name}.png"))

    follows("first")
    slide("answers", Keys.HOME)  # to the fewest: the figures that follow are quick to draw
    browser.count.value = browser.count.min
    follows("answers")
    for name in ("next", "previous"):
        controls.find_element(By.XPATH, f".//button[contains(., '{name}')]").click()
        getattr(browser, name).click()
        follows(name)
    slide("query", Keys.ARROW_RIGHT)
    browser.query.index += 1
    follows("query")
    slide("trial", Keys.ARROW_RIGHT)
    browser.trial.value += 1
    follows("trial")
    for name, index in (("person", 2), ("search", 1), ("run", 0)):
        Select(control(name, "select")).select_by_index(index)
        getattr(browser, name).index = index
        follows(name)
    assert not page.find_elements(By.CSS_SELECTOR, ".jp-RenderedText[data-mime-type*=stderr]")


def is_readable(page: webdriver.Chrome, path: Path) -> None:
    """The first headings, which in a notebook are rendered at once, all tables and formulas."""
    notebook = path.suffix == ".ipynb"
    how = {"path": path.name, "factory": "Notebook" if notebook else "Markdown Preview"}
    how |= {"kernelPreference": {"shouldStart": False}}
    page.execute_script("jupyterapp.commands.execute('docmanager:open', arguments[0])", how)
    source = path.read_text(encoding="utf-8")
    if notebook:
        cells = nbformat.reads(source, 4).cells
        source = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    source = re.sub(r"^```.*?^```", "", source, flags=re.M | re.S)  # whose # are comments
    headings = re.findall("^#+ (.+)", source, re.M)[:2]
    rows = len(re.findall(r"^\|(?!-)", source, re.M))
    shown = """
        const parts = jupyterapp.shell.currentWidget.node.querySelectorAll('.jp-RenderedMarkdown');
        const all = kind => [...parts].flatMap(part => [...part.querySelectorAll(kind)]);
        const headings = all('h1, h2').map(h => h.innerText.replace('¶', '')).slice(0, 2);
        const raw = [...parts].some(part => part.innerText.includes('$'));
        return [headings, all('tr').length, raw]"""
    wait(
        page,
        lambda: page.execute_script(shown) == [headings, rows, False],
        f"{path.name}, readable",
    )
    wrong = ".jp-Dialog, mjx-merror, .jp-RenderedText[data-mime-type*=error]"
    assert not page.find_elements(By.CSS_SELECTOR, wrong)
