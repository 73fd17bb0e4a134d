"Networks beside ResNet-50: as torchvision and timm have them, kept by a run, refused in words."

import sys
from unittest.mock import patch

import pytest
import torch
import torchvision
from torch import nn
from torch.testing import assert_close

from idkl_nb.assembly import IDKLConfig
from idkl_nb.backbone import DualBranch, cut_resnet
from idkl_nb.common_backbones import cut_timm
from idkl_nb.common_resnets import CHANNELS, IBN, resnet
from idkl_nb.common_weights import IBNWeights, load_weights
from idkl_nb.config import TrainConfig
from idkl_nb.model import IDKL
from idkl_nb.runs import rehearse_network

timm = pytest.importorskip('timm')
SMALL = 'timm/convnext_atto'


def image(number=1):
    return torch.rand(number, 3, 64, 32, generator=torch.Generator().manual_seed(number))


def maps_of(stem, blocks, images):
    third = stem(images)
    fourth = blocks[0](third)
    return third, fourth, blocks[1](fourth)


@torch.no_grad()
def test_a_resnet_is_that_of_torchvision():
    theirs = torchvision.models.resnet18(weights=None).eval()
    ours = resnet('resnet18', last_stride=2).eval()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if k[:2] != 'fc'})
    theirs.fc = nn.Identity()
    assert torch.equal(ours(image()), theirs(image()))


@pytest.mark.parametrize('name', sorted(set(CHANNELS) - {'narrow'}))
def test_the_names_and_shapes_of_a_resnet(name):
    with torch.device('meta'):  # shapes without numbers
        theirs = torchvision.models.get_model(name.removesuffix('_ibn_a'), weights=None)
        expected = {k: v.shape for k, v in theirs.state_dict().items() if k[:2] != 'fc'}
        found = {k: v.shape for k, v in resnet(name).state_dict().items() if '.IN.' not in k}
        if name == 'resnet50_ibn_a':
            assert len(found) == len(expected)
        else:
            assert found == expected
        stem, blocks, channels = cut_resnet(name)
        maps = maps_of(stem, blocks, torch.empty(2, 3, 64, 32))
        assert tuple(m.shape[1] for m in maps) == channels == CHANNELS[name]
        assert maps[2].shape[2:] == (4, 2)


@torch.no_grad()
@pytest.mark.parametrize('name, stride', [(SMALL, 1), (SMALL, 2)])
def test_the_maps_are_those_of_timm(name, stride):
    torch.manual_seed(0)
    stem, blocks, channels = cut_timm(name, stride)
    torch.manual_seed(0)
    more = dict(output_stride=16) if stride == 1 else {}
    theirs = timm.create_model(name[5:], features_only=True, **more).eval()
    maps = maps_of(stem.eval(), blocks.eval(), image())
    assert tuple(m.shape[1] for m in maps) == channels
    for ours, expected in zip(maps, theirs(image())[-3:], strict=True):
        assert torch.equal(ours, expected)  # the third, too: no later layer has changed it


def published_names():
    "Of a file of IBN-Net: torchvision's, but for the first normalisation of layers 1 to 3"
    for name in torchvision.models.resnet50(weights=None).state_dict():
        layer, *_, last = name.split('.')
        if layer in ('layer1', 'layer2', 'layer3') and '.bn1.' in name:
            yield name.replace('.bn1.', '.bn1.BN.')
            if last in ('weight', 'bias'):
                yield name.replace('.bn1.', '.bn1.IN.')
        else:
            yield name


def test_published_weights_of_ibn_a_load(tmp_path):
    net = resnet('resnet50_ibn_a')
    sizes = {name: value.shape for name, value in net.state_dict().items()}
    assert {*sizes, 'fc.weight', 'fc.bias'} == set(published_names())
    assert sizes['layer2.1.bn1.IN.weight'] == sizes['layer2.1.bn1.BN.running_var'] == (64,)

    state = {f'module.{name}': torch.rand(size) for name, size in sizes.items()}
    torch.save({'state_dict': state}, tmp_path / 'ibn.pth')
    load_weights(net, 'resnet50_ibn_a', tmp_path / 'ibn.pth')
    assert torch.equal(net.layer3[5].bn1.IN.bias, state['module.layer3.5.bn1.IN.bias'])
    with patch('torchvision.models._api.load_state_dict_from_url', return_value=state) as download:
        with pytest.raises(ValueError, match='is unknown'):  # as the names were above
            load_weights(net, 'resnet50_ibn_a', 'IMAGENET1K_V1')
    assert download.call_args.args[0] == IBNWeights.IMAGENET1K_V1.url


def test_ibn_is_both_normalisations_of_torch():
    norm, maps = IBN(6).train(), torch.randn(4, 6, 5, 3)
    nn.init.normal_(norm.IN.weight)
    normed = norm(maps)
    scale = norm.IN.weight.view(1, 3, 1, 1)
    assert_close(normed[:, :3], nn.functional.instance_norm(maps[:, :3]) * scale)
    assert_close(normed[:, 3:], nn.functional.batch_norm(maps[:, 3:], None, None, training=True))


def test_a_learning_step_reaches_every_part_of_a_network_of_timm():
    model = IDKL(IDKLConfig(backbone=SMALL), 3)
    features = model(image(4))
    features.shared.logits.sum().backward(retain_graph=True)
    assert all(p.grad is None for p in model.backbone.psi.parameters())
    features.specific.logits.sum().backward()
    assert all(p.grad is not None for p in model.backbone.parameters())
    with torch.no_grad():
        assert model.embedder()(image(2)).shape == (2, model.backbone.channels[-1])


def test_a_configuration_keeps_its_backbone():
    config = TrainConfig(model=IDKLConfig(backbone=SMALL))
    assert TrainConfig.from_dict(config.to_dict()) == config


def test_files_of_timm_load(tmp_path):
    theirs = timm.create_model('convnext_atto', num_classes=7)
    torch.save(theirs.state_dict(), tmp_path / 'net.pth')
    stem, blocks, _ = cut_timm(SMALL, 1, tmp_path / 'net.pth')
    assert torch.equal(stem[0].weight, theirs.stem[0].weight)
    expected = theirs.stages[3].blocks[1].mlp.fc1.weight
    assert torch.equal(blocks[1][0].blocks[1].mlp.fc1.weight, expected)
    with pytest.raises(ValueError, match='net.pth: these are not weights of timm/convnext_femto'):
        cut_timm('timm/convnext_femto', 1, tmp_path / 'net.pth')


REFUSED = {
    'resnet51': r"'resnet51': choose one of narrow, .*resnet50_ibn_a, .*'timm/convnext_tiny'",
    'timm/convnext_tinny': r'no such network. Near to it: convnext_tiny',
    'timm/vit_tiny_patch16_224': r'do not stand in a row',
    'timm/efficientnet_b0': r'do not stand in a row',
    'timm/mambaout_femto': r'have their channels last',
    'timm/efficientvit_m0': r'it has 3 stages, and 4 are needed',
}


@pytest.mark.parametrize('name', REFUSED)
def test_what_is_refused_is_said(name):
    with pytest.raises(ValueError, match=REFUSED[name]):
        DualBranch(IDKLConfig(backbone=name).backbone, last_stride=2)


def test_a_stride_that_a_network_has_not():
    with pytest.raises(ValueError, match=r'starnet_s1.*--model.last-stride 2'):
        cut_timm('timm/starnet_s1')


def test_weights_that_timm_does_not_know():
    with pytest.raises(ValueError, match=r"'IMAGENET1K_V1': neither a file .* \(d2_in1k"):
        cut_timm(SMALL, 1, 'IMAGENET1K_V1')
    with patch(
        'timm.create_model',
        side_effect=[timm.create_model(SMALL[5:], features_only=True), OSError('no network')],
    ):
        with pytest.raises(OSError, match='d2_in1k: .* could not be downloaded .no network'):
            cut_timm(SMALL, 1, 'd2_in1k')


def test_the_size_of_the_images_is_tried():
    narrow = IDKLConfig(backbone='timm/maxvit_pico_rw_256', last_stride=2)
    with pytest.raises(ValueError, match='takes no images of 64 x 32 pixels .*--height'):
        rehearse_network(TrainConfig(model=narrow, height=64, width=32))


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, 'timm', None)
    with pytest.raises(ImportError, match="'timm/NAME' needs timm: pip install timm"):
        cut_timm(SMALL)
