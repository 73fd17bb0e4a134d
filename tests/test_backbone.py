"GeM and networks under wrong input; files of weights in the forms that people have, by one loader."

from unittest.mock import patch
from urllib.error import URLError

import pytest
import torch
from jaxtyping import TypeCheckError
from safetensors.torch import save_file
from torch import nn
from torch.autograd import gradcheck
from torch.testing import assert_close
from torchvision.models import resnet18, resnet50

from idkl_nb.assembly import IDKLConfig
from idkl_nb.backbone import BNNeck, DualBranch, GeM, gem
from idkl_nb.checkpoints import CheckpointError, load_released_checkpoint
from idkl_nb.common_resnets import resnet
from idkl_nb.common_weights import load_weights, read_weights
from idkl_nb.model import IDKL

devices = ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_powers_of_half_precision_do_not_overflow(dtype):
    pooled = gem(torch.full((1, 1, 2, 2), 6e4, dtype=dtype))
    assert pooled.dtype == torch.float32
    assert torch.isfinite(pooled).all()


@pytest.mark.parametrize('p', [1.0, 2.0, 3.0, 4.5])
@pytest.mark.parametrize('device', devices)
def test_a_learned_exponent_pools_as_a_fixed_one(p, device):
    maps = torch.randn(20, 3, 4, 5, device=device)  # values below eps, too
    assert_close(gem(maps, torch.tensor(p, device=device)), gem(maps, p))


def test_gem_has_the_slope_of_finite_differences():
    assert gradcheck(gem, torch.rand(2, 3, 2, 2, dtype=torch.float64, requires_grad=True) + 0.1)


def test_gem_is_the_power_mean_of_torch():
    maps = torch.rand(20, 3, 4, 5)
    sums = nn.functional.lp_pool2d(maps, 3.0, (4, 5)).flatten(1)
    assert_close(gem(maps), sums / (4 * 5) ** (1 / 3))


def test_a_larger_exponent_pools_to_more():
    learned = GeM(learn=True)
    learned(torch.rand(20, 3, 4, 5)).sum().backward()
    assert learned.p.grad > 0


def test_gem_wants_maps_and_a_number():
    maps = torch.rand(2, 3, 4, 5)
    with pytest.raises(TypeCheckError, match=r"(?s)parameter 'x'.*f32\[3,4,5\]"):
        gem(maps[0])
    with pytest.raises(TypeCheckError, match="parameter 'p'"):
        gem(maps, '3')
    with pytest.raises(TypeCheckError, match="parameter 'p'"):
        gem(maps, torch.ones(2))
    assert torch.equal(gem(maps, 3), gem(maps, 3.0))  # a whole number will do


@pytest.mark.parametrize('p', [0.0, -1.0, float('nan')])
def test_an_exponent_must_be_positive(p):
    with pytest.raises(ValueError, match='gem_p must be positive'):
        IDKLConfig(gem_p=p)


def test_a_fixed_exponent_is_no_parameter():
    assert not list(GeM().parameters())
    assert [name for name, _ in GeM(learn=True).named_parameters()] == ['p']


def test_networks_that_are_not_there():
    with pytest.raises(ValueError, match="'resnet51': choose one of narrow, resnet18"):
        resnet('resnet51')
    with pytest.raises(TypeCheckError, match="parameter 'last_stride'"):
        resnet('resnet18', last_stride=3)


def test_images_have_three_channels():
    backbone = DualBranch('narrow')
    for images in (torch.rand(2, 1, 64, 32), torch.zeros(2, 3, 64, 32, dtype=torch.uint8)):
        for road in (backbone, backbone.shared):
            with pytest.raises(TypeCheckError, match="parameter 'images'"):
                road(images)
    with pytest.raises(TypeCheckError, match="parameter 'pooled'"):
        BNNeck(3)(torch.rand(3))


def reached(net, loss):
    "Names of the parameters that get a gradient"
    net.zero_grad()
    loss.backward()
    slopes = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    return {name for name, slope in slopes.items() if slope.abs().sum() > 0}


def test_no_parameter_is_idle():
    net, images = DualBranch('narrow'), torch.rand(4, 3, 64, 32)
    both = reached(net, sum(branch[-1].square().mean() for branch in net(images)))
    assert both == {name for name, _ in net.named_parameters()}
    specific = reached(net, net(images).specific[-1].square().mean())
    assert {name.split('.')[0] for name in specific} == {'theta', 'psi'}


@pytest.mark.parametrize('device', devices)
def test_the_shared_map_is_the_same_on_every_device(device):
    net, images = DualBranch('narrow').eval().requires_grad_(False), torch.rand(4, 3, 64, 32)
    expected = net.shared(images)
    assert torch.equal(expected, net(images).shared[-1])
    assert_close(net.to(device).shared(images.to(device)).cpu(), expected, atol=1e-3, rtol=1e-3)


def test_a_neck_normalises_without_a_shift():
    neck = BNNeck(3)
    necked = neck(torch.rand(64, 3) * 5 + 2).detach()
    assert_close(necked.mean(0), torch.zeros(3), atol=1e-4, rtol=0.0)
    assert_close(necked.var(0, unbiased=False), torch.ones(3), atol=1e-3, rtol=0.0)
    assert [name for name, _ in neck.named_parameters()] == ['norm.weight']


def counted(net):
    "A network whose batch norm has seen a batch"
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return net.state_dict()


def without_counts(state):
    return {name: value for name, value in state.items() if 'num_batches_tracked' not in name}


def behind_module(state):
    return {f'module.{name}': value for name, value in state.items()}


FORMS = {
    'as it is': lambda state: state,
    'from before PyTorch 0.4.1': without_counts,
    'some counts missing': lambda state: {
        name: value for name, value in state.items() if not name.endswith('bn1.num_batches_tracked')
    },
    'of several GPUs': behind_module,
    'wrapped': lambda state: {'state_dict': state, 'epoch': 90, 'arch': 'resnet18'},
    'under another key': lambda state: {'model': state},
    'old, wrapped, of several GPUs': lambda state: {
        'state_dict': behind_module(without_counts(state)),
        'epoch': 90,
    },
    'parameters': lambda state: {
        name: nn.Parameter(value, requires_grad=False) for name, value in state.items()
    },
    'half precision': lambda state: {
        name: value.half() if value.is_floating_point() else value for name, value in state.items()
    },
}


@pytest.fixture(scope='module')
def pretrained():
    torch.manual_seed(0)
    return counted(resnet18())


@pytest.fixture(scope='module')
def released():
    torch.manual_seed(0)
    front = {
        f'backbone.shared_module_fr.model_sh_fr.{name}': value
        for name, value in counted(resnet50()).items()
    }
    back = {
        f'backbone.shared_module_bh.model_sh_bh.{name}': value
        for name, value in counted(resnet50()).items()
    }
    return (
        front
        | back
        | {f'bn_neck.{name}': value for name, value in counted(nn.BatchNorm1d(2048)).items()}
    )


def same_values(net, state, places):
    "Are the floats of a network those of a file?"
    for prefix, part in places.items():
        for name, value in part.state_dict().items():
            if value.is_floating_point():
                torch.testing.assert_close(
                    value, state[prefix + name].float(), rtol=1e-3, atol=1e-3
                )


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_weights_of_a_backbone(pretrained, form, suffix, tmp_path):
    state, file = FORMS[form](pretrained), tmp_path / f'weights{suffix}'
    if suffix == '.safetensors':
        if any(isinstance(value, dict) for value in state.values()):
            pytest.skip('such a file holds tensors alone')
        save_file({name: value.detach().clone() for name, value in state.items()}, file)
    else:
        torch.save(state, file)
    net = load_weights(resnet('resnet18'), 'resnet18', file)
    same_values(net, pretrained, {'': net})


def test_weights_of_a_whole_network(pretrained, tmp_path):
    "What `--model.weights FILE` becomes"
    torch.save(FORMS['old, wrapped, of several GPUs'](pretrained), tmp_path / 'weights.pth')
    backbone = IDKL(
        IDKLConfig(backbone='resnet18', weights=str(tmp_path / 'weights.pth')), 3
    ).backbone
    same_values(backbone, pretrained, {'conv1.': backbone.theta[0], 'layer4.': backbone.phi[1]})
    same_values(backbone, pretrained, {'layer4.': backbone.psi[1]})


@pytest.mark.parametrize(
    'form', ['from before PyTorch 0.4.1', 'wrapped', 'old, wrapped, of several GPUs']
)
def test_weights_of_the_released_code(released, form, tmp_path):
    torch.save(FORMS[form](released), tmp_path / 'released.pth')
    net = load_released_checkpoint(tmp_path / 'released.pth')
    same_values(
        net,
        released,
        {
            'backbone.shared_module_fr.model_sh_fr.layer1.': net.theta[4],
            'backbone.shared_module_bh.model_sh_bh.layer4.': net.phi[1],
            'bn_neck.': net.neck,
        },
    )


def changed(name, value):
    return lambda state: {**state, name: value}


def left_out(name):
    return lambda state: {key: value for key, value in state.items() if key != name}


WRONG = {
    'a weight is missing': (
        left_out('layer4.1.conv2.weight'),
        r'resnet18; 1 tensors .* for example: layer4.1.conv2.weight is missing',
    ),
    'a running mean is missing': (left_out('bn1.running_mean'), 'bn1.running_mean is missing'),
    'an unknown tensor': (changed('layer9.weight', torch.zeros(1)), 'layer9.weight is unknown'),
    'another shape': (
        changed('bn1.weight', torch.zeros(63)),
        r'bn1.weight is \(63,\), expected \(64,\)',
    ),
    'a count of another shape': (
        changed('bn1.num_batches_tracked', torch.zeros(2)),
        r'bn1.num_batches_tracked is \(2,\), expected \(\)',
    ),
    'a number for a tensor': (changed('bn1.weight', 3.0), 'bn1.weight is float, not a tensor'),
    'a name twice': (changed('module.bn1.weight', torch.zeros(64)), 'some names occur twice'),
    'of another prefix': (
        lambda state: {f'encoder.{name}': value for name, value in state.items()},
        'is unknown',
    ),
    'a list': (lambda state: list(state.values()), 'not a state dictionary of tensors but list'),
    'the network itself': (
        lambda state: nn.Linear(2, 2),
        'it holds more than tensors, or is damaged',
    ),
}


@pytest.mark.parametrize('form', WRONG)
def test_everything_else_is_refused_and_named(pretrained, form, tmp_path):
    change, message = WRONG[form]
    torch.save(change(pretrained), tmp_path / 'wrong.pth')
    net = resnet('resnet18')
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_weights(net, 'resnet18', tmp_path / 'wrong.pth')
    assert all(
        torch.equal(value, before[name]) for name, value in net.state_dict().items()
    )  # nothing was copied


def test_a_released_file_with_another_shape_is_refused(released, tmp_path):
    torch.save(changed('bn_neck.weight', torch.zeros(512))(released), tmp_path / 'released.pth')
    with pytest.raises(CheckpointError, match=r'bn_neck.weight is \(512,\), expected \(2048,\)'):
        load_released_checkpoint(tmp_path / 'released.pth')


@pytest.mark.parametrize(
    'name, weights, known',
    [
        ('resnet18', 'IMAGENET1K_V9', 'IMAGENET1K_V1'),
        ('narrow', 'IMAGENET1K_V1', 'WORLD_V1'),
        ('resnet18', 'WORLD_V1', 'IMAGENET1K_V1'),
    ],
)
def test_a_name_without_weights_gets_those_that_there_are(name, weights, known):
    with pytest.raises(ValueError, match=f'{weights}.*neither a file nor a name .*{known}'):
        load_weights(resnet(name), name, weights)


def test_a_file_that_is_none_or_damaged(tmp_path):
    file = tmp_path / 'weights.pth'
    with pytest.raises(ValueError, match='no such file'):
        read_weights(file)
    file.write_bytes(b'nonsense')
    with pytest.raises(ValueError, match='not a state dictionary .* or is damaged'):
        load_weights(resnet('resnet18'), 'resnet18', file)


@pytest.mark.parametrize(
    'error',
    [URLError('no network'), ConnectionResetError('reset'), RuntimeError('invalid hash value')],
)
def test_weights_that_cannot_be_had(error):
    "The message names the option and the field"
    with patch('torchvision.models._api.load_state_dict_from_url', side_effect=error):
        cure = r'--model\.weights FILE .*IDKLConfig\(weights=FILE\).*--model\.weights None'
        with pytest.raises(OSError, match=rf'resnet50-.*\.pth .*{cure}'):
            DualBranch('resnet50', weights='IMAGENET1K_V1')
