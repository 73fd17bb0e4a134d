"""What the tests of rendered pages share: the site without Quarto, and a browser

Without a package or Chromium, the tests that import this are skipped, with the reason."""

import contextlib
import importlib.util
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip('smalldocs', reason='smalldocs needs Python 3.11')
api = pytest.importorskip(
    'playwright.sync_api', reason='the browser test needs playwright: pip install playwright'
)
axe = pytest.importorskip(
    'axe_playwright_python.sync_playwright', reason='pip install axe-playwright-python'
)
chromium = next(
    filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None
)
if chromium is None:
    pytest.skip(
        'the browser test needs chromium: apt-get install chromium', allow_module_level=True
    )

root = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location('idkl_site', root / '.ci' / 'site.py')
site = importlib.util.module_from_spec(spec)
spec.loader.exec_module(site)


@contextlib.contextmanager
def open_browser():
    with api.sync_playwright() as started:
        arguments = ['--no-sandbox', '--disable-dev-shm-usage']
        yield started.chromium.launch(executable_path=chromium, args=arguments)


SITE = 'http://site.test/'  # a name that no machine has


def open_served(page, path, pages):
    "Open a page as from a server: the site's files are answered here, nothing else is there"
    folder = next(path.parent for path in pages if path.stem == 'index')

    def answer(route):
        file = folder / urlsplit(route.request.url).path[1:]
        route.fulfill(path=file) if file.is_file() else route.abort()

    page.route(f'{SITE}**', answer)
    page.goto(SITE + path.relative_to(folder).as_posix())
