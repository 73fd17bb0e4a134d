"""The pages of the site in a real browser, at the width of a desk and of a phone

They are rendered in pure Python. Nothing sticks out, every picture is there, no link leads under
the bar at the top. IDKL_SCREENSHOTS names a folder for pictures of some of them. Formulas stay
source here: KaTeX comes from the network, which is shut."""

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

pytest.importorskip('smalldocs', reason='smalldocs needs Python 3.11')
api = pytest.importorskip(
    'playwright.sync_api', reason='the browser test needs playwright: pip install playwright'
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


OUTSIDE = """() => {
    const whole = [document.documentElement, document.body]
    const scrolls = element => {
        for (let up = element; up && !whole.includes(up); up = up.parentElement)
            if (['auto', 'scroll'].includes(getComputedStyle(up).overflowX)) return true }
    const sticksOut = element => {
        const box = element.getBoundingClientRect()
        return box.width && box.right > innerWidth + 1 && !scrolls(element) }
    const elements = [...document.querySelectorAll('main *')].filter(sticksOut)
    return elements.map(element => element.outerHTML.slice(0, 90)) }"""
PICTURES = """() => {
    const here = image => image.src.startsWith('file:') || image.src.startsWith('data:')
    const whole = image => image.complete && image.naturalWidth
    return [...document.images].filter(here).every(whole) }"""


@pytest.fixture(scope='module')
def pages(tmp_path_factory):
    before = os.getcwd()
    os.chdir(root)
    try:
        yield sorted(site.stand_in(tmp_path_factory.mktemp('site') / 'nbs')[0].rglob('*.html'))
    finally:
        os.chdir(before)


@pytest.mark.parametrize('width', [1400, 390])
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_pages_fit_and_have_their_pictures(pages, width, scheme, tmp_path):
    kept = Path(os.environ.get('IDKL_SCREENSHOTS', tmp_path))
    kept.mkdir(parents=True, exist_ok=True)
    with api.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=chromium, args=['--no-sandbox', '--disable-dev-shm-usage']
        )
        page = browser.new_page(viewport=dict(width=width, height=1000), color_scheme=scheme)
        page.route(
            '**/*',
            lambda route: (
                route.continue_() if route.request.url.startswith('file:') else route.abort()
            ),
        )
        for path in pages:
            page.goto(path.as_uri())
            outside = page.evaluate(OUTSIDE)
            assert not outside, f'{path.name} at {width} pixels: {outside[:3]}'
            assert page.evaluate('document.documentElement.scrollWidth') <= width, path.name
            assert page.evaluate(PICTURES), f'{path.name}: a picture is missing'
            if path.stem in ('index', '08_tgsa', 'symbols', 'heatmaps'):
                page.screenshot(path=kept / f'page-{path.stem}-{width}-{scheme}.png')
        ground = page.evaluate('getComputedStyle(document.body).backgroundColor')
        assert (sum(map(int, ground.strip('rgb()').split(','))) < 384) == (scheme == 'dark'), ground
        browser.close()


# Quarto's bars at the top: 64 pixels high, 82 in the dark theme; up to 991 pixels of width a second
# one is under the first. It lies over the page, shifts sections by itself, and moves up when the
# page is read on.
AS_QUARTO = """([width, dark]) => {
    const bar = document.querySelector('#quarto-header')
    document.documentElement.style.cssText = 'scroll-behavior: auto'
    const height = (dark ? 82 : 64) + (width < 992 ? 50 : 0)
    bar.className = ''
    bar.style.cssText = 'position: fixed; top: 0; left: 0; right: 0; overflow: hidden'
    bar.style.height = `${height}px`
    document.body.style.paddingTop = `${height}px`
    const style = document.createElement('style')
    const box = `display: block; height: ${height}px; margin: -${height}px 0 0;`
    style.textContent = `section:target::before { content: ""; ${box} }`
    document.head.appendChild(style)
    return height }"""
TOP = """id => {
    location.hash = ''
    location.hash = id
    return document.getElementById(id).getBoundingClientRect().top }"""


@pytest.mark.parametrize('width', [1400, 390])
@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('anchor', ['eq-15', 'tgsa_loss', 'from-attention-to-distance'])
def test_a_link_leads_below_the_bar(pages, width, scheme, anchor):
    path = next(path for path in pages if path.stem == '08_tgsa')
    with api.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=chromium, args=['--no-sandbox', '--disable-dev-shm-usage']
        )
        page = browser.new_page(viewport=dict(width=width, height=1000), color_scheme=scheme)
        page.route(
            '**/*',
            lambda route: (
                route.continue_() if route.request.url.startswith('file:') else route.abort()
            ),
        )
        page.route('**/smalldocs.js', lambda route: route.abort())  # it sets a distance of its own
        page.goto(path.as_uri())
        height = page.evaluate(AS_QUARTO, [width, scheme == 'dark'])
        top = page.evaluate(TOP, anchor)
        browser.close()
    assert height <= top < height + 150
