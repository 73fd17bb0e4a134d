"""What the search in the page loads: fetched whole or not at all, and equal to the package's."""

import base64
import io
import json
import re
import runpy
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from commands import command
from PIL import Image

from idkl_nb import page_files, page_still
from idkl_nb.export import Pictures
from idkl_nb.exported import run_onnx
from idkl_nb.page_explorers import STARTS, explorer
from idkl_nb.page_files import gallery, page_files_main, sheet, slope, with_weights
from idkl_nb.page_still import ranked, still
from idkl_nb.pretrained import load

root = Path(__file__).resolve().parents[1]


def test_a_sheet_keeps_every_pixel():
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (6, 3, 4, 2), dtype=torch.uint8, generator=random)
    large = np.asarray(Image.open(io.BytesIO(sheet(images, columns=3))))
    assert large.shape == (8, 6, 3)
    for n, image in enumerate(images):
        y, x = n // 3 * 4, n % 3 * 2
        assert np.array_equal(large[y : y + 4, x : x + 2], image.permute(1, 2, 0).numpy())


def test_one_gallery_serves_all_stops_of_the_dial():
    from idkl_nb.world import World

    visible = [World(7, dial).draw(215, 0, 4, 0).tobytes() for dial in page_files.DIALS]
    infrared = [World(7, dial).draw(215, 1, 3, 0).tobytes() for dial in page_files.DIALS]
    assert len(set(visible)) == 1 and len(set(infrared)) == 3


def test_the_slope_is_how_a_feature_follows_its_pooled_vector():
    embedder = load('L_b').embedder
    pooled = torch.rand(1, 256, requires_grad=True)
    (gradient,) = torch.autograd.grad(embedder.neck(pooled).sum(), pooled)
    torch.testing.assert_close(slope(embedder), gradient[0])


def test_weights_are_kept_in_16_bits_where_that_loses_nothing():
    onnx = pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    names = ('short', 'long')
    values = [np.zeros(3, 'f4')] * 2
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node('Add', ['images', 'short'], ['between']),
            onnx.helper.make_node('Add', ['between', 'long'], ['features']),
        ],
        'sums',
        [onnx.helper.make_tensor_value_info('images', 1, [3])],
        [onnx.helper.make_tensor_value_info('features', 1, [3])],
        [onnx.numpy_helper.from_array(value, name) for name, value in zip(names, values)],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid('', 18)], ir_version=10
    )
    weights = dict(short=torch.tensor([1.0, 2, 3]), long=torch.tensor([0.1, 0.2, 0.3]))

    filled = with_weights(model, weights)
    kinds = {one.name: one.data_type for one in filled.graph.initializer}
    assert kinds == {'short.half': onnx.TensorProto.FLOAT16, 'long': onnx.TensorProto.FLOAT}
    sums = run_onnx(filled.SerializeToString())(torch.ones(3))
    assert torch.equal(sums, torch.ones(3) + weights['short'] + weights['long'])


def test_a_kernel_answers_what_the_page_asks():
    sent = []
    widget = explorer('search')
    widget.send = lambda *words: sent.append(words)
    images = gallery().images[:3]
    ask = widget._handle_custom_msg
    ask(dict(question=0, file='about.json'), [])
    ask(dict(question=1, file='gallery.png'), [])
    ask(dict(question=2, method='IDKL'), [memoryview(images.numpy().tobytes())])

    assert [message['question'] for message, _ in sent] == [0, 1, 2]
    assert json.loads(sent[0][1][0]) == json.loads(json.dumps(page_files.about()))
    assert sent[1][1] == [sheet(gallery().images)]
    assert sent[2][0]['arrays'] == dict(features=[3, 256], maps=[3, 256, 8, 4])
    features = np.frombuffer(sent[2][1][0], 'f4').reshape(3, 256)
    with torch.no_grad():
        expected = Pictures(load('IDKL').embedder)(images)
    assert np.abs(features - expected.numpy()).max() < 1e-4


def test_the_command_writes_all(monkeypatch, tmp_path):
    monkeypatch.setattr(page_files, 'networks', lambda: dict(L_b=b'1', IDKL=b'2'))
    done = command(page_files_main, tmp_path / 'a folder ü')
    names = sorted(file.name for file in (tmp_path / 'a folder ü').iterdir())
    assert names == sorted(
        ['L_b.onnx', 'IDKL.onnx', 'gallery.png', 'about.json']
        + [f'queries-{dial:g}.png' for dial in page_files.DIALS]
    )
    assert done.code == 0 and all(name in done.out for name in names)

    (tmp_path / 'file').write_text('')
    done = command(page_files_main, tmp_path / 'file')
    assert done.code == 2 and 'Traceback' not in done.err


# ------------------------------------------------------------------ the runtime

tool = runpy.run_path(str(root / '.ci' / 'runtime.py'))
site = runpy.run_path(str(root / '.ci' / 'site.py'))


ORT = tool['PACKAGES']['onnxruntime-web']


def small_package():
    "A package with the places of the real one"
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w:gz') as opened:
        for place in ORT.parts.values():
            entry = tarfile.TarInfo(place)
            entry.size = len(place)
            opened.addfile(entry, io.BytesIO(place.encode()))
    return file.getvalue()


@pytest.fixture
def npm(monkeypatch, tmp_path):
    "A registry that gives `npm.content`, or raises it, in place of the real one"
    registry = SimpleNamespace(content=small_package(), asked=0)
    whole = registry.content

    def download(package):
        registry.asked += 1
        if isinstance(registry.content, Exception):
            raise registry.content
        return registry.content

    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'a cache ü'))
    monkeypatch.setitem(tool['fetched'].__globals__, 'download', download)
    monkeypatch.setitem(
        tool['fetched'].__globals__, 'is_whole', lambda content, integrity: content == whole
    )
    return registry


def test_a_hash_is_that_of_the_standard():
    abc = 'sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0='
    assert tool['is_whole'](b'abc', abc) and not tool['is_whole'](b'abd', abc)
    for package in tool['PACKAGES'].values():
        assert not tool['is_whole'](b'abc', package.integrity)


def test_the_package_is_fetched_once(npm, tmp_path):
    tool['add_runtime']('onnxruntime-web', tmp_path / 'site')
    file = tmp_path / 'site' / 'ort.mjs'
    assert file.read_text() == ORT.parts['ort.mjs']
    assert 'MIT License' in (tmp_path / 'site' / ORT.licence).read_text()
    tool['add_runtime']('onnxruntime-web', tmp_path / 'site')
    assert npm.asked == 1

    tool['kept_file'](ORT).write_bytes(b'damaged')
    tool['add_runtime']('onnxruntime-web', tmp_path / 'site')
    assert npm.asked == 2


@pytest.mark.parametrize(
    'content, words',
    [
        (OSError('no route'), r'could not be fetched \(no route\)'),
        (b'something else', 'does not have the hash sha512-'),
    ],
)
def test_what_is_not_whole_is_not_used(npm, content, words, tmp_path):
    npm.content = content
    with pytest.raises(OSError, match=f'{words}.*or put the file at .*a cache'):
        tool['add_runtime']('onnxruntime-web', tmp_path / 'site')
    assert not tool['kept_file'](ORT).exists() and not (tmp_path / 'site').exists()


def test_a_site_without_the_runtime_is_built_all_the_same(tmp_path, monkeypatch, capsys):
    def fails(name, folder):
        folder.mkdir()
        raise OSError('no route')

    monkeypatch.setattr(runpy, 'run_path', lambda path: dict(add_runtime=fails))
    site['add_search'](tmp_path)
    site['add_python'](tmp_path)
    said = capsys.readouterr().out.splitlines()
    for line, words in zip(said, ('The search', 'Python'), strict=True):
        assert line == f'{words} in the page is left out, and its button says so: no route'
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------ the picture


def test_the_list_is_that_of_plain_distances():
    "Brute force, for one query of either method"
    for method in page_files.METHODS:
        network = Pictures(load(method).embedder)
        with torch.no_grad():
            query = network(page_files.queries(0.3).images[5:6])[0]
            gallery = network(page_files.gallery().images)
        cosines = gallery @ query / gallery.norm(dim=1) / query.norm()
        expected = (1 - cosines).sort(stable=True)
        found = ranked(method, 0.3)
        assert found.distances[5] == pytest.approx(expected.values.tolist(), abs=1e-5)
        assert found.rows[5].tolist() == expected.indices.tolist()


def pixels_of(picture):
    data = base64.b64decode(re.search(r'jpeg;base64,([^"]+)', picture)[1])
    return np.asarray(Image.open(io.BytesIO(data)), dtype=float)


def test_the_kept_picture_is_that_of_the_package():
    "Words to the digit; pixels nearly, for another library may write another JPEG"
    kept = (root / 'idkl_nb' / 'modules' / 'search.svg').read_text(encoding='utf-8')
    drawn = still(STARTS['search'].state['person'])
    kept_words, words = (re.findall(r'>([^<>]+)</text>', picture) for picture in (kept, drawn))
    assert len(kept_words) == len(words)
    for old, new in zip(kept_words, words):
        same = float(old) == pytest.approx(float(new), abs=2e-3) if '.' in old else old == new
        assert same, 'run make stills'
    assert abs(pixels_of(kept) - pixels_of(drawn)).mean() < 3, 'run make stills'
    assert page_still.BLUE in kept and page_still.ORANGE in kept
