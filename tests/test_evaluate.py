"The command idkl-evaluate: options, trials of RegDB, the dataset's own records; and FAISS."

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from torch.nn import functional as F

from idkl_nb.common import DataError
from idkl_nb.evaluate import evaluate_main
from idkl_nb.faiss_search import to_faiss
from idkl_nb.feature_files import load_features, save_features
from idkl_nb.features import FeatureTable
from idkl_nb.joining import join_records
from idkl_nb.protocols import SYSU, RegDB
from idkl_nb.readers import read_llcm, read_regdb, read_sysu
from idkl_nb.records import Records
from idkl_nb.regdb_trials import numbered_in_order, regdb_trials
from idkl_nb.scoring import score_features
from idkl_nb.world import World
from idkl_nb.writers import write_llcm, write_regdb, write_sysu


def noise(records, **about):
    features = torch.randn(len(records), 8, generator=torch.Generator().manual_seed(0))
    return FeatureTable(features + torch.as_tensor(records.identity)[:, None], records, about)


class Bench:
    "A small dataset of each layout, and files of noise"

    def __init__(self, folder):
        world = World(height=32, width=16)
        self.folder = folder
        self.sysu = write_sysu(world, folder / 'sysu', [1, 2], [3], range(4, 14), images=24)
        self.regdb = write_regdb(world, folder / 'regdb', range(1, 13), images=4)
        self.llcm = write_llcm(world, folder / 'llcm', [1, 2], range(3, 9))
        self.records = read_sysu(self.sysu)
        self.file = self.saved('noise', noise(self.records, feature='noise'))
        self.llcm_file = self.saved('llcm', noise(read_llcm(self.llcm).where(split='test')))
        self.trials = {trial: self.of_trial(trial) for trial in (1, 2, 10)}
        self.cut = folder / 'cut.npz'
        self.cut.write_bytes(b'hello')

    def saved(self, name, table):
        save_features(table, self.folder / f'{name}.npz')
        return self.folder / f'{name}.npz'

    def of_trial(self, trial):
        records = read_regdb(self.regdb, trial).where(split='test')
        return self.saved(f'r{trial}', noise(records, dataset='RegDB', trial=str(trial)))


@pytest.fixture(scope='module')
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp('bench'))


def command(capsys, *words):
    "Exit code, output, error"
    code = 0
    try:
        evaluate_main([str(word) for word in words])
    except SystemExit as end:
        code = end.code
    printed = capsys.readouterr()
    return code, printed.out, printed.err


# Options


def test_what_is_printed_is_what_is_written(bench, tmp_path, capsys):
    words = ['--protocol', 'sysu-all-single', '--root', bench.sysu, '--rerank', 'gallery']
    written = tmp_path / 'scores.json'
    done = command(capsys, '--features', bench.file, *words, '--json', written)
    scores = score_features(load_features(bench.file, bench.sysu), SYSU(rerank='gallery'))
    assert done == (0, f'{scores}\n', '')
    assert json.loads(written.read_text()) == json.loads(json.dumps(scores.to_dict()))


@pytest.mark.parametrize(
    'features, words, expected',
    [
        (
            lambda bench: bench.trials[2],
            lambda bench: f'regdb --root {bench.regdb} --query visible --metric euclidean',
            dict(trial=2, direction='visible to infrared', metric='euclidean', rerank=None),
        ),
        (
            lambda bench: bench.llcm_file,
            lambda bench: f'llcm --root {bench.llcm}',
            dict(gallery='draw'),
        ),
        (
            lambda bench: bench.file,
            lambda bench: 'sysu-all-multi --draws seeded',
            dict(draws='seeded', shots=10),
        ),
    ],
)
def test_options_are_settings(bench, features, words, expected, tmp_path, capsys):
    written = tmp_path / 'scores.json'
    words = ['--protocol', *words(bench).split(), '--json', written]
    code, _, err = command(capsys, '--features', features(bench), *words)
    about = json.loads(written.read_text())['about']
    assert code == 0, err
    assert {name: about[name] for name in expected} == expected


def test_trials_come_in_their_own_order(bench, tmp_path, capsys):
    "Whatever the order of a shell"
    written = tmp_path / 'scores.json'
    files = [bench.trials[trial] for trial in (1, 10, 2)]
    command(capsys, '--features', *files, '--protocol', 'regdb', '--json', written)
    scores = json.loads(written.read_text())
    assert scores['about']['trials'] == [1, 2, 10]
    assert [row['mAP'] for row in scores['trials']] == [
        score_features(load_features(file), RegDB(trial=trial)).trials.mAP[0]
        for trial, file in bench.trials.items()
    ]


@pytest.mark.parametrize(
    'words, message',
    [
        ('{file} --protocol regdb --draws seeded', '--draws is a choice of SYSU-MM01'),
        ('{file} --protocol llcm --trial 2', '--trial is a choice of RegDB'),
        ('{file} --protocol sysu-all-single', 'name the folder of the dataset with --root'),
        ('{file} --protocol regdb', 'images of SYSU-MM01, and --protocol regdb is of RegDB'),
        (
            '{file} --protocol sysu-all-single --root {regdb}',
            'this is RegDB, and sysu-all-single a protocol of SYSU-MM01',
        ),
        (
            '{file} --protocol sysu-all-single --root {folder}',
            'neither images (cam1) nor the gallery draws',
        ),
        (
            '{file} --protocol sysu-all-single --root {sysu} --query visible',
            'asks from infrared to visible',
        ),
        ('{file} --protocol market', 'invalid choice'),
        (
            '{file} --protocol sysu-all-single --draws seeded --json {folder}/nowhere/x.json',
            'no such folder',
        ),
        ('{file} {file} --protocol llcm', 'only RegDB has one model a trial'),
        ('--protocol llcm', 'name at least one file'),
        ('{trial1} --protocol regdb --trial 0', 'trials 1 to 10'),
        ('{trial1} --protocol regdb --trial 11', 'trials 1 to 10'),
        ('{trial10} --protocol regdb --trial 5', 'its images are those of trial 10'),
        ('{cut} --protocol llcm', 'cut.npz: unreadable, perhaps cut off'),
    ],
)
def test_what_cannot_be_done_is_refused_in_words(bench, words, message, capsys):
    places = dict(trial1=bench.trials[1], trial10=bench.trials[10], **vars(bench))
    code, _, err = command(capsys, '--features', *words.format(**places).split())
    assert code == 2 and message in err and 'Traceback' not in err


def test_a_refusal_is_one_line(bench, capsys):
    _, _, err = command(capsys, '--features', bench.cut, '--protocol', 'llcm')
    assert err.count('\n') == 1


# Trials of RegDB


@pytest.mark.parametrize(
    'names, in_order',
    [
        ('r1 r2 r3', True),
        ('r0 r1 r2', True),
        ('r1 r10 r2', False),
        ('r1 r10', False),
        ('r2 r3', False),
        ('a b', True),
        ('a1b2 a2b1', True),
        ('x', True),
        ('run1/f run2/f', True),
    ],
)
def test_the_order_of_numbers_in_names(names, in_order):
    assert numbered_in_order(tuple(map(Path, names.split()))) == in_order


FILES = tuple(map(Path, ('r1.npz', 'r10.npz', 'r2.npz')))


def tables(*trials):
    "A table of one feature for each, which says its trial; None: it doesn't"
    records = Records.from_rows('regdb', [('Visible/1/1.bmp', 1, 1, 0, 'test')])
    abouts = [{} if trial is None else dict(trial=trial) for trial in trials]
    return [FeatureTable(torch.tensor([[1.0 + n]]), records, a) for n, a in enumerate(abouts)]


@pytest.mark.parametrize(
    'said, given, trials',
    [
        (['1', '10', '2'], (), [1, 10, 2]),
        (['1', '10', '2'], (1, 10, 2), [1, 10, 2]),
        ([None, None, None], (1, 10, 2), [1, 10, 2]),
        (['1', None, '2'], (1, 10, 2), [1, 10, 2]),
    ],
)
def test_files_are_believed_before_the_option(said, given, trials):
    assert regdb_trials(FILES, tables(*said), given) == trials


@pytest.mark.parametrize(
    'said, given, message',
    [
        ([None, None, None], (), 'not numbered 1, 2, ... in this order'),
        (['1', None, '2'], (), 'r10.npz: it does not say its trial, as others do'),
        (['1', '11', '2'], (), 'r10.npz: it says that its trial is 11'),
        (['1', '10', '2'], (1, 5, 2), '--trial 5: r10.npz says .* trial 10'),
        (['1', '10', '2'], (1, 10), '2 numbers for 3 files'),
        (['1', '10', '1'], (), 'r1.npz and r2.npz are both of trial 1'),
    ],
)
def test_trials_that_contradict(said, given, message):
    with pytest.raises(ValueError, match=message):
        regdb_trials(FILES, tables(*said), given)


def test_the_same_features_twice():
    same = tables('1', '10', '2')
    same[2] = replace(same[2], features=same[0].features)
    with pytest.raises(ValueError, match='r1.npz and r2.npz hold the same features'):
        regdb_trials(FILES, same)


# The dataset's own records


def test_splits_come_from_the_dataset(bench):
    table = noise(bench.records, feature='noise')
    shuffled = torch.randperm(len(table), generator=torch.Generator().manual_seed(0)).numpy()
    nobody_said = np.full(len(table), 'test')
    silent = replace(bench.records[shuffled], split=nobody_said)
    own = FeatureTable(table.features[shuffled], silent, table.about)
    with pytest.warns(UserWarning, match='are training images of the dataset sysu; .* not scored'):
        joined = join_records(own, bench.records)
    assert joined.records.split.tolist() == bench.records.split[shuffled].tolist()
    assert torch.equal(joined.features, own.features)
    assert len(joined.where(split='test')) == len(bench.records.where(split='test'))


def test_images_that_are_missing(bench):
    table = noise(bench.records).where(identity=range(1, 13))
    with pytest.raises(DataError, match='48 of 480 test images'):
        join_records(table, bench.records)


# FAISS


@pytest.fixture(scope='module')
def gallery(bench):
    return noise(bench.records.where(split='test'))


def test_a_flat_index_and_one_with_all_cells_opened_are_exact(gallery):
    pytest.importorskip('faiss')
    unit = F.normalize(gallery.features)
    cosine, rows = to_faiss(gallery).search(unit[:6].numpy(), 5)
    np.testing.assert_allclose(cosine, (unit[:6] @ unit.T).topk(5).values, rtol=0, atol=1e-5)
    assert rows[:, 0].tolist() == list(range(6))
    for cells in (1, 4):
        index = to_faiss(gallery, 'ivf', nlist=cells, nprobe=cells)
        found = index.search(unit[:6].numpy(), 5)
        np.testing.assert_array_equal(found[1], rows)
        np.testing.assert_allclose(found[0], cosine, rtol=0, atol=1e-5)
        assert index.nlist == cells


def test_half_precision_can_be_searched(gallery):
    pytest.importorskip('faiss')
    half = FeatureTable(gallery.features.half(), gallery.records)
    assert to_faiss(half).ntotal == len(gallery)


@pytest.mark.parametrize(
    'options', [dict(nlist=4, nprobe=5), dict(nprobe=0), dict(nlist=9999), dict(nlist=-1)]
)
def test_cells_that_there_are_not(gallery, options):
    with pytest.raises(ValueError, match='expected 1 <= nprobe'):
        to_faiss(gallery, 'ivf', **options)


def test_an_unknown_index(gallery):
    with pytest.raises(TypeCheckError, match="(?s)parameter 'index_type'.*'tree'.*'flat', 'ivf'"):
        to_faiss(gallery, 'tree')


def test_without_faiss_it_says_what_to_install(gallery, monkeypatch):
    monkeypatch.setitem(sys.modules, 'faiss', None)
    with pytest.raises(ImportError, match=r"pip install 'idkl_nb\[faiss\]'"):
        to_faiss(gallery)
