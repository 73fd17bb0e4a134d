"""A person opens a chapter that has explorers, runs it, moves a slider and presses a button

In JupyterLab, in a real browser. Needs Chromium on the machine and the package playwright (no
browser is downloaded). `make test-browser` runs it, `make test` does not. IDKL_SCREENSHOTS names a
folder for the screenshots."""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from playwright import sync_api as api

chromium = next(
    filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None
)
if chromium is None:
    pytest.exit('the browser test needs Chromium: apt-get install chromium', returncode=1)

root = Path(__file__).resolve().parents[2]
SHOWN = re.compile(r'"text/plain": \[\s*"Explorer of ')  # what a page without a kernel says
shown = {}  # how many explorers a chapter shows
for path in sorted((root / 'nbs').rglob('[!.]*.ipynb')):
    count = len(SHOWN.findall(path.read_text(encoding='utf-8')))
    # the page of the frame closes its example again
    if count and path.stem != 'explorers':
        shown[path] = count
MODULE = (  # an explorer of the page, with a kernel
    "from idkl_nb.page_explorers import explorer\ntgsa = explorer('tgsa')\ntgsa",
    "explorer('search')",
    "world = explorer('world')\nworld.state = world.state | dict(people=200)\nworld",
    "print('in Python:', tgsa.state['a'][0])",
)
SETTINGS = {
    '@jupyterlab/notebook-extension/tracker': dict(windowingMode='none'),
    '@jupyterlab/apputils-extension/notification': dict(fetchNews='false', checkForUpdates=False),
}
HASH = """async image => {
    const bytes = await (await fetch(image.src)).arrayBuffer()
    return Array.from(new Uint8Array(await crypto.subtle.digest('SHA-256', bytes))).join() }"""
ERRORS = (
    '[data-mime-type="application/vnd.jupyter.error"], '
    '[data-mime-type="application/vnd.jupyter.stderr"]'
)
RUN_ALL = """async () => {
    const notebook = window.jupyterapp.shell.currentWidget
    await notebook.context.ready
    await notebook.sessionContext.ready
    await window.jupyterapp.commands.execute('notebook:run-all-cells')
    const code = notebook.content.widgets.filter(cell => cell.model.type == 'code')
    return code.filter(cell => !cell.model.executionCount).length }"""


def copy_without_outputs(chapter, folder):
    "The chapter without outputs"
    book = json.loads(chapter.read_text(encoding='utf-8'))
    for cell in book['cells']:
        if cell['cell_type'] == 'code':
            cell['outputs'], cell['execution_count'] = [], None
    (folder / chapter.name).write_text(json.dumps(book), encoding='utf-8')


@pytest.fixture
def lab(tmp_path):
    "JupyterLab on loopback, with a token; its address"
    books, config = tmp_path / 'books', tmp_path / 'config'
    books.mkdir()
    for chapter in shown:
        copy_without_outputs(chapter, books)
    cells = [nbformat.v4.new_code_cell(source) for source in MODULE]
    # without a kernel's name, JupyterLab would ask for one
    metadata = dict(kernelspec=dict(name='python3', display_name='python3', language='python'))
    book = nbformat.v4.new_notebook(cells=cells, metadata=metadata)
    nbformat.write(book, books / 'module.ipynb')
    for name, values in SETTINGS.items():
        file = config / 'lab' / 'user-settings' / f'{name}.jupyterlab-settings'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    env = os.environ | dict(
        JUPYTER_TOKEN=token,
        JUPYTER_CONFIG_DIR=str(config),
        JUPYTERLAB_SETTINGS_DIR=str(config / 'lab' / 'user-settings'),
        JUPYTERLAB_WORKSPACES_DIR=str(config / 'workspaces'),
        IPYTHONDIR=str(config / 'ipython'),
    )
    with open(tmp_path / 'lab.log', 'wb') as log:
        server = subprocess.Popen(
            [
                sys.executable,
                '-m',
                'jupyterlab',
                '--no-browser',
                '--allow-root',
                '--LabApp.expose_app_in_browser=True',
                '--ServerApp.ip=127.0.0.1',
                f'--ServerApp.port={port}',
                '--ServerApp.port_retries=0',
                f'--ServerApp.root_dir={books}',
            ],
            stdout=log,
            stderr=log,
            env=env,
        )
    try:
        for _ in range(120):
            if server.poll() is not None:
                pytest.fail((tmp_path / 'lab.log').read_text()[-2000:])
            try:
                urllib.request.urlopen(
                    f'http://127.0.0.1:{port}/api/status?token={token}', timeout=5
                ).close()
                break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail('JupyterLab did not start within a minute')
        with pytest.raises(urllib.error.HTTPError, match='403'):
            urllib.request.urlopen(
                f'http://127.0.0.1:{port}/api/contents', timeout=5
            )  # nobody without the token
        yield lambda name: f'http://127.0.0.1:{port}/lab/tree/{name}?token={token}'
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


@pytest.fixture
def page():
    with api.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=chromium, args=['--no-sandbox', '--disable-dev-shm-usage']
        )
        page = browser.new_page(viewport=dict(width=1400, height=1000))
        page.set_default_timeout(60_000)
        yield page
        browser.close()


def run_all(page):
    "Run > Run All Cells, and wait for the last one"
    page.locator('.jp-Notebook .jp-CodeCell').first.wait_for()
    page.wait_for_function('window.jupyterapp?.shell.currentWidget?.sessionContext')
    left = page.evaluate(RUN_ALL)
    assert page.locator(ERRORS).count() == 0, page.locator(ERRORS).first.inner_text()
    assert left == 0, f'{left} cells did not run'


def settle(page, picture):
    "Wait until the kernel is idle and the picture stays as it is for a second"
    page.wait_for_function(
        "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status == 'idle'"
    )
    last = None
    while last != (last := picture.evaluate(HASH)):
        page.wait_for_timeout(1000)


def changes(page, picture, act):
    "Do something, and wait until the picture's bytes are others; how many seconds that took"
    settle(page, picture)
    before = picture.evaluate(HASH)
    act()
    began = time.perf_counter()
    while time.perf_counter() < began + 60:
        page.wait_for_timeout(10)
        if picture.evaluate(HASH) != before:
            return time.perf_counter() - began
    pytest.fail(
        f'the picture did not change in a minute: {picture.locator("xpath=..").inner_text()}'
    )


def drag(page, picture, x, y):
    """Press the mouse over the picture, pull it a little to the right, and let go

    x and y are shares of its width and height."""
    box = picture.bounding_box()
    x, y = box['x'] + x * box['width'], box['y'] + y * box['height']
    page.mouse.move(x, y)
    page.mouse.down()
    page.wait_for_timeout(300)
    page.mouse.move(x + 15, y, steps=3)
    page.wait_for_timeout(300)
    page.mouse.up()


@pytest.mark.parametrize('chapter', shown, ids=lambda chapter: chapter.name)
def test_a_person_uses_the_explorers(chapter, lab, page, tmp_path):
    name = chapter.name
    kept = Path(os.environ.get('IDKL_SCREENSHOTS', tmp_path))
    kept.mkdir(parents=True, exist_ok=True)
    page.goto(lab(name))
    try:
        run_all(page)
    finally:
        page.screenshot(path=kept / f'{name[:-6]}.png')
    explorers = page.locator('.jp-OutputArea-child:has(img.widget-image)')
    explorers.first.wait_for()
    assert page.get_by_text('javascript error').count() == 0
    assert explorers.count() == shown[chapter]  # as many as the page has pictures of
    seconds = []
    for n in range(explorers.count()):
        explorer = explorers.nth(n)
        explorer.scroll_into_view_if_needed()
        picture = explorer.locator('img.widget-image')
        assert picture.evaluate('image => image.naturalWidth') > 100
        labels = (
            explorer.locator(
                '.widget-inline-hbox:not(.widget-html) > .widget-label'
            ).all_inner_texts()
            + explorer.locator('.widget-checkbox').all_inner_texts()
        )
        assert labels and all(label.strip() for label in labels), labels
        if explorer.locator('input[type=number]').count():
            box = explorer.locator('input[type=number]').first
            seconds.append(changes(page, picture, lambda: (box.fill('3'), box.press('Enter'))))
        else:  # by keyboard
            handle = explorer.locator('.noUi-handle').first
            handle.focus()
            at_end = handle.get_attribute('aria-valuenow') == handle.get_attribute('aria-valuemax')
            seconds.append(
                changes(
                    page,
                    picture,
                    lambda: page.keyboard.press('ArrowLeft' if at_end else 'ArrowRight'),
                )
            )
        if 'rank' in labels:
            changes(
                page, picture, lambda: drag(page, picture, 0.45, 0.3)
            )  # the fourth of nine pictures
            settle(page, picture)  # the drag crosses others on its way
            assert 'query and rank 4 ' in explorer.inner_text().replace('rank 4,', 'rank 4 '), (
                explorer.inner_text()
            )
        settle(page, picture)
        assert 'cannot be shown' not in explorer.inner_text()
        explorer.screenshot(path=kept / f'{name[:-6]}-{n + 1}.png')
    (kept / f'{name[:-6]}-seconds.json').write_text(
        json.dumps([round(s, 3) for s in seconds])
    )  # as a person waits, with the browser
    assert (
        page.locator(ERRORS).count() == 0
        and page.get_by_text('Error displaying widget').count() == 0
    )


RUN_LAST = """async () => {
    const { content } = window.jupyterapp.shell.currentWidget
    content.activeCellIndex = content.widgets.length - 1
    await window.jupyterapp.commands.execute('notebook:run-cell') }"""


def test_a_module_tells_python_where_its_points_are(lab, page):
    page.goto(lab('module.ipynb'))
    run_all(page)
    assert page.get_by_text('in Python: [-2.0, 1.0]').count() == 1
    handle = page.locator('.jp-OutputArea .idkl').get_by_role('slider').first
    handle.press('ArrowRight')
    handle.press('ArrowUp')
    page.wait_for_timeout(500)
    page.evaluate(RUN_LAST)
    page.get_by_text('in Python: [-1.9, 1.1]').wait_for()

    # the search asks the kernel for its pictures and for what the networks make of them
    page.get_by_role('button', name='load the search').click()
    page.get_by_text('Person 213 at dial 0.65. L_b: first right picture at rank 2').wait_for()
    assert page.locator('.idkl section li').count() == 20

    # the world draws whoever is asked for
    page.get_by_role('slider', name='person').press('End')
    page.get_by_text('Person 200: ').wait_for()
    assert page.locator(ERRORS).count() == 0
