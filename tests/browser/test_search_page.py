"""The search in the page in a real browser: served from files of this machine, no other host

The distances in the page are those of the package. The first time, onnxruntime-web comes from npm;
where it can't be fetched and is not in the cache, the tests that need it are skipped.
IDKL_SCREENSHOTS names a folder for pictures."""

import functools
import io
import json
import os
import runpy
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rendered import axe, open_browser, root, site
from torch.nn import functional as F

from idkl_nb.heatmaps import heat_map
from idkl_nb.images import eval_transform
from idkl_nb.model import IDKL
from idkl_nb.page_explorers import STARTS
from idkl_nb.page_files import DIALS, METHODS, SIZE, gallery, queries, write_page_files
from idkl_nb.page_still import features_of, ranked
from idkl_nb.pretrained import load

pytest.importorskip('onnxscript')
runtime = runpy.run_path(str(root / '.ci' / 'runtime.py'))
START = STARTS['search'].state
ONE_PAGE = ('search_in_the_page.ipynb', 'styles.css', '_quarto.yml')


ANSWER = """() => {
    const words = document.querySelector('[data-explorer] output').textContent
    const failed = words.startsWith('The search') && words
    return document.querySelector('[data-explorer] .idkl').answer || failed }"""


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope='module')
def pages(tmp_path_factory):
    "The page, as the site has it, without the files of the search"
    before = os.getcwd()
    os.chdir(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site, 'sources', lambda _: map(Path, ONE_PAGE))
        yield site.stand_in(tmp_path_factory.mktemp('site') / 'nbs')[0]
    os.chdir(before)


@pytest.fixture(scope='module')
def address(pages):
    "Of the page, served from this machine"
    server = ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Silent, directory=pages))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}/search_in_the_page.html'
    server.shutdown()
    server.server_close()


@pytest.fixture(scope='module')
def files(pages):
    "The folder of the files that the page loads"
    try:
        runtime['add_runtime']('onnxruntime-web', pages / START['folder'])
    except OSError as error:
        pytest.skip(f'without onnxruntime-web: {error}')
    return write_page_files(pages / START['folder'])


@pytest.fixture(scope='module')
def browser():
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope='module')
def screenshots(tmp_path_factory):
    folder = Path(os.environ.get('IDKL_SCREENSHOTS') or tmp_path_factory.mktemp('screenshots'))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Searched:
    "The page in a browser that reaches this machine alone"

    def __init__(self, browser, address, **context):
        options = dict(viewport=dict(width=1400, height=1000), reduced_motion='reduce')
        self.page = browser.new_context(**options | context).new_page()
        self.page.set_default_timeout(60_000)
        self.faults, self.asked = [], []
        self.page.on('pageerror', lambda error: self.faults.append(str(error)))
        self.page.on('console', self.hear)
        self.page.route('**/*', self.pass_on)
        self.page.goto(address)
        self.home = self.page.locator('[data-explorer="search"]')

    def pass_on(self, route):
        here = '//127.0.0.1' in route.request.url
        if here:
            self.asked.append(route.request.url)
        route.continue_() if here else route.abort()

    def hear(self, message):
        if message.type == 'error' and not message.text.startswith('Failed to load resource'):
            self.faults.append(message.text)

    def words(self):
        return self.home.locator('output').inner_text()

    def answer(self, act):
        "Do something, and wait for what the networks say to it"
        self.home.evaluate('home => { home.querySelector(".idkl").answer = null }')
        act()
        answer = self.page.wait_for_function(ANSWER).json_value()
        assert isinstance(answer, dict), answer
        return answer

    def person(self, number):
        return self.home.get_by_role('radio', name=f'person {number}')


def values(found):
    "What JavaScript keeps as an array of floats"
    return np.array(list(found.values()) if isinstance(found, dict) else found)


def check(answer, dial, person):
    "The whole list of each method is that of the package"
    for method, told in zip(METHODS, answer['lists']):
        expected = ranked(method, dial)
        assert told['name'] == method
        distances = [found['distance'] for found in told['order']]
        assert distances == pytest.approx(expected.distances[person].tolist(), abs=1e-3)
        rows = [found['n'] for found in told['order']]
        by_row = dict(zip(expected.rows[person].tolist(), expected.distances[person]))
        assert [by_row[n] for n in rows] == pytest.approx(distances, abs=1e-3)
        assert rows[:3] == expected.rows[person][:3].tolist()


def shown_lists(home):
    "For each method the words below its pictures"
    return [
        [item.inner_text() for item in part.locator('li').all()]
        for part in home.locator('section').all()
    ]


def check_shown(home, dial, person):
    "Ranks, marks and distances that a reader sees"
    wanted = queries(dial).people[person]
    for method, items in zip(METHODS, shown_lists(home)):
        expected = ranked(method, dial)
        for place, item in enumerate(items):
            rank, mark, distance = item.split()
            right = gallery().people[expected.rows[person][place]] == wanted
            assert (int(rank), mark) == (place + 1, '✓' if right else '✗')
            assert float(distance) == pytest.approx(expected.distances[person][place], abs=1e-3)
        assert len(items) == 10


def check_heat(answer, dial, person):
    "The heat of the first pictures is that of `heat_map`, in the same units"
    transform = eval_transform(*SIZE)
    query = transform(Image.fromarray(queries(dial).images[person].permute(1, 2, 0).numpy()))
    for method, told in zip(METHODS, answer['lists']):
        trained = load(method)
        model = IDKL(trained.config.model, 2).eval()
        model.embedder().load_state_dict(trained.embedder.state_dict())
        rows = [found['n'] for found in told['order'][:3]]
        images = [gallery().images[row].permute(1, 2, 0).numpy() for row in rows]
        batch = torch.stack([transform(Image.fromarray(image)) for image in images])
        expected = heat_map(model, batch, like=query[None], scale=False)

        heats = torch.tensor(np.stack([values(heat) for heat in told['heats'][:3]]))
        small = heats.float().reshape(3, 1, SIZE[0] // 8, SIZE[1] // 8)
        large = F.interpolate(small, SIZE, mode='bilinear')[:, 0]
        assert expected.amax() > 0
        torch.testing.assert_close(large, expected, rtol=1e-3, atol=1e-3 * expected.amax().item())


@pytest.fixture(scope='module')
def opened(browser, address, files):
    "The search, loaded by keyboard, and its first answer"
    shown = Searched(browser, address)
    assert not [url for url in shown.asked if START['folder'] in url]  # before it is asked for
    button = shown.home.get_by_role('button')
    assert f'({START["megabytes"]} MB)' in button.inner_text()
    assert not axe_faults(shown.page)

    first = shown.answer(lambda: button.press('Enter'))
    asked = {url.rpartition('/')[2] for url in shown.asked if START['folder'] in url}
    assert asked == {name for name in os.listdir(files) if not name.endswith('.txt')}
    assert shown.person(213).evaluate('radio => radio === document.activeElement')
    yield shown, first
    assert not shown.faults


def test_the_search_answers_as_the_package_does(opened, screenshots):
    shown, first = opened
    check(first, 0.65, START['person'])
    check_shown(shown.home, 0.65, START['person'])
    check_heat(first, 0.65, START['person'])

    # by keyboard: the next person, then another stop of the dial
    second = shown.answer(lambda: shown.page.keyboard.press('ArrowRight'))
    assert shown.words().startswith('Person 214 at dial 0.65. L_b: first right picture at rank 1')
    check(second, 0.65, START['person'] + 1)
    dial = shown.home.get_by_role('radio', name='0.65', exact=True)
    third = shown.answer(lambda: dial.press('ArrowLeft'))
    check(third, 0.3, START['person'] + 1)

    number = queries(0.3).people.index(237)
    fourth = shown.answer(lambda: shown.person(237).check())
    check(fourth, 0.3, number)
    check_shown(shown.home, 0.3, number)
    state = shown.home.evaluate('home => home.model.get("state")')
    assert state == START | dict(person=number, dial='0.3')

    shown.home.screenshot(path=screenshots / 'search-1400.png')
    took = [answer['took'] for answer in (first, second, third, fourth)]
    (screenshots / 'search-milliseconds.json').write_text(json.dumps([round(ms) for ms in took]))
    assert min(took) < 1000


def test_a_picture_of_ones_own_is_searched_for(opened, screenshots):
    "A picture of the gallery, as a file: nearest is itself, and nothing is marked right or wrong"
    shown, _ = opened
    image = gallery().images[8:9]
    file = io.BytesIO()
    Image.fromarray(image[0].permute(1, 2, 0).numpy()).save(file, 'png')
    given = dict(name='own.png', mimeType='image/png', buffer=file.getvalue())
    chooser = shown.home.locator('input[type=file]')
    answer = shown.answer(lambda: chooser.set_input_files(given))

    for method, told in zip(METHODS, answer['lists']):
        own, others = features_of(method, image), features_of(method, gallery().images)
        expected = 1 - F.cosine_similarity(own, others)
        assert told['order'][0]['n'] == 8
        distances = [expected[found['n']].item() for found in told['order']]
        assert [found['distance'] for found in told['order']] == pytest.approx(distances, abs=1e-3)
    assert shown.words().startswith('Your picture, which stays on this device. L_b: nearest at')
    assert '✓' not in shown.home.inner_text() and '✗' not in shown.home.inner_text()
    shown.home.screenshot(path=screenshots / 'search-own.png')

    chooser.set_input_files(dict(name='a.txt', mimeType='text/plain', buffer=b'no picture'))
    shown.page.get_by_text('a.txt is no picture').wait_for()
    shown.answer(lambda: shown.home.get_by_role('radio', name='0.65', exact=True).check())
    back = shown.answer(lambda: shown.person(213).check())
    check(back, 0.65, START['person'])


def opacity(heat):
    return heat.evaluate('heat => getComputedStyle(heat).opacity')


def test_everybody_can_use_the_search(opened, screenshots):
    "On a phone: nothing sticks out, names for a screen reader, contrast; heat under the pointer"
    shown, _ = opened
    shown.page.set_viewport_size(dict(width=390, height=844))
    assert shown.page.evaluate('document.documentElement.scrollWidth') <= 390
    for label in shown.home.locator('.people label').all()[:3]:
        assert label.bounding_box()['width'] >= 24
    for scheme in ('light', 'dark'):
        shown.page.emulate_media(color_scheme=scheme)
        shown.home.screenshot(path=screenshots / f'search-390-{scheme}.png')
        assert not axe_faults(shown.page)

    heats = shown.home.locator('li .heat')
    assert opacity(heats.first) == '0'
    shown.home.locator('li').first.hover()
    assert opacity(heats.first) == '1'
    shown.home.get_by_role('checkbox').check()
    assert opacity(heats.last) == '1'
    shown.home.screenshot(path=screenshots / 'search-390-heat.png')


def axe_faults(page):
    found = axe.Axe().run(page, context='[data-explorer="search"]').response['violations']
    return [(each['id'], each['nodes'][0]['html'][:90]) for each in found]


def test_where_the_files_are_missing_the_button_says_so(browser, address):
    shown = Searched(browser, address)
    shown.page.route(f'**/{START["folder"]}/*', lambda route: route.fulfill(status=404))
    shown.home.get_by_role('button').click()
    shown.home.get_by_role('button', name='not available here').wait_for()
    assert 'about.json is not there' in shown.words()
    assert shown.home.locator('img').bounding_box()['width'] > 300  # the picture stays
    assert not shown.faults


def test_the_button_says_how_large_it_is(files):
    names = [name for name in os.listdir(files) if not name.endswith('.txt')]
    size = sum((files / name).stat().st_size for name in names)
    assert START['megabytes'] - 1 < size / 1e6 <= START['megabytes']


def test_a_network_says_nothing_of_the_machine_that_made_it(files):
    for method in METHODS:
        content = (files / f'{method}.onnx').read_bytes()
        assert b'FeaturesAndMaps' not in content and str(root).encode() not in content
