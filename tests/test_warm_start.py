"The packaged weights, and how they are made."

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from idkl_nb.backbone import PACKAGED, load_weights, resnet
from idkl_nb.common import VISIBLE
from idkl_nb.warm_start import OneBranch, WarmStart, draw_people, save_warm_start, warm_start
from idkl_nb.world import World

TINY = WarmStart(worlds=(101, 102), people=4, images=2, P=3, K=2, steps=30)


@pytest.fixture(scope='module')
def pictures():
    return draw_people(TINY, progress=False)


def test_a_person_of_another_world_is_another_person(pictures):
    assert pictures.shape == (8, 2, 64, 32, 3)
    second = World(102).draw(2, VISIBLE, 2, 0).resize((32, 64), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(pictures[5, 1], np.asarray(second))


def test_shapes_of_the_network():
    pooled, logits = OneBranch('narrow', 5)(torch.randn(4, 3, 64, 32))
    assert (pooled.shape, logits.shape) == ((4, 256), (4, 5))


def test_the_same_seed_gives_the_same_weights_which_can_be_loaded(pictures, tmp_path):
    net, entropies = warm_start(TINY, pictures, progress=False)
    again, same = warm_start(TINY, pictures, progress=False)
    assert entropies == same
    for a, b in zip(net.state_dict().values(), again.state_dict().values()):
        assert torch.equal(a, b)
    assert np.mean(entropies[-5:]) < 0.8 * np.log(8)  # log 8 is guessing

    file = save_warm_start(net, TINY, tmp_path / 'tiny.safetensors')
    loaded = load_weights(resnet('narrow'), 'narrow', file).eval()
    for name, value in net.layer1.state_dict().items():
        torch.testing.assert_close(loaded.layer1.state_dict()[name], value, rtol=1e-3, atol=1e-3)
    with safe_open(file, 'pt') as opened:
        assert json.loads(opened.metadata()['config'])['worlds'] == [101, 102]


def test_a_loss_that_is_no_number_is_an_error(pictures):
    with pytest.raises(FloatingPointError, match=r'try a smaller lr than 1e\+30'):
        warm_start(dataclasses.replace(TINY, lr=1e30, steps=4), pictures, progress=False)


def test_the_packaged_weights_were_made_by_the_defaults():
    file = PACKAGED['narrow']['WORLD_V1']
    with safe_open(file, 'pt') as opened:
        made = json.loads(opened.metadata()['config'])
    assert made == json.loads(json.dumps(dataclasses.asdict(WarmStart())))
    assert file.stat().st_size < 8e6
