"Explorers: widgets that are tied to a picture, and the three that there are."

from threading import Thread

import numpy as np
import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from torch.nn import functional as F

from idkl_nb import explorers
from idkl_nb.assembly import IDKLConfig
from idkl_nb.batches import eval_loader
from idkl_nb.common import INFRARED, MODALITIES, VISIBLE
from idkl_nb.config import PRESETS
from idkl_nb.explore_network import purifier_explorer, retrieval_explorer
from idkl_nb.explorers import Explorer, choice, slider
from idkl_nb.features import embed
from idkl_nb.figures import BLUE, ORANGE, Figure
from idkl_nb.images import eval_transform
from idkl_nb.model import IDKL
from idkl_nb.readers import read_sysu
from idkl_nb.training import fit
from idkl_nb.world import World
from idkl_nb.writers import write_sysu

H, W = 64, 32


@pytest.fixture(autouse=True)
def nobody_before():
    "Close what a test has made"
    yield
    for explorer in list(explorers._ALIVE.values()):
        explorer.close()


def move_mouse(explorer, x, y, kind='mousemove', buttons=0):
    "As the browser tells it"
    across, up = explorer.figure.axes[0].transData.transform((x, y))
    event = dict(type=kind, buttons=buttons, dataX=across)
    explorer.mice[0]._dom_handlers(event | dict(dataY=explorer.figure.bbox.height - up))


def drive(explorer, **values):
    "Move one control after the other; how many pictures differed from the one before"
    changed = 0
    for label, value in values.items():
        before = explorer.picture.value
        explorer.controls[label].value = value
        assert 'cannot' not in explorer.words.value, explorer.words.value
        changed += explorer.picture.value != before
    return changed


class Parabola:
    "An explorer that writes down what it is asked for"

    def __init__(self):
        self.calls, self.places = [], []
        controls = dict(a=slider(1.0, -3.0, 3.0, 0.5), colour=choice(BLUE, ORANGE))
        buttons = {'double': self.double}
        self.explorer = Explorer('a parabola', self.draw, controls, buttons, pointer=self.point)

    def draw(self, a, colour):
        self.calls.append(a)
        if a < 0:
            raise ValueError(f'a = {a} < 0: this parabola opens down')
        figure = Figure(figsize=(2, 1.5))
        figure.subplots().plot(np.linspace(-1, 1) ** 2 * a, color=colour)
        return figure, f'it reaches {a}'

    def double(self):
        self.explorer.set(a=2 * self.explorer.controls['a'].value)

    def point(self, x, y, mouse):
        self.places.append((x, y, mouse))
        return mouse == 'press'


def test_controls_follow_the_type_of_their_numbers():
    assert type(slider(1, 0, 5)).__name__ == 'IntSlider'
    assert type(slider(1, 0, 5, 0.5)).__name__ == 'FloatSlider'
    assert choice('a', 'b').value == 'a'
    assert choice('a', 'b', value='b').value == 'b'


def test_the_picture_follows_the_controls():
    explorer = Parabola().explorer
    first = explorer.picture.value
    assert first[:4] == b'\x89PNG'
    assert first == explorer._repr_png_()
    assert [widget.description for widget in explorer.controls.values()] == ['a', 'colour']

    explorer.controls['a'].value = 1.5
    assert explorer.words.value == 'it reaches 1.5'
    assert explorer.picture.value != first
    explorer.controls['a'].value = 1.0
    assert explorer.picture.value == first  # back to the same pixels
    explorer.controls['colour'].value = ORANGE
    assert explorer.picture.value != first
    explorer.buttons['double'].click()
    assert explorer.words.value == 'it reaches 2.0'


def test_an_error_is_told_in_words():
    explorer = Parabola().explorer
    explorer.controls['a'].value = -2.0
    assert explorer.words.value == (
        'This cannot be shown: a = -2.0 &lt; 0: this parabola opens down'
    )
    assert explorer.picture.layout.visibility == 'hidden'
    with pytest.raises(ValueError, match='opens down'):
        explorer.render()
    explorer.controls['a'].value = 1.0
    assert explorer.words.value == 'it reaches 1.0'
    assert explorer.picture.layout.visibility == 'visible'


def test_several_controls_move_and_one_picture_is_drawn():
    parabola = Parabola()
    parabola.calls.clear()
    parabola.explorer.set(a=0.5, colour=ORANGE)
    assert parabola.calls == [0.5]
    parabola.explorer.set(**parabola.explorer.start)
    assert parabola.explorer.words.value == 'it reaches 1.0'


def test_the_mouse_is_told_in_the_numbers_of_the_axes():
    parabola = Parabola()
    parabola.calls.clear()
    move_mouse(parabola.explorer, 0.5, 0.25)
    move_mouse(parabola.explorer, 0.5, 0.25, buttons=1)
    assert parabola.calls == []
    move_mouse(parabola.explorer, -1, 0.5, 'mousedown', 1)
    assert parabola.calls == [1.0]  # drawn anew only where `pointer` says so
    expected = [(0.5, 0.25, 'move'), (0.5, 0.25, 'drag'), (-1, 0.5, 'press')]
    for place, (x, y, mouse) in zip(parabola.places, expected, strict=True):
        assert place[:2] == pytest.approx((x, y))
        assert place[2] == mouse


def test_a_move_of_another_thread_waits_and_is_not_lost():
    explorer = Parabola().explorer
    with explorer.hold():
        hand = Thread(target=lambda: setattr(explorer.controls['a'], 'value', 1.5))
        hand.start()
        hand.join(0.2)
        assert explorer.words.value == 'it reaches 1.0'
    hand.join()
    assert explorer.words.value == 'it reaches 1.5'


def test_a_page_gets_widgets_and_a_picture():
    bundle, _ = DisplayFormatter().format(Parabola().explorer)
    assert {'image/png', 'text/plain'} <= set(bundle)
    assert 'Run this cell' in bundle['text/plain']


def test_the_next_explorer_of_a_name_leaves_nobody_who_listens():
    first, second = Parabola(), Parabola()
    old, new = first.explorer, second.explorer
    first.calls.clear()
    old.controls['a'].value = 3.0
    old.buttons['double'].click()
    assert first.calls == []
    assert old.mice[0]._dom_handlers.callbacks == []
    assert not any(widget._trait_notifiers for widget in old.controls.values())
    assert not any(button._click_handlers.callbacks for button in old.buttons.values())
    for widget in (*old.controls.values(), *old.buttons.values(), old.picture, old.words, old.box):
        assert widget.comm is None
    assert new.box.comm is not None

    assert explorers._ALIVE == {'a parabola': new}
    new.controls['a'].value = 2.5
    assert second.calls[-1] == 2.5
    old.close()
    assert explorers._ALIVE == {'a parabola': new}
    new.close()
    assert explorers._ALIVE == {}


# ------------------------------------------------------------------ the five


@pytest.fixture(scope='module')
def records(tmp_path_factory):
    "Eight people to train on and eight to test, one image of these left out"
    folder = tmp_path_factory.mktemp('explorers') / 'sysu'
    world = World(7, coupling=0.5, height=H, width=W)
    write_sysu(world, folder, train=range(1, 9), val=[9], test=range(10, 18), images=4)
    return read_sysu(folder)


@pytest.fixture(scope='module')
def test_records(records):
    return records.where(split='test')[1:]


@pytest.fixture(scope='module')
def models():
    torch.manual_seed(0)
    bare = IDKLConfig('narrow', weights=None, lambda_ip=0.0)
    whole = IDKLConfig('narrow', weights=None)
    return {'L_b': IDKL(bare, 8).eval(), 'IDKL': IDKL(whole, 8).eval()}


@pytest.fixture(scope='module')
def pairs(records):
    "Eight images of each modality, of the same people"
    sides = []
    for modality in (VISIBLE, INFRARED):
        own = records.where(split='train', modality=modality)
        first = np.unique(own.identity, return_index=True)[1]
        sides.append(next(iter(eval_loader(own[first], eval_transform(H, W), 8))).images)
    return sides


NAMES = tuple(f'person {n}' for n in range(1, 9))


def test_purifier_explorer(models, pairs):
    explorer = purifier_explorer(models['IDKL'], *pairs, NAMES)
    assert drive(explorer, person=NAMES[1], channel=70) == 2
    assert drive(explorer, mean_of_all=True) == 1
    assert drive(explorer, channel=71) == 0  # the mean has no channel

    with torch.no_grad():
        maps = models['IDKL'].backbone(pairs[1]).specific[-1]
        made = models['IDKL'].purifier(maps)
    explorer.set(mean_of_all=False, person=NAMES[2], channel=9)
    assert f' and {made.mask_e[2, 9]:.3f}, m_r = ' in explorer.words.value
    assert f' and {made.mask_r[2, 9]:.3f} (visible' in explorer.words.value
    drawn = explorer.render()[0].axes[0].images  # two rows of an image and five maps
    assert len(drawn) == 12
    assert np.asarray(drawn[8].get_array()) == pytest.approx(
        made.normalised[2, 9].numpy(), abs=1e-4
    )
    assert np.asarray(drawn[11].get_array()) == pytest.approx(made.purified[2, 9].numpy(), abs=1e-4)
    for visible, infrared in zip(drawn[1:6], drawn[7:]):  # a scale for each column
        assert visible.get_clim() == infrared.get_clim()


def test_a_network_without_purifier_is_refused(models, pairs):
    with pytest.raises(ValueError, match='no purifier'):
        purifier_explorer(models['L_b'], *pairs, NAMES)


def test_retrieval_explorer_moves(models, test_records):
    explorer = retrieval_explorer(models, test_records, H, W, query=17)
    move_mouse(explorer, 4.7, 1.0)
    assert explorer.controls['rank'].value == 4
    assert 'query and rank 4 ' in explorer.words.value
    shown = explorer.picture.value
    for x, y in ((4.8, 3.0), (0.5, 1.0), (99, 1.0)):
        move_mouse(explorer, x, y)
    assert (explorer.controls['rank'].value, explorer.picture.value) == (4, shown)

    changes = dict(query=3, network='IDKL', reranking='gallery', rank=3, block=5)
    assert drive(explorer, **changes, feature='purified', asks='visible') == 7
    explorer.controls['network'].value = 'L_b'  # it has no purifier
    sentence = 'cannot be shown: purified: this network has no purifier'
    assert sentence in explorer.words.value


def test_retrieval_explorer_against_the_definition(models, test_records):
    explorer = retrieval_explorer(models, test_records, H, W)
    sides = []
    for modality in (VISIBLE, INFRARED):
        own = test_records.where(modality=modality)
        sides.append(embed(models['L_b'].embedder(), own, H, W, progress=False))
    visible, infrared = sides
    for query in (3, 11, 17):
        explorer.set(query=query, asks=MODALITIES[INFRARED])
        unit = F.normalize(infrared.features[query : query + 1])
        distances = 1 - unit @ F.normalize(visible.features).T  # (1, G)
        order = distances[0].argsort(stable=True).numpy()
        right = visible.records.identity[order] == infrared.records.identity[query]  # (G,)
        precision = (np.cumsum(right) / np.arange(1, len(right) + 1))[right].mean()
        rank = right.argmax() + 1
        sentence = f'precision {precision:.1%}; the first right image is at rank {rank} '
        assert sentence in explorer.words.value
        texts = [text.get_text() for text in explorer.render()[0].axes[0].texts]
        marks = ''.join(text[0] for text in texts if text[0] in '✓✗')
        assert marks == ''.join('✗✓'[int(r)] for r in right[:8])


def other(widget, n):
    "A value of a control that is not its present one"
    if hasattr(widget, 'options'):
        return widget._options_values[(widget.index + 1) % len(widget.options)]
    if isinstance(widget.value, bool):
        return not widget.value
    step = getattr(widget, 'step', 1) or 1
    return widget.value + (step if n % 2 == 0 else -step)


def test_all_answer_and_each_handle_has_a_label(models, test_records, pairs):
    makers = {
        'the purifier': lambda: purifier_explorer(models['IDKL'], *pairs, NAMES),
        'retrieval': lambda: retrieval_explorer({'IDKL': models['IDKL']}, test_records, H, W),
    }
    for name, make in makers.items():
        old = make()
        before = old.picture.value
        explorer = make()
        assert explorers._ALIVE[name] is explorer
        assert explorer.picture.value == before  # the same pixels
        handles = (*explorer.controls.values(), *explorer.buttons.values())
        assert all(widget.description for widget in handles)

        for widget in explorer.controls.values():
            widget.value = other(widget, 0)
            assert 'cannot' not in explorer.words.value
        assert old.picture.value == before
        explorer.set(**explorer.start)
        assert 'cannot' not in explorer.words.value
    assert set(explorers._ALIVE) == set(makers)
