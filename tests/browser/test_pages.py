"""The pages of the site in a real browser, at the width of a desk and of a phone

They are rendered in pure Python. Nothing sticks out, every picture is there, no link leads under
the bar at the top. IDKL_SCREENSHOTS names a folder for pictures of some of them. The network is
shut: what a page needs, it has beside it."""

import json
import os
import re
import runpy
from pathlib import Path

import pytest
import torch
import yaml
from rendered import api, axe, open_served, root

from idkl_nb.csa import csa_loss
from idkl_nb.explore_world import record as person_record
from idkl_nb.metrics import score_rankings
from idkl_nb.rerank import k_reciprocal
from idkl_nb.tgsa import affinity, tgsa_loss

OUTSIDE = """() => {
    const whole = [document.documentElement, document.body]
    const scrolls = element => {
        for (let up = element; up && !whole.includes(up); up = up.parentElement)
            if (['auto', 'scroll'].includes(getComputedStyle(up).overflowX)) return true }
    const sticksOut = element => {
        const box = element.getBoundingClientRect()
        return box.width && box.right > innerWidth + 1 && !scrolls(element) }
    const seen = element => !element.closest('.katex-mathml, .katex svg')  // clipped
    const elements = [...document.querySelectorAll('main *')].filter(seen).filter(sticksOut)
    return elements.map(element => element.outerHTML.slice(0, 90)) }"""
PICTURES = """() => {
    const here = image => image.src.startsWith('file:') || image.src.startsWith('data:')
    const whole = image => image.complete && image.naturalWidth
    return [...document.images].filter(here).every(whole) }"""


def from_files(browser, width, scheme):
    "A page that reads files and asks no network"
    page = browser.new_page(viewport=dict(width=width, height=1000), color_scheme=scheme)
    page.route(
        '**/*',
        lambda route: route.continue_() if route.request.url.startswith('file:') else route.abort(),
    )
    return page


PHOTOGRAPHED = 'index', '08_tgsa', 'symbols', 'heatmaps'
SCREENS = {  # the colours change no place: half of the screens show all pages
    (1400, 'light'): True,
    (390, 'dark'): True,
    (1400, 'dark'): False,
    (390, 'light'): False,
}


@pytest.mark.parametrize(('screen', 'every'), SCREENS.items())
def test_pages_fit_and_have_their_pictures(browser, pages, screen, every, tmp_path):
    width, scheme = screen
    kept = Path(os.environ.get('IDKL_SCREENSHOTS', tmp_path))
    kept.mkdir(parents=True, exist_ok=True)
    page = from_files(browser, width, scheme)
    for path in pages:
        photographed = path.stem in PHOTOGRAPHED
        if not (every or photographed):
            continue
        page.goto(path.as_uri())
        outside = page.evaluate(OUTSIDE)
        assert not outside, f'{path.name} at {width} pixels: {outside[:3]}'
        assert page.evaluate('document.documentElement.scrollWidth') <= width, path.name
        assert page.evaluate(PICTURES), f'{path.name}: a picture is missing'
        if photographed:
            page.screenshot(path=kept / f'page-{path.stem}-{width}-{scheme}.png')
    ground = page.evaluate('getComputedStyle(document.body).backgroundColor')
    assert (sum(map(int, ground.strip('rgb()').split(','))) < 384) == (scheme == 'dark'), ground
    page.close()


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
def test_a_link_leads_below_the_bar(browser, pages, width, scheme, anchor):
    path = next(path for path in pages if path.stem == '08_tgsa')
    page = from_files(browser, width, scheme)
    page.route('**/smalldocs.js', lambda route: route.abort())  # it sets a distance of its own
    page.goto(path.as_uri())
    height = page.evaluate(AS_QUARTO, [width, scheme == 'dark'])
    top = page.evaluate(TOP, anchor)
    page.close()
    assert height <= top < height + 150


KINDS = {
    (1400, 'light'): ('index', '08_tgsa', 'references', '404'),
    (390, 'dark'): ('heatmaps', 'does_it_hold', 'symbols'),
}


def check_pages(browser, pages, screen):
    "Contrast, names, what scrolls can be reached with a key"
    page = from_files(browser, *screen)
    faults = []
    for path in pages:
        page.goto(path.as_uri(), wait_until='load')
        for fault in axe.Axe().run(page).response['violations']:
            if fault['impact'] in ('serious', 'critical'):
                faults.append((path.name, fault['id'], fault['nodes'][0]['html'][:120]))
    page.close()
    assert not faults, f'{len(faults)} on {screen}: {faults[:20]}'


@pytest.mark.parametrize(('screen', 'names'), KINDS.items())
def test_everybody_can_read_each_kind_of_page(browser, pages, screen, names):
    check_pages(browser, [path for path in pages if path.stem in names], screen)


@pytest.mark.slow
@pytest.mark.parametrize('screen', KINDS)
def test_everybody_can_read_every_page(browser, pages, screen):
    check_pages(browser, pages, screen)


# Quarto's search, as it stands in the page before and after a letter
SEARCH = """<div id="quarto-search"><form>
<label id="empty"><button class="aa-SubmitButton"><svg></svg></button></label>
<input class="aa-Input" aria-labelledby="empty">
<button class="aa-ClearButton"><svg></svg></button>
</form></div><button class="aa-DetachedSearchButton"><svg></svg></button>"""


def test_the_search_has_names(browser, pages):
    page = from_files(browser, 1400, 'light')
    page.goto(next(path for path in pages if path.stem == 'references').as_uri())
    page.evaluate('html => { document.querySelector("main").innerHTML = html }', SEARCH)
    field = page.locator('main .aa-Input')
    for _ in range(2):
        api.expect(field).to_have_accessible_name('Search')
        field.evaluate('field => field.setAttribute("aria-labelledby", "empty")')
    names = page.locator('main button').evaluate_all('all => all.map(b => b.ariaLabel)')
    assert names == ['Search', 'Clear', 'Search']
    page.close()


def test_a_quiz_answers_at_once(browser, pages):
    page = from_files(browser, 390, 'light')
    page.goto(next(path for path in pages if path.stem == '04_backbone').as_uri())
    group, why = page.locator('.quiz'), page.locator('.quiz ~ details')
    assert not why.evaluate('details => details.open')

    group.get_by_label('a. ').check()
    assert group.locator('output').inner_text() == 'Not a. Choose again, or open the answer.'
    assert not why.evaluate('details => details.open')
    group.get_by_label('a. ').press('ArrowUp')  # from the first to the last
    assert group.locator('output').inner_text() == 'Right: c.'
    assert why.evaluate('details => details.open')
    page.close()


CODE = """() => [...document.querySelectorAll('main pre > code')].map(code => {
    const style = getComputedStyle(code.parentElement)
    const shadow = style.backgroundImage.length > 99
    return [getComputedStyle(code).whiteSpace, style.overflowX, shadow] })"""
WIDEST = """() => {
    const line = document.createElement('pre')
    line.textContent = 'x'.repeat(100)
    document.querySelector('main').append(line)
    return line.scrollWidth }"""
CELLS = """() => [...document.querySelectorAll('main .scrolls td')].map(cell => {
    cell.querySelectorAll('.katex-mathml').forEach(unseen => unseen.remove())
    const range = document.createRange()
    range.selectNodeContents(cell)
    return cell.clientWidth + 1 < range.getBoundingClientRect().width }).filter(x => x).length"""


def test_code_keeps_its_lines(browser, pages):
    "A line of 100 letters has room; a longer one scrolls, with a shadow"
    page = from_files(browser, 1400, 'light')
    page.goto(next(path for path in pages if path.stem == '08_tgsa').as_uri())
    lines = page.evaluate(CODE)
    assert len(lines) > 20 and all(line == ['pre', 'auto', True] for line in lines)
    options = yaml.safe_load((root / '_quarto.yml').read_text(encoding='utf-8'))['format']['html']
    column = int(options['grid']['body-width'].removesuffix('px'))  # smalldocs has one of its own
    assert page.evaluate(WIDEST) <= column - 3 * 17  # Quarto's margins: 1.5 letters on each side
    page.close()


def test_a_table_of_a_phone_breaks_no_word(browser, pages):
    page = from_files(browser, 390, 'light')
    page.goto(next(path for path in pages if path.stem == 'symbols').as_uri())
    assert page.evaluate(CELLS) == 0
    wide = page.locator('main td:nth-child(2)').evaluate_all('all => all.map(c => c.clientWidth)')
    assert min(wide) > 100
    link = page.locator('main a:has(code)').first
    below = link.evaluate('a => getComputedStyle(a).textUnderlineOffset')
    assert float(below.removesuffix('px')) > 3  # the line is not on an underscore
    page.close()


# ------------------------------------------------------------------ explorers without a kernel

stills = runpy.run_path(str(root / '.ci' / 'stills.py'))
SHOWN = {  # explorer: its page
    'tgsa': '08_tgsa',
    'csa': '09_csa',
    'mdr': '10_mdr',
    'scores': '02_metrics',
    'rerank': 'rerank',
    'reversal': '05_modality',
    'objective': '11_model',
    'world': '01_world',
}
# From an event to the next frame after the answer to it, in milliseconds; the longest is kept.
WATCH = """name => {
    let began = 0
    window.longest = 0
    window.answers = 0
    for (const kind of ['pointerdown', 'pointermove', 'keydown', 'input', 'click'])
        addEventListener(kind, () => { began = performance.now() }, true)
    const seen = () => requestAnimationFrame(() => {
        window.answers += 1
        window.longest = Math.max(window.longest, performance.now() - began) })
    const home = document.querySelector(`[data-explorer="${name}"]`)
    new MutationObserver(seen).observe(home, { subtree: true, childList: true, attributes: true })
    home.scrollIntoView({ block: 'center' }) }"""


class Shown:
    "An explorer on its page, in a browser without a network; the site's files are answered here"

    def __init__(self, browser, pages, name, **context):
        options = dict(
            viewport=dict(width=1400, height=1000), reduced_motion='reduce', offline=True
        )
        self.page = browser.new_context(**options | context).new_page()
        self.faults = []
        self.page.on('pageerror', lambda error: self.faults.append(str(error)))
        self.page.on('console', self.hear)
        path = next(path for path in pages if path.stem == SHOWN[name])
        open_served(self.page, path, pages)
        self.home = self.page.locator(f'[data-explorer="{name}"]')

    def hear(self, message):
        if message.type == 'error' and not message.text.startswith('Failed to load resource'):
            self.faults.append(message.text)

    def state(self):
        return self.home.evaluate('home => home.model.get("state")')

    def words(self):
        return self.home.locator('output').inner_text()

    def texts(self):
        return self.home.locator('svg text').all_text_contents()

    def drag(self, n, across, up):
        "Pull the n-th handle so many pixels, with the mouse"
        box = self.home.get_by_role('slider').nth(n).locator('.ring').bounding_box()
        x, y = box['x'] + box['width'] / 2, box['y'] + box['height'] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + across, y - up, steps=4)
        self.page.mouse.up()

    def press(self, n, *keys):
        handle = self.home.get_by_role('slider').nth(n)
        for key in keys:
            handle.press(key)

    def click(self, button):
        self.home.get_by_role('button', name=button).click()


def groups(state):
    return torch.tensor([state['a'], state['b']], dtype=torch.float64)


def check_tgsa(shown):
    a, b = groups(shown.state())
    matrices = torch.stack([affinity(a, a), affinity(a, b), affinity(b, b)])
    numbers = [float(text) for text in shown.texts() if re.fullmatch(r'[01]\.\d\d', text)]
    assert numbers == pytest.approx(matrices.flatten().tolist(), abs=0.0051)
    assert shown.words().startswith(f'Loss {tgsa_loss(a, b):.4f}. ')


def check_alignment(shown):
    state = shown.state()
    logits = [torch.tensor([state[side]]).double().requires_grad_() for side in 'PQ']
    sides = [z / state['temperature'] for z in logits]
    stopped = 'PQ'.find(state['stopped'])
    if stopped >= 0:
        sides[stopped] = sides[stopped].detach()
    loss = csa_loss(*(sides if state['direction'] == 'KL(P, Q)' else sides[::-1]))
    slopes = torch.autograd.grad(loss, logits, allow_unused=True, materialize_grads=True)
    numbers = [float(text) for text in re.findall(r'\d+\.\d{4}', shown.words())]
    expected = [loss.item(), *(slope.norm().item() for slope in slopes)]
    assert numbers == pytest.approx(expected, abs=6e-5)


def check_scores(shown):
    right = [
        [row['people'][n] == row['query'] for n in row['order']] for row in shown.state()['lists']
    ]
    first, ap, inp = score_rankings(torch.tensor(right))
    means = [(first == 1).double().mean(), ap.mean(), inp.mean()]
    numbers = [float(text) for text in re.findall(r'([\d.]+)%', shown.words())]
    assert numbers == pytest.approx([100 * mean.item() for mean in means], abs=0.051)


def check_rerank(shown):
    state = shown.state()
    gallery = torch.tensor(state['gallery']).double()[:, None]
    query = torch.tensor([[state['query']]]).double()
    blended = k_reciprocal(query, gallery, state['k1'], state['k2'], state['share'])[0]
    numbers = [float(text.split()[-1]) for text in shown.texts() if re.search(r'\.\d{3}$', text)]
    assert numbers[8:] == pytest.approx(blended.sort().values.tolist(), abs=6e-4)
    order = ', '.join(str(n + 1) for n in blended.argsort(stable=True).tolist())
    assert shown.words().endswith(f'Order after re-ranking: {order}.')


def use_tgsa(shown, check):
    before = shown.state()
    shown.click('descend')
    points = groups(before)
    plane = shown.state()
    for _ in range(10):
        points.requires_grad_()
        (slope,) = torch.autograd.grad(tgsa_loss(*points), points)
        points = (points - 0.1 * slope).detach().clamp(-3, 3)
    assert groups(plane).flatten().tolist() == pytest.approx(points.flatten().tolist(), abs=1e-5)
    check(shown)
    shown.home.get_by_label('b alone').check()
    shown.click('descend')
    assert shown.state()['a'] == plane['a'] and shown.state()['b'] != plane['b']


def use_alignment(shown, check):
    shown.click('P unsure')
    shown.home.get_by_label('temperature').press('ArrowRight')
    shown.home.get_by_label('KL(Q, P)').check()
    check(shown)
    shown.home.get_by_label('Q', exact=True).check()
    check(shown)
    assert re.search(r'Q \(\w+\) 0\.0000', shown.words())


def use_scores(shown, check):
    shown.press(4, 'ArrowLeft', 'ArrowLeft', 'ArrowLeft', 'ArrowLeft', 'ArrowLeft')
    assert shown.state()['lists'][0]['order'][0] == 4
    check(shown)


def use_rerank(shown, check):
    shown.home.get_by_label('k1').press('ArrowLeft')
    check(shown)
    shown.home.get_by_label('λ').press('ArrowLeft')
    assert shown.state()['k1'] == 5 and shown.state()['share'] == 0.2
    check(shown)


def record(name):
    return json.loads((root / 'idkl_nb' / 'modules' / f'{name}.json').read_text())


def check_reversal(shown):
    state, seen = shown.state(), record('reversal')
    course = seen['courses'][state['alpha']]
    shares = [course[name][state['look']] for name in ('modality', 'identity')]
    numbers = [float(text) for text in re.findall(r'(\d+)%', shown.words())]
    assert numbers == pytest.approx([100 * share for share in shares], abs=0.501)
    assert f'step {seen["every"] * state["look"]}:' in shown.words()


def use_reversal(shown, check):
    shown.home.get_by_label('discriminator').check()
    check(shown)
    assert shown.words().startswith('No reversal, ')
    shown.click('play the training')  # who wants no motion sees its end
    assert shown.state()['look'] == 20
    check(shown)


def check_objective(shown):
    state, seen = shown.state(), record('objective')
    rows = dict(tgsa=seen['images'], csa=seen['images'], mdr=seen['images'] / 2)
    parts = {
        name: state['weights'][name] * v[state['step'] - 1] for name, v in seen['terms'].items()
    }
    if state['reduction'] == 'sum':
        parts = {name: part * rows.get(name, 1) for name, part in parts.items()}
    total = sum(parts.values())
    numbers = [float(text) for text in re.findall(r'([\d.]+)%', shown.words())]
    assert numbers == pytest.approx([100 * part / total for part in parts.values()], abs=0.051)
    assert f'total {total:.2f}:' in shown.words()


def use_objective(shown, check):
    shown.click('the paper')
    assert shown.state()['reduction'] == 'sum'
    check(shown)
    shown.home.get_by_role('slider', name='step').press('ArrowLeft')
    assert shown.state()['step'] == 29
    check(shown)


def check_world(shown):
    state = shown.state()
    known = person_record(state['person'], [(int(state['camera']), state['turn'], state['dial'])])
    drawn = shown.home.locator('svg image')
    api.expect(drawn).to_have_count(2)
    for address in known['pictures'].values():
        api.expect(shown.home.locator(f'image[href="{address}"]')).to_have_count(1)
    expected = [
        f'{part["luminance"]:.2f} → {part["albedo"][str(state["dial"])]:.2f}'
        for part in known['parts'].values()
    ]
    assert [text for text in shown.texts() if re.search(r'\d → ', text)] == expected
    gaps = [
        abs(part['luminance'] - part['albedo'][str(state['dial'])])
        for part in known['parts'].values()
    ]
    gap = float(re.search(r'differ by (\S+) ', shown.words())[1])
    assert gap == pytest.approx(sum(gaps) / len(gaps), abs=0.00501)
    assert f'Person {state["person"]}: {known["worn"]}. ' in shown.words()


def use_world(shown, check):
    shown.home.get_by_role('slider', name='person').press('ArrowRight')
    assert shown.state()['person'] == 6
    check(shown)
    shown.home.get_by_role('slider', name='turn').press('ArrowRight')
    shown.home.get_by_role('radio', name='0').check()
    state = shown.state()
    assert (state['turn'], state['camera']) == (90, '0')
    check(shown)


USES = {
    'tgsa': (check_tgsa, use_tgsa),
    'csa': (check_alignment, use_alignment),
    'mdr': (check_alignment, use_alignment),
    'scores': (check_scores, use_scores),
    'rerank': (check_rerank, use_rerank),
    'reversal': (check_reversal, use_reversal),
    'objective': (check_objective, use_objective),
    'world': (check_world, use_world),
}


@pytest.mark.parametrize('name', SHOWN)
def test_an_explorer_answers_without_a_kernel(browser, pages, name):
    shown = Shown(browser, pages, name)
    check, use = USES[name]
    shown.page.evaluate(WATCH, name)
    start = shown.state()
    check(shown)

    shown.drag(min(1, shown.home.locator('.ring').count() - 1), 40, 30)
    dragged = shown.state()
    assert dragged != start
    check(shown)

    shown.press(0, 'ArrowRight', 'ArrowUp')
    assert shown.state() != dragged
    check(shown)
    use(shown, check)

    shown.click('start again')
    assert shown.state() == start
    assert not shown.faults
    answers, longest = shown.page.evaluate('[window.answers, window.longest]')
    assert answers > 5 and longest < 100


def test_a_turn_without_a_picture_leaves_empty_frames(browser, pages):
    "Python may set one; the page comes to rest"
    shown = Shown(browser, pages, 'world')
    shown.page.evaluate(WATCH, 'world')
    set_turn = "(home, turn) => home.model.set('state', { ...home.model.get('state'), turn })"
    shown.home.evaluate(set_turn, 45)
    api.expect(shown.home.locator('svg image')).to_have_count(0)
    shown.page.wait_for_timeout(300)  # its other pictures come, once
    drawn = shown.page.evaluate('window.answers')
    shown.page.wait_for_timeout(300)
    assert shown.page.evaluate('window.answers') == drawn and not shown.faults

    shown.home.evaluate(set_turn, 90)
    check_world(shown)


@pytest.mark.parametrize('name', SHOWN)
def test_everybody_can_use_an_explorer(browser, pages, name, tmp_path):
    "A finger's width for each handle on a phone, names for a screen reader, contrast"
    shown = Shown(browser, pages, name, viewport=dict(width=390, height=844))
    kept = Path(os.environ.get('IDKL_SCREENSHOTS', tmp_path))
    kept.mkdir(parents=True, exist_ok=True)
    assert shown.home.evaluate('home => home.scrollWidth <= home.clientWidth')
    for ring in shown.home.locator('.ring').all():
        assert ring.bounding_box()['width'] >= 24
    for scheme in ('light', 'dark'):
        shown.page.emulate_media(color_scheme=scheme)
        shown.home.screenshot(path=kept / f'explorer-{name}-390-{scheme}.png')
        checked = axe.Axe().run(shown.page, context=f'[data-explorer="{name}"]')
        assert not checked.response['violations'], checked.generate_report()


def test_without_javascript_there_are_the_pictures(browser, pages):
    page = browser.new_context(java_script_enabled=False, offline=True).new_page()
    for name, place in SHOWN.items():
        page.goto(next(path for path in pages if path.stem == place).as_uri())
        picture = page.locator(f'[data-explorer="{name}"] > img')
        box = picture.bounding_box()
        assert box['width'] > 300 and box['height'] > 100


def test_the_pictures_are_those_of_the_modules(browser):
    for name, still in stills['draw'](browser.new_page()).items():
        path = root / 'idkl_nb' / 'modules' / f'{name}.svg'
        assert path.read_text(encoding='utf-8') == still, 'run make stills'
