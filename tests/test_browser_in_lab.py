"""The retrieval browser in JupyterLab, in a headless Chromium: its widgets are clicked, and the
figure must follow. Screenshots stay in the test's folder, which
``pytest --basetemp=FOLDER`` chooses."""

import os
import shutil
import socket
import subprocess
import sys
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
from selenium.webdriver.support.ui import Select, WebDriverWait

from reid_core.paths import NOTEBOOKS, PROFILES, ROOT

pytestmark = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)",
)
SECONDS = 240  # what a step may take where many processes share the machine; alone it takes one
SEARCHES = "//label[text()='search']/following-sibling::select"


@pytest.fixture
def page(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    """Notebook 31 up to its browser, on the smoke profile, open in JupyterLab."""
    notebook = load_notebook_node(str(NOTEBOOKS / "31_retrieval_browser.ipynb"))
    shown = next(n for n, cell in enumerate(notebook.cells) if "browser.show()" in cell.source)
    notebook.cells = notebook.cells[: shown + 1]
    smoke = yaml.safe_load((PROFILES / "smoke.yaml").read_text())
    smoke = {name: smoke[name] for name in ("profile", "dataset", "overrides")}
    nbformat.write(parameterize_notebook(notebook, smoke), tmp_path / "browser.ipynb")
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


def test_controls_work_in_jupyterlab(page: webdriver.Chrome, tmp_path: Path) -> None:
    ready = "return !!(window.jupyterapp && jupyterapp.shell.currentWidget?.sessionContext?.isReady"
    ready += " && jupyterapp.shell.currentWidget.sessionContext.session?.kernel)"
    wait(page, lambda: page.execute_script(ready), "the notebook and its kernel")
    page.execute_script("jupyterapp.commands.execute('notebook:run-all-cells')")
    wait(page, lambda: figure(page), "the first figure")
    wait(page, lambda: page.find_elements(By.XPATH, SEARCHES), "the controls")
    controls = page.find_element(By.CSS_SELECTOR, ".jp-OutputArea .widget-vbox")
    page.execute_script("arguments[0].scrollIntoView()", controls)
    page.save_screenshot(str(tmp_path / "first.png"))
    pictures = [figure(page)]

    def changed(name: str) -> None:
        wait(page, lambda: figure(page) not in ("", pictures[-1]), f"another figure after {name}")
        pictures.append(figure(page))
        page.save_screenshot(str(tmp_path / f"{name}.png"))

    page.find_element(By.XPATH, "//button[contains(., 'next')]").click()
    changed("next")
    handle = page.find_elements(By.CSS_SELECTOR, ".noUi-handle")[-1]  # the query's is the last
    handle.send_keys(Keys.ARROW_RIGHT)
    changed("slider")
    Select(page.find_element(By.XPATH, SEARCHES)).select_by_index(1)
    changed("search")
    Select(page.find_element(By.XPATH, SEARCHES.replace("search", "run"))).select_by_index(0)
    changed("run")
    assert len(set(pictures)) == len(pictures)
    assert not page.find_elements(By.CSS_SELECTOR, ".jp-RenderedText[data-mime-type*=stderr]")
