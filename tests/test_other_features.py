"Features and distances of other programs, and what is refused in them."

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import command
from scipy.io import savemat
from test_commands import refused

from idkl_nb.apart import Others, check_others
from idkl_nb.common import DataError
from idkl_nb.evaluate import evaluate_main
from idkl_nb.feature_files import save_features
from idkl_nb.features import FeatureTable
from idkl_nb.mat_files import variables
from idkl_nb.other_features import arrays_of, listed_table, matrix_of, read_list, two_sided_table
from idkl_nb.readers import read_dataset
from idkl_nb.world import World
from idkl_nb.writers import write_regdb

N, C = 40, 6


@pytest.fixture(scope='module')
def bench(tmp_path_factory):
    "RegDB with five people to test on, features of its test images, and the scores to be found"
    folder = tmp_path_factory.mktemp('other features')
    root = write_regdb(World(height=32, width=16), folder / 'regdb', range(1, 11), images=4)
    records = read_dataset(root).where(split='test')
    x = torch.randn(N, C, generator=torch.Generator().manual_seed(3))
    save_features(FeatureTable(x, records), folder / 'f.npz')
    done = command(
        evaluate_main, '--features', folder / 'f.npz', '--protocol', 'regdb', *js(folder)
    )
    assert done.code == 0, done.err
    return folder, root, records, x.numpy(), scores(folder)


def js(folder):
    return '--json', folder / 's.json'


def scores(folder):
    trials = json.loads((folder / 's.json').read_text())['trials']
    return [pytest.approx(row) for row in trials]


def scored(bench, *words):
    "The trials, after the command said what it took for what"
    done = command(evaluate_main, '--protocol', 'regdb', *words, *js(bench[0]))
    assert done.code == 0, done.err
    assert 'read as' in done.out
    return [row.expected for row in scores(bench[0])]


def write_list(file, paths):
    file.write_text(''.join(f'{path}\n' for path in paths))
    return file


@pytest.mark.parametrize('prefix, label', [('', ''), ('/data/a b/RegDB/', ' 12'), ('..\\x\\', '')])
@pytest.mark.parametrize('ending', ['npy', 'mat'])
def test_a_list_of_paths_orders_the_rows(bench, ending, prefix, label):
    folder, root, records, x, expected = bench
    order = np.random.default_rng(0).permutation(N)
    file = folder / f'x.{ending}'
    if ending == 'npy':
        np.save(file, x[order])
    else:
        savemat(file, dict(note='ours', feat=x[order].T))
    rows = [prefix + path + label for path in records.path[order]]
    listed = ('--list', write_list(folder / 'order.txt', rows), '--root', root)
    assert scored(bench, '--features', file, *listed) == expected
    refused(
        command(evaluate_main, '--protocol', 'regdb', '--features', file, *listed[:2]),
        'order.txt: a list of paths says not who',
    )


def test_a_table_orders_the_rows_without_the_dataset(bench):
    folder, _, records, x, expected = bench
    np.save(folder / 'x.npy', x[::-1])
    records[np.arange(N)[::-1]].frame().drop(columns='split').to_csv(folder / 't.csv', index=False)
    assert scored(bench, '--features', folder / 'x.npy', '--list', folder / 't.csv') == expected


@pytest.mark.parametrize('query', ['infrared', 'visible'])
def test_queries_and_gallery_apart_and_their_distances(bench, query):
    folder, _, records, x, _ = bench
    whole = ('--features', folder / 'f.npz', '--query', query, '--protocol', 'regdb', *js(folder))
    assert command(evaluate_main, *whole).code == 0
    expected = scores(folder)
    asks = records.modality == (query == 'infrared')
    saved = {}
    for side, own in (('query', asks), ('gallery', ~asks)):
        np.save(folder / f'{side}.npy', x[own])
        records[own].frame().to_csv(folder / f'{side}.csv', index=False)
        saved[f'{side}_f'] = x[own]
        saved |= {f'{side}_label': records.identity[own], f'{side}_cam': records.camera[own]}
    savemat(folder / 'result.mat', saved)
    assert scored(bench, '--features', folder / 'result.mat', '--query', query) == expected

    lists = ('--query-list', folder / 'query.csv', '--gallery-list', folder / 'gallery.csv')
    files = ('--query-features', folder / 'query.npy', '--gallery-features', folder / 'gallery.npy')
    assert scored(bench, *files, *lists, '--query', query) == expected

    y = torch.nn.functional.normalize(torch.from_numpy(x))
    distances = (1 - y[torch.as_tensor(asks)] @ y[torch.as_tensor(~asks)].T).numpy()
    np.save(folder / 'd.npy', distances)
    table = ('--distances', folder / 'd.npy', *lists, '--query', query)
    assert scored(bench, *table) == expected
    done = command(evaluate_main, '--protocol', 'regdb', *table, '--rerank', 'all')
    refused(done, '--rerank needs features')
    other = ('--query', 'visible' if query == 'infrared' else 'infrared')
    done = command(evaluate_main, '--protocol', 'regdb', *table[:-2], *other)
    refused(done, f'query.csv: .* expected {other[1]} test images')
    distances[0, 0] = np.nan
    np.save(folder / 'd.npy', distances)
    refused(command(evaluate_main, '--protocol', 'regdb', *table), 'NaN')


def test_nothing_is_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath('sprung').touch, ())

    np.save(tmp_path / 'trap.npy', np.array([Trap()]), allow_pickle=True)
    with pytest.raises(DataError, match='Nothing is unpickled'):
        arrays_of(tmp_path / 'trap.npy')
    assert not (tmp_path / 'sprung').exists()
    (tmp_path / 'cut.mat').write_bytes(b'MATLAB 5.0 MAT-file')
    with pytest.raises(DataError, match='save it with -v7'):
        arrays_of(tmp_path / 'cut.mat')
    with pytest.raises(DataError, match='no such file'):
        arrays_of(tmp_path / 'none.npy')


def two_sides(**changes):
    "Six variables of five queries and five images of the gallery"
    x = np.eye(5)
    sides = dict(query_f=x, query_label=np.arange(5), query_cam=np.ones(5))
    sides |= dict(gallery_f=x, gallery_label=np.arange(5), gallery_cam=np.full(5, 2))
    return sides | changes


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(gallery_f=np.eye(5)[:, :3]), 'differ in length'),
        (dict(query_f=np.full((5, 5), np.nan)), '5 of 10 features are NaN'),
        (dict(query_f=np.ones((5, 5, 2))), 'float64 of shape'),
        (dict(query_f=np.array(['a'] * 5)), 'name the order of its rows'),
        (dict(query_label=np.arange(5) + 0.5), 'whole numbers'),
        (dict(query_cam=np.full(5, np.nan)), 'whole numbers'),
    ],
)
def test_two_sides_that_do_not_fit(changes, message, tmp_path):
    "The file is named"
    savemat(tmp_path / 'f.mat', two_sides())
    assert len(two_sided_table(tmp_path / 'f.mat', 'infrared')) == 10
    savemat(tmp_path / 'f.mat', two_sides(**changes))
    with pytest.raises(DataError, match=f'f.mat: .*{message}'):
        two_sided_table(tmp_path / 'f.mat', 'infrared')


def test_long_floats_are_shortened(bench, tmp_path):
    "PyTorch has none of them"
    np.save(tmp_path / 'x.npy', bench[3].astype(np.longdouble))
    write_list(tmp_path / 'l.txt', bench[2].path)
    table = listed_table(tmp_path / 'x.npy', tmp_path / 'l.txt', bench[2])
    assert np.array_equal(table.features, bench[3])


def cells(depth):
    inside = np.eye(2)
    for _ in range(depth):
        outside = np.empty(1, dtype=object)
        outside[0] = inside
        inside = outside
    return inside


def no_type(content):
    content[content.index(struct.pack('<2I', 9, 32))] = 250


def is_complex(content):
    content[content.index(struct.pack('<2I', 6, 8)) + 9] |= 8


def large(content):
    at = content.index(struct.pack('<2I', 5, 8)) + 8
    content[at : at + 8] = struct.pack('<2I', 2**30, 1)


@pytest.mark.parametrize(
    'value, damage',
    [
        (np.eye(2), no_type),
        (np.eye(2), is_complex),
        ('', large),
        (cells(1), large),
        (cells(9), list),
        (dict(a=1), list),
    ],
)
def test_scipy_reads_no_unsound_matrix(value, damage, tmp_path):
    "It could end the process, or fill the memory; the other variables are read"
    file = tmp_path / 'f.mat'
    savemat(file, dict(bad=value, good=np.eye(3)))
    content = bytearray(file.read_bytes())
    damage(content)
    file.write_bytes(content)
    assert variables(memoryview(content)) == dict(bad=False, good=True)
    assert list(arrays_of(file)) == ['good']


def test_what_could_be_two_things_is_refused(bench, tmp_path):
    folder, _, records, x, _ = bench
    savemat(tmp_path / 'two.mat', dict(a=x, b=x))
    with pytest.raises(DataError, match='found a 40 x 6, b 40 x 6'):
        matrix_of(arrays_of(tmp_path / 'two.mat'), ('features',), tmp_path / 'two.mat')
    np.save(tmp_path / 'x.npy', x)
    write_list(tmp_path / 'l.txt', records.path[:3])
    few = ('--features', tmp_path / 'x.npy', '--list', tmp_path / 'l.txt', '--root', bench[1])
    done = command(evaluate_main, '--protocol', 'regdb', *few)
    refused(done, 'features is 40 x 6; expected 3 rows, one for each image of .*l.txt')
    done = command(evaluate_main, '--protocol', 'regdb', '--features', tmp_path / 'x.npy')
    refused(done, 'name the order of its rows with --list')
    write_list(tmp_path / 'l.txt', ['Visible/1/nobody.bmp'])
    with pytest.raises(DataError, match='l.txt, line 1: .* is no image of the dataset regdb'):
        read_list(tmp_path / 'l.txt', read_dataset(bench[1]))


@pytest.mark.parametrize(
    'given, features',
    [
        (dict(distances='d'), []),
        (dict(distances='d', query_list='q'), []),
        (dict(query_features='q', query_list='q', gallery_list='g'), []),
        (dict(query_list='q', gallery_list='g'), ['f.npz']),
        (dict(distances='d', query_list='q', gallery_list='g'), ['f.npz']),
        (dict(list='l'), ['f.npz']),
        (dict(list='l'), []),
        (dict(list='l'), ['a.npy', 'b.npy']),
    ],
)
def test_options_that_do_not_fit_together(given, features):
    others = Others(**{name: Path(file) for name, file in given.items()})
    with pytest.raises(ValueError):
        check_others(others, tuple(map(Path, features)))
