"The embedder leaves PyTorch with any batch size: torch.export, and ONNX in onnxruntime."

import io
import json
import re
import sys
from functools import partial

import numpy as np
import pytest
import torch
from commands import command as command_of
from PIL import Image

from idkl_nb import export, exported
from idkl_nb.assembly import IDKLConfig
from idkl_nb.common_weights import WEIGHTS
from idkl_nb.config import TrainConfig
from idkl_nb.export import Pictures, as_onnx, as_torch, presets_of
from idkl_nb.export_command import export_main
from idkl_nb.exported import compare, run_onnx, run_torch
from idkl_nb.features import embed
from idkl_nb.images import resize_transform
from idkl_nb.model import IDKL
from idkl_nb.precision import Precision
from idkl_nb.pretrained import Pretrained, load
from idkl_nb.reading_images import read_image
from idkl_nb.records import Records
from idkl_nb.run_folder import RunDescription, save_weights

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

NETWORKS = {
    'narrow': dict(backbone='narrow'),
    'a learned exponent': dict(backbone='narrow', gem_learn=True),
}
BATCHES = 1, 3, 8, 9, 20
SIZE = 64, 32


def network(**settings):
    "In training mode, with statistics that are not 0 and 1"
    torch.manual_seed(0)
    model = IDKL(IDKLConfig(**settings), 3)
    model(torch.randn(6, 3, *SIZE))
    return model


def of_network(model):
    config = TrainConfig(model=model.config, height=SIZE[0], width=SIZE[1])
    return Pretrained(model.embedder(), config, dict(name='synthetic'))


def images(number):
    random = torch.Generator().manual_seed(number)
    return torch.randint(256, (number, 3, *SIZE), dtype=torch.uint8, generator=random)


@pytest.fixture(scope='module')
def trained():
    return {name: of_network(network(**settings)) for name, settings in NETWORKS.items()}


@pytest.fixture(scope='module')
def contents(trained):
    "ONNX files, by network"
    return {name: as_onnx(one) for name, one in trained.items()}


@torch.no_grad()
def agree(run, trained):
    expected = Pictures(trained.embedder)
    for number in BATCHES:
        pictures = images(number)
        torch.testing.assert_close(run(pictures), expected(pictures), rtol=0, atol=1e-4)


@pytest.mark.parametrize('gradient', [True, False])
@pytest.mark.parametrize('name', NETWORKS)
def test_torch_export_with_a_free_batch_size(trained, name, gradient):
    with torch.set_grad_enabled(gradient):
        content = as_torch(trained[name])
    agree(run_torch(content), trained[name])
    about = {'about.json': ''}
    torch.export.load(io.BytesIO(content), extra_files=about)
    assert json.loads(about['about.json'])['feature_length'] == '256'
    assert str(export.__file__).encode() not in content


@pytest.mark.parametrize('name', NETWORKS)
def test_onnx_with_a_free_batch_size(trained, contents, name):
    agree(run_onnx(contents[name]), trained[name])


def test_a_file_says_what_it_takes_and_what_it_is_for(contents):
    model = onnx.load_from_string(contents['narrow'])
    onnx.checker.check_model(model, full_check=True)
    about = {one.key: one.value for one in model.metadata_props}
    assert (about['image_size'], about['feature_length']) == ('64 x 32', '256')
    assert 'surveillance' in about['use'] and 'No real person' in about['use']
    assert json.loads(about['config'])['model']['backbone'] == 'narrow'
    (shape,) = [
        [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim]
        for i in model.graph.input
    ]
    assert shape == ['batch', 3, 64, 32]
    assert str(WEIGHTS.parent).encode() not in contents['narrow']  # nor any path of ours


def test_a_file_takes_pictures_as_the_package_does(trained, contents, tmp_path):
    "The normalisation is inside, and inside once"
    noise = np.random.default_rng(0).integers(0, 256, (90, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / 'a.png')
    records = Records.from_rows(tmp_path, [('a.png', 0, 0, 0, 'test')])
    expected = embed(trained['narrow'].embedder, records, *SIZE, progress=False).features
    picture = resize_transform(*SIZE)(read_image(tmp_path / 'a.png'))
    found = run_onnx(contents['narrow'])(torch.as_tensor(picture)[None])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_fewer_bits_stay_near(trained):
    one = trained['narrow']
    half = as_onnx(one, 'float16')
    near = compare(run_onnx(half), Pictures(one.embedder), SIZE)
    assert 1e-5 < near.difference < 0.01 and near.cosine > 0.999
    assert torch.isfinite(run_onnx(half)(torch.full((1, 3, *SIZE), 255, dtype=torch.uint8))).all()


def test_whole_numbers_are_a_quarter(trained, contents):
    whole = export.in_whole_numbers(onnx.load_from_string(contents['narrow'])).SerializeToString()
    near = compare(run_onnx(whole), Pictures(trained['narrow'].embedder), SIZE)
    assert near.cosine > 0.95
    assert len(whole) < 0.3 * len(contents['narrow'])


# the command


command = partial(command_of, export_main)


def write_run(folder, model, config):
    "A finished run, as far as its network goes"
    folder.mkdir(parents=True)
    nobody = Records.from_rows(folder, [(f'{n}.png', n, 1, 0, 'train') for n in range(3)])
    precision = Precision('no', 'no', 'cpu', 'asked for', False)
    description = RunDescription.of(config, nobody, precision, dict(name='LLCM'))
    (folder / 'config.json').write_text(description.to_json())
    save_weights(model, folder / 'weights.safetensors')


@pytest.mark.parametrize('backbone', ['narrow', 'timm/convnext_atto'])
def test_the_network_of_a_run(backbone, tmp_path):
    if '/' in backbone:
        pytest.importorskip('timm')
    model = network(backbone=backbone)
    config = TrainConfig(model=model.config, height=SIZE[0], width=SIZE[1])
    write_run(tmp_path / 'à b' / 'model', model, config)
    file = tmp_path / 'ö ü.pt2'
    code, out, err = command('--run', tmp_path / 'à b', '--format', 'torch', '--out', file)
    assert code == 0 and 'surveillance' in out, err
    with torch.no_grad():
        expected = Pictures(model.embedder())(images(4))
        found = run_torch(file.read_bytes())(images(4))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    about = {'about.json': ''}
    torch.export.load(file, extra_files=about)
    assert 'LLCM' in json.loads(about['about.json'])['use']


def test_a_packaged_network_by_its_name(tmp_path):
    assert presets_of(load('L_b').config) == ['embedded (L_b)']
    with pytest.raises(FileNotFoundError, match='no such folder.*one of L_b, IDKL'):
        export.export_run(tmp_path / 'nothing', tmp_path / 'x.onnx')


def test_a_file_that_disagrees_is_not_written(contents, monkeypatch, tmp_path):
    "Whatever the reason: here it is another network"
    monkeypatch.setattr(export, 'as_onnx', lambda *_: contents['narrow'])
    file = tmp_path / 'x.onnx'
    code, _, err = command('--run', 'L_b', '--out', file)
    assert code == 2 and re.search(r'x.onnx: not written. In onnxruntime .* differ', err)
    assert not list(tmp_path.iterdir())


def test_what_was_not_tried_is_said(trained, contents, monkeypatch, tmp_path):
    monkeypatch.setattr(export, 'as_onnx', lambda *_: contents['narrow'])
    monkeypatch.setattr(export, 'load', lambda run: trained['narrow'])
    monkeypatch.setattr(export, 'find_spec', lambda name: None)
    file = tmp_path / 'x.onnx'
    code, out, err = command('--run', 'L_b', '--format', 'openvino-ready', '--out', file)
    assert code == 0 and 'nobody tried whether it takes the file' in out, err
    assert file.read_bytes() == contents['narrow']


def test_openvino_takes_the_file(trained, contents):
    pytest.importorskip('openvino')
    agree(exported.run_openvino(contents['narrow']), trained['narrow'])


REFUSED = {
    'another suffix': (['--out', 'x.pt2'], 'a file of --format onnx ends in .onnx'),
    'no folder': (
        ['--out', 'none/x.onnx'],
        r'--out none/x.onnx: none: no such folder; make it first',
    ),
    'no run': (['--run', 'none', '--out', 'x.onnx'], r'none: no such folder.*L_b, IDKL'),
    'int8 of torch': (
        ['--out', 'x.pt2', '--format', 'torch', '--precision', 'int8'],
        'int8 is a form of ONNX',
    ),
}


@pytest.mark.parametrize('case', REFUSED)
def test_what_cannot_be_exported(case, monkeypatch, tmp_path):
    words, message = REFUSED[case]
    monkeypatch.chdir(tmp_path)
    code, _, err = command('--run', 'IDKL', *words)
    assert code == 2 and re.search(message, err), err
    assert not list(tmp_path.iterdir())


def test_without_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    monkeypatch.setattr(export, 'find_spec', lambda name: None if 'runtime' in name else name)
    code, _, err = command('--run', 'L_b', '--out', tmp_path / 'x.onnx')
    assert code == 2 and "needs onnxruntime: pip install 'idkl_nb[export]'" in err
