"""Explorers of the page: their HTML, and the numbers that their pictures show."""

import io
import json
import re
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from PIL import Image

from idkl_nb.assembly import IDKLConfig
from idkl_nb.common import INFRARED, VISIBLE
from idkl_nb.csa import csa_loss
from idkl_nb.examples import METHODS
from idkl_nb.explore_world import CAMERAS, DIALS, TURNS, WorldFiles, answer, first_record
from idkl_nb.explore_world import record as person_record
from idkl_nb.explorer_records import group_weights, objective_record
from idkl_nb.metrics import score_rankings
from idkl_nb.model import term_weights
from idkl_nb.page_explorers import STARTS, explorer, module_source, page
from idkl_nb.rerank import k_reciprocal
from idkl_nb.tgsa import affinity, tgsa_loss
from idkl_nb.world import World

root = Path(__file__).resolve().parents[1]
PLACES = {  # the page of each
    'tgsa': '08_tgsa.ipynb',
    'csa': '09_csa.ipynb',
    'mdr': '10_mdr.ipynb',
    'scores': '02_metrics.ipynb',
    'rerank': 'workshop/rerank.ipynb',
    'reversal': '05_modality.ipynb',
    'objective': '11_model.ipynb',
    'search': 'search_in_the_page.ipynb',
    'world': '01_world.ipynb',
}


class Elements(HTMLParser):
    "Tags of a page, and the text of its scripts"

    def __init__(self, text):
        super().__init__()
        self.tags, self.script, self.inside = [], '', False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = tag == 'script'

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        self.script += data if self.inside else ''


def shown(name):
    "Text in the picture of an explorer"
    return re.findall(r'>([^<>]+)</t', (root / 'idkl_nb' / 'modules' / f'{name}.svg').read_text())


@pytest.mark.parametrize('name', STARTS)
def test_a_page_has_picture_state_and_module(name):
    elements = Elements(page(name))
    assert [tag for tag, _ in elements.tags] == ['div', 'img', 'script']
    (_, home), (_, picture), (_, script) = elements.tags
    assert json.loads(home['data-state']) == STARTS[name].state
    assert len(picture['alt']) > 80
    kind, _, data = picture['src'].partition('base64,')
    assert kind == 'data:image/svg+xml;' and b64decode(data).startswith(b'<svg xmlns=')
    assert script == {'type': 'module'}
    assert 'export default' not in elements.script
    assert elements.script.rstrip().endswith(f'settle(shown, "{name}")')


@pytest.mark.parametrize('name', STARTS)
def test_a_page_loads_nothing_and_is_small(name):
    text = page(name).replace('http://www.w3.org/2000/svg', '')
    loads = (
        r'https?:|//cdn|^import '
        if STARTS[name].answers  # files from beside the page
        else r'https?:|//cdn|fetch\(|import\(|^import '
    )
    assert not re.search(loads, text, re.M)
    assert len(text.encode()) < 90_000
    source = module_source(STARTS[name].module)
    assert len(re.findall('^export default ', source, re.M)) == 1 and '</script' not in source
    assert not re.findall(r'^(?:import|export) (?!default)', source, re.M)


@pytest.mark.parametrize('name', STARTS)
def test_the_chapter_shows_it(name):
    "`make stills` draws the pictures anew and writes them into the chapters"
    cells = json.loads((root / 'nbs' / PLACES[name]).read_text(encoding='utf-8'))['cells']
    outputs = [out for cell in cells for out in cell.get('outputs', [])]
    pages = [''.join(out.get('data', {}).get('text/html', '')) for out in outputs]
    assert [text for text in pages if 'data-explorer' in text] == [page(name)]


def test_a_kernel_gets_the_widget_and_a_page_the_html():
    bundle, _ = DisplayFormatter().format(explorer('tgsa'))
    assert {'application/vnd.jupyter.widget-view+json', 'text/html', 'text/plain'} == set(bundle)
    assert bundle['text/plain'] == STARTS['tgsa'].alt


def test_each_explorer_has_a_state_of_its_own():
    first, second = explorer('tgsa'), explorer('tgsa')
    first.state = first.state | dict(moving='b alone')
    assert second.state == STARTS['tgsa'].state != first.state


def test_an_unknown_name_is_told():
    with pytest.raises(ValueError, match="'graphs' is not there; choose one of tgsa, csa, "):
        explorer('graphs')


# ------------------------------------------------------------------ the numbers


def test_the_picture_of_tgsa_has_the_numbers_of_the_package():
    a, b = (torch.tensor(STARTS['tgsa'].state[group]) for group in 'ab')
    matrices = torch.stack([affinity(a, a), affinity(a, b), affinity(b, b)])
    numbers = [float(text) for text in shown('tgsa') if re.fullmatch(r'0\.\d\d', text)]
    assert numbers == pytest.approx(matrices.flatten().tolist(), abs=0.005)
    assert f'loss {tgsa_loss(a, b):.2f}' in shown('tgsa')


def test_a_hundred_steps_leave_the_points_apart():
    "What chapter 8 says above its explorer"
    points = torch.tensor([STARTS['tgsa'].state[group] for group in 'ab'])
    assert f'{(points[0] - points[1]).norm(dim=1).mean():.2f}' == '3.35'
    for _ in range(100):
        points.requires_grad_()
        (slope,) = torch.autograd.grad(tgsa_loss(*points), points)
        points = (points - 0.1 * slope).detach()
    assert tgsa_loss(*points) < 0.01
    assert f'{(points[0] - points[1]).norm(dim=1).mean():.2f}' == '2.81'


def test_the_predictions_are_those_of_chapter_9():
    p, q = (torch.tensor([STARTS['csa'].state[side]]).softmax(1) for side in 'PQ')
    assert p[0].tolist() == pytest.approx([0.01, 0.98, 0.01], abs=1e-4)
    assert q[0].tolist() == pytest.approx([0.98, 0.01, 0.01], abs=1e-4)
    assert csa_loss(p.log(), q.log()).item() == pytest.approx(4.4475, abs=1e-3)
    assert {'P: shared', 'Q: specific'} <= set(shown('csa'))
    assert {'P: visible', 'Q: infrared'} <= set(shown('mdr'))


def test_the_picture_of_the_scores_has_the_numbers_of_the_package():
    lists = STARTS['scores'].state['lists']
    right = torch.tensor([[person == row['query'] for person in row['people']] for row in lists])
    _, ap, inp = score_rankings(right)
    numbers = [float(text.split()[1]) for text in shown('scores') if 'AP' in text or 'INP' in text]
    assert numbers == pytest.approx(torch.stack([ap, inp], 1).flatten().tolist(), abs=5e-4)


def reranked(state):
    gallery = torch.tensor(state['gallery'], dtype=torch.float64)[:, None]
    query = torch.tensor([[state['query']]], dtype=torch.float64)
    return k_reciprocal(query, gallery, state['k1'], state['k2'], state['share'])[0].numpy()


def test_the_picture_of_re_ranking_has_the_numbers_of_the_package():
    texts = shown('rerank')
    numbers = [float(text.split()[-1]) for text in texts if re.search(r'\d\.\d{3}$', text)]
    blended = reranked(STARTS['rerank'].state)
    assert numbers[8:] == pytest.approx(sorted(blended), abs=5e-4)


def test_a_query_at_24_prefers_the_friends_of_its_friend():
    "What the page of re-ranking says above its explorer, in numbers from 1"
    state = STARTS['rerank'].state | dict(query=24)
    gallery = np.array(state['gallery'])
    order = (np.argsort(reranked(state), kind='stable') + 1).tolist()
    nearest = (np.argsort(abs(gallery - 24), kind='stable') + 1).tolist()
    assert nearest == [6, 7, 5, 8, 4, 3, 2, 1] and order[:5] == [6, 5, 4, 7, 8]


def test_the_picture_of_the_objective_has_the_weights_of_the_run():
    "Weight times term at the last step, in the order of the groups"
    state = STARTS['objective'].state
    assert state['weights'] == group_weights(METHODS['IDKL'].model)['weights']
    terms = json.loads((root / 'idkl_nb' / 'modules' / 'objective.json').read_text())['terms']
    parts = [state['weights'][name] * values[-1] for name, values in terms.items()]
    places = [i for i, text in enumerate(shown('objective')) if text in terms]
    numbers = [float(shown('objective')[i + 1]) for i in places[:5]]
    assert numbers == pytest.approx(parts, rel=5e-3)


def test_the_groups_of_a_run_add_up_to_its_total():
    model = IDKLConfig(reduction='mean', lambda_ip=0.3, lambda_tgsa=2.0, lambda_c=0.7)
    rng = np.random.default_rng(0)
    log = pd.DataFrame({name: rng.random(5) for name in term_weights(model)})
    total = sum(weight * log[name] for name, weight in term_weights(model).items())
    record = objective_record(log, model, images=24)
    weights = record['weights']['run']['weights']
    groups = sum(weights[name] * np.array(values) for name, values in record['terms'].items())
    assert groups == pytest.approx(total.rolling(3, min_periods=1).mean().to_numpy(), abs=1e-4)
    assert record['steps'] == [1, 2, 3, 4, 5] and record['images'] == 24


def pixels(address):
    kind, _, data = address.partition(';base64,')
    assert kind == 'data:image/webp'
    return np.asarray(Image.open(io.BytesIO(b64decode(data))), float)


def test_the_world_begins_with_what_the_package_draws():
    "The recorded pictures are near those of today's WebP; the numbers are equal"
    kept = json.loads((root / 'idkl_nb' / 'modules' / 'world.json').read_text(encoding='utf-8'))
    drawn = json.loads(json.dumps(first_record()))
    assert kept['pictures'].keys() == drawn['pictures'].keys()
    for name, address in kept.pop('pictures').items():
        assert abs(pixels(address) - pixels(drawn['pictures'][name])).mean() < 2
    drawn.pop('pictures')
    assert kept == drawn
    texts = [text for text in shown('world') if re.search(r'\d → ', text)]
    assert texts == [
        f'{part["luminance"]:.2f} → {part["albedo"]["0.65"]:.2f}' for part in kept['parts'].values()
    ]


def test_the_world_shows_what_the_dial_does():
    "Equation A for what is dyed; a visible picture for each turn, an infrared one for each stop"
    record = person_record(2)
    assert len(record['pictures']) == len(CAMERAS) * len(TURNS) * (1 + len(DIALS))
    for part in ('top', 'bottom', 'shoes'):
        known = record['parts'][part]
        for dial, albedo in known['albedo'].items():
            c = float(dial)
            expected = c * known['luminance'] + (1 - c) * known['albedo']['0']
            assert albedo == pytest.approx(expected, abs=2e-3)
    for part in ('hair', 'skin'):
        assert len(set(record['parts'][part]['albedo'].values())) == 1

    image = World(coupling=0.4, height=192, width=96)
    own = image.view(2, VISIBLE, 3, 0)
    bare = replace(own, heading=90, occluder=replace(own.occluder, name='none'))
    drawn = np.asarray(image.draw(2, INFRARED, 3, 0, bare), float)
    assert abs(pixels(record['pictures']['infrared 3 90 0.4']) - drawn).mean() < 5


def test_a_kernel_answers_as_the_files_do(tmp_path):
    WorldFiles(tmp_path / 'world').execute()
    files = {file.name: file.read_bytes() for file in (tmp_path / 'world').iterdir()}
    assert len(files) == STARTS['world'].state['people'] == 8
    for name, content in files.items():
        assert answer(dict(file=name)) == ({}, [content]) and len(content) < 300_000
    assert json.loads(answer(dict(file='77.json'))[1][0])['person'] == 77
