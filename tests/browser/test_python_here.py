"""Cells of chapter 2 that run in the page, in a real browser without a network

The numbers are those of the package. The first time, Pyodide comes from npm."""

import re

import pytest
import torch
from rendered import SITE, api, axe, open_served

from idkl_nb.metrics import score_rankings

RANKED = '{7: [7, 3, 7, 3, 7, 5], 3: [3, 7, 3, 5, 7, 7], 5: [7, 3, 7, 3, 7, 5]}'


class Chapter:
    "Chapter 2, and its cells that run"

    def __init__(self, browser, pages, whole=True, **context):
        self.path = next(path for path in pages if path.stem == '02_metrics')
        if whole and not (self.path.parent / 'python_files').is_dir():
            pytest.skip('without Pyodide, which comes from npm')
        self.page = browser.new_context(offline=True, **context).new_page()
        self.page.set_default_timeout(60_000)
        self.faults = []
        self.page.on('pageerror', lambda error: self.faults.append(str(error)))
        open_served(self.page, self.path, pages)
        self.marks = self.page.locator('.runs-here')

    def cell(self, words):
        "Number of the cell with these words"
        texts = self.page.locator('.runs-here + .cell').all_inner_texts()
        return next(n for n, text in enumerate(texts) if words in text)

    def home(self, n):
        return self.page.locator('.runs-here + .cell').nth(n)

    def run(self, n, code=None):
        "What cell n says; `code` takes the place of its own"
        output = self.home(n).locator('.ran-here')
        if code is not None:
            if not self.home(n).locator('textarea').count():
                self.run(n)
            self.home(n).locator('textarea').fill(code)
        self.marks.nth(n).get_by_role('button').first.click()
        button = self.marks.nth(n).get_by_role('button', name='run', exact=True)
        button.wait_for()
        return output.inner_text()


def test_the_cells_of_chapter_2_run_and_can_be_changed(browser, pages):
    chapter = Chapter(browser, pages)
    assert '(the first time it loads Python, 13 MB)' in chapter.marks.first.inner_text()
    n = chapter.cell('def average_precision')
    assert chapter.run(n) == '{7: 0.5, 3: 0.833, 5: 0.167}'  # and the three above it

    chapter.run(0, f'ranked = {RANKED}')
    right = torch.tensor([[1, 0, 1, 0, 1, 0]]).bool()
    _, ap, inp = score_rankings(right)
    assert chapter.run(n).startswith(f'{{7: {ap.item():.3f}, 3: 0.833,')
    text = chapter.home(chapter.cell('INP = ')).locator('code').first.inner_text()
    wrong = chapter.run(chapter.cell('INP = '))
    assert wrong.startswith('AssertionError (line ') and 'cell' not in wrong, text
    chapter.run(n, 'inp = 3 / 5')
    assert inp.item() == 3 / 5 and chapter.run(n, 'inp') == '0.6'
    assert not chapter.faults


def test_an_exercise_is_checked_in_the_page(browser, pages):
    chapter = Chapter(browser, pages)
    stub, check = chapter.cell('def chance_ap(G)'), chapter.cell('def check_chance')
    assert chapter.run(check).startswith('Not written yet. Hint: ')
    chapter.run(stub, 'def chance_ap(G):\n    return 1 / G')
    assert re.match(r'Not yet: for G = 2 it is 0.750, not 0.500.', chapter.run(check))
    chapter.run(stub, 'def chance_ap(G):\n    return sum(1 / k for k in range(1, G + 1)) / G')
    assert chapter.run(check) == 'Right.'
    assert 'as it was' in chapter.marks.nth(stub).inner_text()
    chapter.marks.nth(stub).get_by_role('button', name='as it was').click()
    assert chapter.home(stub).locator('textarea').input_value().endswith('...  # your code')


def test_a_cell_that_never_ends_is_stopped(browser, pages):
    chapter = Chapter(browser, pages)
    chapter.run(0)
    chapter.home(0).locator('textarea').fill('while True: pass')
    chapter.home(0).locator('textarea').press('Shift+Enter')
    stop = chapter.marks.first.get_by_role('button', name='stop')
    stop.wait_for()
    stop.click()
    assert chapter.home(0).locator('.ran-here').inner_text().startswith('Stopped.')
    assert chapter.run(0, '1 / 4') == '0.25'


def test_errors_have_their_line(browser, pages):
    chapter = Chapter(browser, pages)
    chapter.run(0)
    assert chapter.run(0, 'x = 1\ny') == "NameError: name 'y' is not defined (line 2)"
    assert chapter.run(1).startswith('A cell above did not run.')
    assert 'SyntaxError' in chapter.run(0, 'for')


def test_where_the_files_are_missing_it_says_so(browser, pages):
    chapter = Chapter(browser, pages, whole=False)
    chapter.page.route(f'{SITE}python_files/**', lambda route: route.abort())
    chapter.marks.first.get_by_role('button').first.click()
    api.expect(chapter.home(0).locator('.ran-here')).to_contain_text('could not be loaded')


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_everybody_can_run_a_cell(browser, pages, scheme):
    chapter = Chapter(browser, pages, viewport=dict(width=390, height=844), color_scheme=scheme)
    chapter.run(0)
    checked = axe.Axe().run(chapter.page, context='main')
    grave = [
        fault
        for fault in checked.response['violations']
        if fault['impact'] in ('serious', 'critical')
    ]
    assert not grave, [(fault['id'], fault['nodes'][0]['html'][:120]) for fault in grave]
    assert chapter.page.evaluate('document.documentElement.scrollWidth') <= 390
