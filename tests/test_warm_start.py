"The packaged weights, and how they are made."

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from idkl_nb.common_resnets import resnet
from idkl_nb.common_weights import PACKAGED, load_weights
from idkl_nb.wardrobe import BOTTOMS, PATTERNS, TOPS
from idkl_nb.warm_start import (
    NAMES,
    OTHER_GARMENTS,
    OneBranch,
    WarmStart,
    colours_of,
    draw_people,
    labels_of,
    naming_loss,
    save_warm_start,
    warm_start,
)
from idkl_nb.world import World

TINY = WarmStart(worlds=(201, 202), people=4, batch=8, steps=40, lr=1e-2)


@pytest.fixture(scope='module')
def people():
    return draw_people(TINY, processes=0)


def test_nobody_wears_what_the_others_wear():
    assert not set(dict(OTHER_GARMENTS.tops)) & set(TOPS)
    assert not set(dict(OTHER_GARMENTS.bottoms)) & set(BOTTOMS)
    assert set(dict(OTHER_GARMENTS.patterns)) & set(PATTERNS) == {'plain'}
    panels = {str(value) for name, value in PATTERNS.items() if name != 'plain'}
    assert not panels & {str(list(value)) for _, value in OTHER_GARMENTS.patterns if value}


def test_a_person_of_another_world_is_another_person(people):
    assert people.pictures.shape == (8, 64, 32, 3)
    world = World(202, height=160, width=80, garments=OTHER_GARMENTS)
    assert people.labels[5].tolist() == labels_of(world.identity(2))
    assert people.colours[5] == pytest.approx(colours_of(world.identity(2)))
    drawing = world.draw(2, 0, 2, 0).resize((32, 64), 2)
    np.testing.assert_array_equal(people.pictures[5], np.asarray(drawing))


def test_labels_name_what_is_worn(people):
    person = World(201, garments=OTHER_GARMENTS).identity(1)
    words = [names[label] for names, label in zip(NAMES.values(), people.labels[0])]
    assert words[0] == person.top.name
    assert words[3] == person.bottom.pattern
    assert words[5] == person.hat.name
    assert people.colours[0][3] == pytest.approx(person.bottom.material.rgb[0] / 127.5 - 1)


def test_several_processes_draw_the_same_people(people):
    again = draw_people(TINY, processes=2)
    np.testing.assert_array_equal(again.pictures, people.pictures)
    np.testing.assert_array_equal(again.labels, people.labels)


def test_the_loss_is_the_sum_of_all_questions():
    logits = [torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0, 0.0]])]
    colours = torch.zeros(1, 9)
    loss = naming_loss(logits, colours, torch.tensor([[1, 2]]), colours + 0.5)
    assert loss.item() == pytest.approx(np.log(2) + np.log(3) + 10 * 0.25)


def test_the_same_seed_gives_the_same_weights_which_can_be_loaded(people, tmp_path):
    net, losses = warm_start(TINY, people, progress=False)
    again, same = warm_start(TINY, people, progress=False)
    assert losses == same
    for a, b in zip(net.state_dict().values(), again.state_dict().values()):
        assert torch.equal(a, b)
    assert np.mean(losses[-5:]) < 0.5 * losses[0]

    file = save_warm_start(net, TINY, tmp_path / 'tiny.safetensors')
    loaded = load_weights(resnet('narrow'), 'narrow', file).eval()
    for name, value in net.layer1.state_dict().items():
        torch.testing.assert_close(loaded.layer1.state_dict()[name], value, rtol=1e-3, atol=1e-3)
    with safe_open(file, 'pt') as opened:
        assert json.loads(opened.metadata()['config'])['worlds'] == [201, 202]


def test_a_loss_that_is_no_number_is_an_error(people):
    with pytest.raises(FloatingPointError, match=r'try a smaller lr than 1e\+30'):
        warm_start(dataclasses.replace(TINY, lr=1e30, steps=4), people, progress=False)


def test_answers_have_a_column_for_each_name():
    logits, colours = OneBranch('narrow')(torch.randn(4, 3, 64, 32))
    assert [z.shape[1] for z in logits] == [len(names) for names in NAMES.values()]
    assert colours.shape == (4, 9)


def test_the_packaged_weights_were_made_by_the_defaults():
    file = PACKAGED['narrow']['WORLD_V2']
    with safe_open(file, 'pt') as opened:
        made = json.loads(opened.metadata()['config'])
    assert made == json.loads(json.dumps(dataclasses.asdict(WarmStart())))
    assert file.stat().st_size < 8e6
