"Files of states and weights that are spoiled, and what is refused."

import json
import os
import warnings

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet50

from idkl_nb.checkpoints import (
    CheckpointError,
    Checkpoints,
    _put_together,
    _take_apart,
    load_released_checkpoint,
    load_state,
    save_state,
)


def there_and_back(tree):
    tensors = {}
    parts = json.loads(json.dumps(_take_apart(tree, '', tensors)))
    return _put_together(parts, tensors)


def test_plain_values_keys_and_tuples():
    tree = {'$tensor': 1, 'x': (1, 0.1, None, True, 'é'), 3: {}}
    assert there_and_back(tree) == {'$tensor': 1, 'x': [1, 0.1, None, True, 'é'], 3: {}}


def test_what_cannot_be_stored_is_named_by_its_place(tmp_path):
    with pytest.raises(TypeError, match='/model/act: ReLU cannot be stored'):
        save_state(dict(model=dict(act=nn.ReLU())), tmp_path / 's.safetensors')


@pytest.fixture(scope='module')
def optimiser():
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    adam = torch.optim.Adam(layer.parameters(), lr=0.1)
    layer(torch.ones(1, 3)).sum().backward()
    adam.step()
    return layer, adam


@pytest.fixture(scope='module')
def state_file(optimiser, tmp_path_factory):
    layer, adam = optimiser
    state = dict(
        model=layer.state_dict(),
        optimiser=adam.state_dict(),
        step=7,
        rate=0.1,
        half=torch.ones(2, dtype=torch.bfloat16),
        none=torch.zeros(0, 3),
    )
    file = tmp_path_factory.mktemp('states') / 's.safetensors'
    save_state(state, file)
    return file


def test_a_state_comes_back(state_file, optimiser):
    layer, adam = optimiser
    back = load_state(state_file)
    assert (back['step'], back['rate']) == (7, 0.1)
    assert back['half'].dtype == torch.bfloat16 and back['none'].shape == (0, 3)
    for key, value in layer.state_dict().items():
        assert torch.equal(back['model'][key], value)

    other = torch.optim.Adam(layer.parameters())
    other.load_state_dict(back['optimiser'])
    assert other.param_groups[0]['lr'] == 0.1
    moments = [one.state_dict()['state'][1]['exp_avg_sq'] for one in (other, adam)]
    assert torch.equal(*moments)


def test_a_file_that_was_cut_is_refused(state_file, tmp_path):
    "At any length"
    whole = state_file.read_bytes()
    spoiled = tmp_path / 'spoiled.safetensors'
    for length in range(0, len(whole), 7):
        spoiled.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match='spoiled.safetensors'):
            load_state(spoiled)


def test_a_flipped_bit_is_found(state_file, tmp_path):
    "At any place, unless it changes nothing, such as a space in the header"
    whole = state_file.read_bytes()
    expected = repr(load_state(state_file))
    spoiled = tmp_path / 'spoiled.safetensors'
    refused = 0
    for place in range(0, len(whole), 3):
        flipped = bytearray(whole)
        flipped[place] ^= 16
        spoiled.write_bytes(flipped)
        try:
            assert repr(load_state(spoiled)) == expected, place
        except CheckpointError:
            refused += 1
    assert refused > len(whole) / 3 * 0.9


def test_files_that_hold_no_state_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match='no such file'):
        load_state(tmp_path / 'none.safetensors')
    save_file({'x': torch.ones(1)}, tmp_path / 'weights.safetensors')
    with pytest.raises(CheckpointError, match='no state of a training'):
        load_state(tmp_path / 'weights.safetensors')


def test_a_state_that_cannot_be_written_leaves_the_old_one(state_file):
    with pytest.raises(CheckpointError, match='What was saved before is untouched'):
        save_state(dict(step=8), state_file.parent / 'nowhere' / 's.safetensors')
    assert load_state(state_file)['step'] == 7


# A folder of checkpoints


def test_the_newest_stay_and_what_is_unfinished_goes(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (5, 10, 15):
        checkpoints.save(step, dict(step=step))
    names = [file.name for file in checkpoints.files()]
    assert names == ['step-000000015.safetensors', 'step-000000010.safetensors']

    killed = tmp_path / '.step-000000020.safetensors.77.unfinished'
    killed.write_bytes(b'a process was killed while it wrote this')
    checkpoints.save(15, dict(step=15))
    assert len(list(tmp_path.iterdir())) == 2


def test_when_none_can_be_read_it_is_said(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2):
        checkpoints.save(step, dict(step=step))
    for file in checkpoints.files():
        file.write_bytes(b'')
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        with pytest.raises(CheckpointError, match='none of the 2 checkpoints'):
            checkpoints.newest()
    assert len(caught) == 2


def test_a_folder_that_cannot_be_one_is_refused(tmp_path):
    with pytest.raises(ValueError, match='at least 1'):
        Checkpoints(tmp_path, keep=0)
    (tmp_path / 'a file').write_text('')
    with pytest.raises(CheckpointError, match="this folder can't be made"):
        Checkpoints(tmp_path / 'a file').save(1, {})


# Weights of the released code


@pytest.fixture(scope='module')
def released():
    "Tensors as the released code saves them, with running statistics that are not 0 and 1"
    torch.manual_seed(0)
    front, back, neck = resnet50(), resnet50(), nn.BatchNorm1d(2048)
    back.layer4[0].conv2.stride = back.layer4[0].downsample[0].stride = (1, 1)
    for module in (*front.modules(), *back.modules(), neck):
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    tensors = front.state_dict(prefix='backbone.shared_module_fr.model_sh_fr.')
    tensors |= back.state_dict(prefix='backbone.shared_module_bh.model_sh_bh.')
    tensors |= neck.state_dict(prefix='bn_neck.')
    return (front.eval(), back.eval(), neck.eval()), tensors


@pytest.mark.parametrize('wrapped', [False, True])
def test_released_weights_give_the_features_by_hand(released, wrapped, tmp_path):
    "As they are, and wrapped as training on several GPUs does"
    (front, back, neck), tensors = released
    if wrapped:
        tensors = {'state_dict': {f'module.{key}': value for key, value in tensors.items()}}
    torch.save(tensors, tmp_path / 'released.pth')
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        x = front.maxpool(front.relu(front.bn1(front.conv1(images))))
        x = back.layer4(back.layer3(front.layer2(front.layer1(x))))
        by_hand = neck((x.clamp(min=1e-6) ** 3).mean((-2, -1)) ** (1 / 3))
        features = load_released_checkpoint(tmp_path / 'released.pth')(images)
    torch.testing.assert_close(features, by_hand, rtol=0, atol=1e-4)


def test_released_weights_that_are_incomplete_are_refused(released, tmp_path):
    short = {key: value for key, value in released[1].items() if 'layer4.2' not in key}
    torch.save(short, tmp_path / 'short.pth')
    message = 'for example: backbone.shared_module_bh.model_sh_bh.layer4.2'
    with pytest.raises(CheckpointError, match=message):
        load_released_checkpoint(tmp_path / 'short.pth')


class Evil:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f'touch {self.file}',)


def test_nothing_in_a_file_is_executed(tmp_path):
    torch.save(dict(extra=Evil(tmp_path / 'executed')), tmp_path / 'evil.pth')
    with pytest.raises(CheckpointError, match='holds more than tensors'):
        load_released_checkpoint(tmp_path / 'evil.pth')
    assert not (tmp_path / 'executed').exists()
