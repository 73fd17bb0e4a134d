"Features and their files: damage, interrupted writing, the command line, other people's files."

import io
import json
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import command
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from safetensors.torch import save
from torch import nn

from idkl_nb.assembly import IDKLConfig
from idkl_nb.common import INFRARED, MODALITIES, DataError
from idkl_nb.evaluate import evaluate_main
from idkl_nb.feature_files import load_features, save_features
from idkl_nb.features import FeatureTable, embed
from idkl_nb.model import IDKL
from idkl_nb.protocols import SYSU, RegDB
from idkl_nb.readers import read_dataset, read_sysu
from idkl_nb.records import Records
from idkl_nb.scoring import LAYOUT_FOLDERS, PROTOCOLS, layout_name, score_features, seen_in_training
from idkl_nb.world import World
from idkl_nb.writers import write_llcm, write_regdb, write_sysu

ENDINGS = ('safetensors', 'npz')


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    "A small dataset in the layout of SYSU-MM01"
    return write_sysu(
        World(height=32, width=16),
        tmp_path_factory.mktemp('data') / 'sysu',
        [1],
        [2],
        range(3, 13),
        images=8,
    )


@pytest.fixture(scope='module')
def table(root):
    "Features around a vector of each person"
    records, g = read_sysu(root), torch.Generator().manual_seed(0)
    person = torch.randn(20, 16, generator=g)
    return FeatureTable(
        person[records.identity] + torch.randn(len(records), 16, generator=g),
        records,
        dict(feature='noise', version='1', flip='off'),
    )


@pytest.fixture(scope='module')
def roots(root, tmp_path_factory):
    "And one of each other layout"
    folder, world = tmp_path_factory.mktemp('others'), World(height=32, width=16)
    return {
        'SYSU-MM01': root,
        'RegDB': write_regdb(world, folder / 'regdb', range(1, 13), images=4),
        'LLCM': write_llcm(world, folder / 'llcm', [1, 2], [3, 4, 5], images=9),
    }


def features_of(records, seed=0, **about):
    return FeatureTable(
        torch.randn(len(records), 16, generator=torch.Generator().manual_seed(seed)), records, about
    )


def trial_file(roots, folder, trial, says=True, name=None):
    "Features of the test images of a trial of RegDB"
    file = folder / (name or f'r{trial}.npz')
    save_features(
        features_of(
            read_dataset(roots['RegDB'], trial).where(split='test'),
            trial,
            **(dict(dataset='RegDB', trial=str(trial)) if says else {}),
        ),
        file,
    )
    return file


def evaluated(capsys, *words):
    "The scores that the command writes and what it says, or its message"
    file = Path(words[1]).parent / 'scores.json'
    try:
        evaluate_main([*map(str, words), '--json', str(file)])
    except SystemExit as end:
        assert end.code == 2
        return None, capsys.readouterr().err
    return json.loads(file.read_text()), capsys.readouterr().err


# tables


def test_rows_that_are_wanted(table):
    infrared = table.where(split='test', camera=(3, 6))
    assert len(infrared) == len(table.records.where(split='test', camera=(3, 6))) > 17
    for row in (0, 17):
        place = table.records.path.tolist().index(infrared.records.path[row])
        assert torch.equal(infrared.features[row], table.features[place])
    assert infrared.about == table.about
    assert 'feature noise' in repr(table)
    assert f'{len(table)} features of length 16, float32' in repr(table)


@pytest.mark.parametrize(
    'make, message',
    [
        (
            lambda x, records: (x.index_fill(0, torch.tensor([5, 9]), float('nan')), records),
            r'2 of \d+ features are NaN or infinite, the first is that of cam',
        ),
        (lambda x, records: (x[1:], records), 'one row a record'),
        (lambda x, records: (x[0], records), r'shape \(16,\) on cpu; expected .* \(N, C\)'),
        (lambda x, records: (x[:0], records[:0]), 'empty'),
        (lambda x, records: (x.long(), records), 'torch.int64 .* expected a tensor of floats'),
        (lambda x, records: (x.numpy(), records), 'ndarray; expected a tensor'),
        (lambda x, records: (x.to('meta'), records), 'on meta; .* on the CPU'),
        (lambda x, records: (x, records, dict(flip=True)), 'expected words'),
    ],
)
def test_tables_that_are_none(table, make, message):
    with pytest.raises(DataError, match=message):
        FeatureTable(*make(table.features, table.records))


def test_rows_that_there_are_not(table):
    with pytest.raises(DataError, match='none of .* has split exam'):
        table.where(split='exam')
    with pytest.raises(ValueError, match=r"no column \['person'\]"):
        table.where(person=1)


# from images to features


class Pixels(nn.Module):
    "A network without weights"

    def forward(self, images):
        return images.mean(1).flatten(1)  # (b, H*W)


class Fails(nn.Module):
    def forward(self, images):
        raise RuntimeError('out of order')


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return IDKL(IDKLConfig(backbone='narrow'), identities=2)


def modes(network):
    return [part.training for part in network.modules()]


def test_neither_batch_nor_mode_nor_autocast_matters(model, table):
    records = table.records.where(split='test')
    reference = embed(model.embedder(), records, 32, 16, progress=False)
    model.train()
    model.necks['shared'].eval()
    before = modes(model)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        again = embed(model.embedder(), records, 32, 16, batch_size=7, progress=False)
    assert again.features.dtype == torch.float32
    torch.testing.assert_close(again.features, reference.features, rtol=0, atol=1e-5)
    assert modes(model) == before and any(before) and not all(before)


def test_flip_gives_image_and_mirror_image_one_feature(model, table):
    class Mirrored(nn.Module):
        "Sees everything in a mirror"

        def forward(self, images):
            return model.embedder().eval()(images.flip(3))

    records, options = table.records[:9], dict(flip=True, progress=False)
    flipped = embed(model.embedder(), records, 32, 16, **options)
    mirrored = embed(Mirrored(), records, 32, 16, **options)
    without = embed(model.embedder(), records, 32, 16, progress=False)
    torch.testing.assert_close(mirrored.features, flipped.features, rtol=0, atol=1e-5)
    assert (flipped.features - without.features).abs().max() > 1e-3
    assert (flipped.about['flip'], without.about['flip']) == ('on', 'off')


def test_networks_without_weights_and_networks_that_fail(table):
    records = table.records[:5]
    assert embed(Pixels(), records, 4, 2, progress=False).features.shape == (5, 8)
    fails = nn.Sequential(Fails(), nn.Dropout())
    fails[1].eval()
    with pytest.raises(RuntimeError, match='out of order'):
        embed(fails, records, 4, 2, progress=False)
    assert modes(fails) == [True, True, False]


@pytest.mark.parametrize(
    'network, rows, message',
    [
        (nn.Identity(), 5, r'features are torch.float32 of shape \(5, 3, 4, 2\)'),
        (nn.Flatten(0), 5, r'expected a tensor of floats \(N, C\)'),
        (Pixels(), 0, 'no images'),
    ],
)
def test_features_of_another_shape(table, network, rows, message):
    with pytest.raises(DataError, match=message):
        embed(network, table.records[:rows], 4, 2, progress=False)


# scoring


def test_the_dataset_of_the_folders(roots):
    for name, folder in roots.items():
        assert layout_name(read_dataset(folder)) == name


def test_words_of_the_table_go_into_the_scores(table):
    scores = score_features(table, SYSU(draws='seeded'))
    assert [scores.about[name] for name in ('feature', 'version', 'flip')] == ['noise', '1', 'off']
    own_words = replace(table, about=dict(metric='my own'))
    assert score_features(own_words, SYSU()).about['metric'] == 'cosine'  # the last word


@pytest.mark.parametrize('name, trials', [('regdb', 1), ('llcm', 10), ('llcm-whole', 1)])
@pytest.mark.parametrize('query', MODALITIES)
def test_any_table_by_any_rules(table, name, trials, query):
    scores = score_features(table, PROTOCOLS[name], query)
    assert scores.about['direction'].startswith(query) and len(scores.trials) == trials


@pytest.mark.parametrize(
    'rows, query, exception, message',
    [
        ({}, 'visible', ValueError, 'asks from infrared to visible'),
        ({}, 'thermal', TypeCheckError, "(?s)'thermal'.*'infrared', 'visible'"),
        (dict(split='train'), 'infrared', DataError, 'split test'),
        (dict(camera=(3, 6)), 'infrared', DataError, 'none of'),
    ],
)
def test_what_cannot_be_scored(table, rows, query, exception, message):
    with pytest.raises(exception, match=message):
        score_features(table.where(**rows), SYSU(), query)


def test_the_official_draw_needs_the_dataset(table, tmp_path):
    save_features(table, tmp_path / 'a.npz')
    with pytest.raises(DataError, match='rand_perm_cam.mat'):
        score_features(load_features(tmp_path / 'a.npz'), SYSU())


# the command line


@pytest.mark.parametrize('ending', ENDINGS)
def test_command_prints_and_writes_the_table(table, root, ending, tmp_path):
    file, scores = tmp_path / f'a.{ending}', tmp_path / 'scores.json'
    save_features(table, file)
    done = command(
        evaluate_main,
        '--features',
        file,
        '--protocol',
        'sysu-all-single',
        '--root',
        root,
        '--metric',
        'euclidean',
        '--json',
        scores,
    )
    expected = score_features(table, SYSU(metric='euclidean'))
    assert (done.code, done.err) == (0, '')
    assert done.out == f'{expected}\n'
    assert json.loads(scores.read_text()) == json.loads(json.dumps(expected.to_dict()))
    for words in (
        'infrared to visible',
        'rerank None',
        'feature noise',
        'version 1',
        'flip off',
        '10 trials',
    ):
        assert words in done.out


@pytest.mark.parametrize('says', [True, False])
def test_command_joins_the_trials_of_regdb(roots, says, tmp_path, capsys):
    files = [trial_file(roots, tmp_path, trial, says) for trial in (1, 2, 3)]
    written, _ = evaluated(
        capsys, '--features', *files, '--protocol', 'regdb', '--query', 'visible'
    )
    assert (
        written['about']['trials'] == [1, 2, 3]
        and written['about']['direction'] == 'visible to infrared'
    )
    assert [row['mAP'] for row in written['trials']] == [
        score_features(load_features(file), RegDB(trial=trial), 'visible').trials.mAP[0]
        for trial, file in enumerate(files, 1)
    ]


# which trial, which dataset


def test_trials_are_those_that_the_files_say(roots, tmp_path, capsys):
    "A shell sorts r1, r10, r2"
    files = [trial_file(roots, tmp_path, trial) for trial in (1, 10, 2)]
    written, _ = evaluated(capsys, '--features', *files, '--protocol', 'regdb')
    assert written['about']['trials'] == [1, 2, 10]
    assert [row['mAP'] for row in written['trials']] == [
        score_features(load_features(files[n]), RegDB(trial=trial)).trials.mAP[0]
        for n, trial in ((0, 1), (2, 2), (1, 10))
    ]


def test_a_file_is_believed_over_the_option(roots, tmp_path, capsys):
    file = trial_file(roots, tmp_path, 1)
    assert evaluated(capsys, '--features', file, '--protocol', 'regdb')[0]['about']['trial'] == 1
    message = evaluated(capsys, '--features', file, '--protocol', 'regdb', '--trial', 5)[1]
    assert 'trial 5: ' in message and 'those of trial 1; leave --trial out' in message
    with pytest.raises(ValueError, match='the table says that its images are those of trial 1'):
        score_features(load_features(file), RegDB(trial=5))


def test_files_that_say_nothing_are_trials_in_the_order_of_their_numbers(roots, tmp_path, capsys):
    one, ten, two = (trial_file(roots, tmp_path, trial, says=False) for trial in (1, 10, 2))
    for files in ((one, ten, two), (one, ten), (two, ten)):
        assert (
            'do not say their trials, and are not numbered 1, 2, ...'
            in evaluated(capsys, '--features', *files, '--protocol', 'regdb')[1]
        )
    assert evaluated(capsys, '--features', one, two, '--protocol', 'regdb')[0]['about'][
        'trials'
    ] == [1, 2]
    assert evaluated(
        capsys, '--features', one, ten, two, '--protocol', 'regdb', '--trial', 1, 10, 2
    )[0]['about']['trials'] == [1, 2, 10]
    assert (
        evaluated(capsys, '--features', one, '--protocol', 'regdb', '--trial', 7)[0]['about'][
            'trial'
        ]
        == 7
    )
    assert (
        '2 numbers for 3 files'
        in evaluated(capsys, '--features', one, ten, two, '--protocol', 'regdb', '--trial', 1, 10)[
            1
        ]
    )
    outspoken = trial_file(roots, tmp_path, 3)
    assert (
        f'{one}: it does not say its trial'
        in evaluated(capsys, '--features', one, outspoken, '--protocol', 'regdb')[1]
    )


def test_a_file_that_is_named_twice_is_refused(roots, tmp_path, capsys):
    file, other = trial_file(roots, tmp_path, 1, says=False), trial_file(roots, tmp_path, 2)
    (tmp_path / 'link.npz').symlink_to(file)
    for twice in (file, tmp_path / 'link.npz', tmp_path / '.' / file.name):
        assert (
            'named twice' in evaluated(capsys, '--features', file, twice, '--protocol', 'regdb')[1]
        )
    assert (
        'hold the same features'
        in evaluated(
            capsys,
            '--features',
            file,
            shutil.copy(file, tmp_path / 'r2-copy.npz'),
            '--protocol',
            'regdb',
        )[1]
    )
    assert (
        'both of trial 2'
        in evaluated(
            capsys,
            '--features',
            other,
            trial_file(roots, tmp_path, 2, name='again.npz'),
            '--protocol',
            'regdb',
        )[1]
    )


@pytest.mark.parametrize('layout', LAYOUT_FOLDERS)
@pytest.mark.parametrize('protocol', ['sysu-all-single', 'regdb', 'llcm'])
def test_a_protocol_of_another_dataset_is_refused(roots, layout, protocol, tmp_path, capsys):
    "Whether the file names its dataset, or only its paths do"
    own = dict(zip(LAYOUT_FOLDERS, ('sysu-all-single', 'regdb', 'llcm')))[layout] == protocol
    draws = ['--draws', 'seeded'] if 'sysu' in protocol else []
    for about in ({}, dict(dataset=layout), dict(dataset='synthetic')):
        save_features(
            features_of(read_dataset(roots[layout]).where(split='test'), **about),
            tmp_path / 'f.npz',
        )
        written, message = evaluated(
            capsys, '--features', tmp_path / 'f.npz', '--protocol', protocol, *draws
        )
        assert (written is not None) == own, message
        if not own:
            assert (
                f'f.npz: these are images of {layout}, and --protocol {protocol} is of' in message
            )
        written, message = evaluated(
            capsys,
            '--features',
            tmp_path / 'f.npz',
            '--protocol',
            protocol,
            '--root',
            roots[layout],
        )
        assert (written is not None) == own, message
    save_features(
        features_of(read_dataset(roots[layout]).where(split='test'), dataset='my own'),
        tmp_path / 'f.npz',
    )
    assert evaluated(capsys, '--features', tmp_path / 'f.npz', '--protocol', protocol, *draws)[
        0
    ]  # whose protocol is for its owner to choose
    other = roots['LLCM' if layout == 'RegDB' else 'RegDB']
    if own:
        assert (
            '--root'
            in evaluated(
                capsys, '--features', tmp_path / 'f.npz', '--protocol', protocol, '--root', other
            )[1]
        )


# with the dataset's own records


def wrong_rows(records, table, what):
    "Columns of a file in which something is wrong"
    columns = dict(
        features=table.features.numpy(),
        path=records.path,
        identity=records.identity,
        camera=records.camera,
        modality=records.modality,
        split=records.split,
    )
    test = np.flatnonzero(records.split == 'test')
    if what == 'an image is missing':
        return {name: np.delete(column, test[5], 0) for name, column in columns.items()}
    if what == 'an image stands twice':
        return {
            name: np.concatenate([column, column[test[5] : test[5] + 1]])
            for name, column in columns.items()
        }
    if what == 'another image':
        return columns | dict(
            path=np.concatenate([columns['path'][:-1], [columns['path'][-1].replace('.', 'x.')]])
        )
    column = what.split()[-1]
    changed = columns[column].copy()
    changed[test[5]] = dict(
        identity=99,
        camera=9,
        modality=1 - changed[test[5]] if column == 'modality' else 0,
        split='train',
    )[column]
    return columns | {column: changed}


@pytest.mark.parametrize(
    'layout, protocol', list(zip(LAYOUT_FOLDERS, ('sysu-all-single', 'regdb', 'llcm')))
)
def test_training_people_are_not_scored_as_test_people(roots, layout, protocol, tmp_path, capsys):
    "All images in one file that does not say the splits: the dataset does"
    records = read_dataset(roots[layout])
    table = features_of(records)
    np.savez(
        tmp_path / 'all.npz',
        features=table.features.numpy(),
        path=records.path,
        identity=records.identity,
        camera=records.camera,
        modality=records.modality,
    )
    written, message = evaluated(
        capsys, '--features', tmp_path / 'all.npz', '--protocol', protocol, '--root', roots[layout]
    )
    expected = score_features(table, PROTOCOLS[protocol])
    assert written['trials'] == json.loads(json.dumps(expected.to_dict()))['trials']
    training = (records.split != 'test').sum()
    assert f'{training} of {len(records)} images are training images' in message
    save_features(table, tmp_path / 'with splits.npz')
    assert evaluated(
        capsys,
        '--features',
        tmp_path / 'with splits.npz',
        '--protocol',
        protocol,
        '--root',
        roots[layout],
    ) == (written, '')


@pytest.mark.parametrize(
    'what, expected',
    [
        (
            'an image is missing',
            r'1 of \d+ test images of the dataset sysu are missing: cam./0003/000',
        ),
        ('an image stands twice', '1 images stand there more than once: cam'),
        ('another image', r'1 of \d+ images are not in the dataset sysu: cam'),
        (
            'another identity',
            r'identity of 1 of \d+ images differs .* has 99, and 3 in the dataset',
        ),
        ('another camera', r'camera of 1 of \d+ images differs .* has 9, and \d in the dataset'),
        ('another modality', r'modality of 1 of \d+ images differs'),
        (
            'another split',
            r'split of 1 of \d+ images differs .* has train, and test in the dataset',
        ),
    ],
)
def test_what_differs_from_the_dataset_is_named(table, root, what, expected, tmp_path, capsys):
    np.savez(tmp_path / 'f.npz', **wrong_rows(table.records, table, what))
    written, message = evaluated(
        capsys,
        '--features',
        tmp_path / 'f.npz',
        '--protocol',
        'sysu-all-single',
        '--draws',
        'seeded',
        '--root',
        root,
    )
    assert written is None and re.search('f.npz: ' + expected, message), message


def test_a_protocol_needs_only_the_images_that_it_scores(table, root, tmp_path, capsys):
    "Features of the indoor cameras do for the indoor protocol"
    save_features(table.where(split='test', camera=(1, 2, 3, 6)), tmp_path / 'f.npz')
    assert evaluated(
        capsys, '--features', tmp_path / 'f.npz', '--protocol', 'sysu-indoor-single', '--root', root
    )[0]
    assert (
        'are missing'
        in evaluated(
            capsys,
            '--features',
            tmp_path / 'f.npz',
            '--protocol',
            'sysu-all-single',
            '--draws',
            'seeded',
            '--root',
            root,
        )[1]
    )


def test_a_root_with_the_draws_alone_still_does(table, root, tmp_path, capsys):
    (tmp_path / 'root' / 'exp').mkdir(parents=True)
    shutil.copy(root / 'exp' / 'rand_perm_cam.mat', tmp_path / 'root' / 'exp')
    save_features(table, tmp_path / 'f.npz')
    written, message = evaluated(
        capsys,
        '--features',
        tmp_path / 'f.npz',
        '--protocol',
        'sysu-all-single',
        '--root',
        tmp_path / 'root',
    )
    assert written['trials'] == score_features(table, SYSU()).to_dict()['trials']
    assert message.count('\n') == 1 and 'the images are not' in message


# whom the network has seen


def test_people_who_were_trained_on_get_no_score(table, root):
    def trained(identities, name='SYSU-MM01', **words):
        return FeatureTable(
            table.features,
            table.records,
            dict(trained_on=json.dumps(dict(name=name, identities=identities, **words))),
        )

    assert 'trained_on' not in score_features(trained([1, 2]), SYSU()).about
    with pytest.raises(
        DataError,
        match=r'2 of 10 test identities were trained on \(3, 12\): '
        'the network has seen the training set of SYSU-MM01',
    ):
        score_features(trained([1, 3, 12]), SYSU())
    score_features(trained([1, 3, 12], 'LLCM'), SYSU())
    score_features(trained([3], world='seed 1'), SYSU())  # other people
    for nonsense in (
        '[]',
        '{',
        '{"name": "SYSU-MM01"}',
        '{"name": "SYSU-MM01", "identities": "all"}',
    ):
        with pytest.raises(DataError, match='trained_on is .*expected a JSON text'):
            seen_in_training(dict(trained_on=nonsense), table.records)


def cut_files(table, folder):
    "A whole file and one without its end, of each kind"
    for ending in ENDINGS:
        save_features(table, folder / f'a.{ending}')
        (folder / f'cut.{ending}').write_bytes((folder / f'a.{ending}').read_bytes()[:-100])


def test_command_ends_with_code_2_and_one_line(table, tmp_path):
    "A file that is cut off: one line on standard error"
    cut_files(table, tmp_path)
    done = command(evaluate_main, '--features', tmp_path / 'cut.safetensors', '--protocol', 'llcm')
    assert (done.code, done.out, done.err.count('\n')) == (2, '', 1)
    assert done.err.startswith(
        f'idkl-evaluate: {tmp_path}/cut.safetensors: unreadable, perhaps cut off'
    )


@pytest.mark.parametrize(
    'words, message',
    [
        ('a.npz --protocol regdb --draws seeded', '--draws is a choice of SYSU-MM01'),
        ('a.npz --protocol llcm --trial 3', '--trial is a choice of RegDB'),
        ('a.npz --protocol regdb --trial 11', 'RegDB has trials 1 to 10'),
        ('a.npz --protocol regdb', 'these are images of SYSU-MM01'),
        ('a.npz a.safetensors --protocol llcm', 'only RegDB has one model a trial'),
        ('a.npz --protocol sysu-all-single --draws seeded --root .', 'neither cam1'),
        ('a.npz --protocol sysu-all-single', 'exp/rand_perm_cam.mat'),
        (
            'a.npz --protocol sysu-all-single --root .',
            'neither images (cam1) nor the gallery draws',
        ),
        (
            'a.npz --protocol sysu-all-single --draws seeded --query visible',
            'asks from infrared to visible',
        ),
        ('a.npz --protocol sysu-all-single --draws seeded --rerank beside', 'invalid choice'),
        ('a.npz --protocol nobody', 'invalid choice'),
        ('cut.npz --protocol llcm', 'cut.npz: unreadable, perhaps cut off'),
        ('nothing.npz --protocol llcm', 'nothing.npz: no such file'),
        (
            'a.npz --protocol sysu-all-single --draws seeded --json nowhere/x.json',
            'nowhere: no such folder',
        ),
    ],
)
def test_command_says_what_is_wrong(table, words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cut_files(table, tmp_path)
    with pytest.raises(SystemExit) as end:
        evaluate_main(['--features', *words.split()])
    assert end.value.code == 2 and message in capsys.readouterr().err


# features from elsewhere


@pytest.mark.parametrize('name', PROTOCOLS)
def test_features_written_with_numpy_alone_score_the_same(table, root, name, tmp_path):
    test = table.where(split='test')
    order = np.random.default_rng(0).permutation(len(test))  # in whatever order they come
    np.savez(
        tmp_path / 'theirs.npz',
        features=test.features.numpy()[order],
        path=test.records.path[order],
        identity=test.records.identity[order].astype(np.int32),
        camera=test.records.camera[order].astype(np.uint8),
        modality=np.array(MODALITIES)[test.records.modality[order]],
    )
    theirs = score_features(load_features(tmp_path / 'theirs.npz', root), PROTOCOLS[name])
    asks = test.records.modality == INFRARED
    ours = PROTOCOLS[name].evaluate(
        test.features[asks], test.records[asks], test.features[~asks], test.records[~asks]
    )
    assert theirs.about == ours.about
    np.testing.assert_allclose(
        theirs.trials.to_numpy(float), ours.trials.to_numpy(float), rtol=1e-6
    )


def test_training_images_in_the_file_are_not_scored(table):
    assert score_features(table, SYSU()).trials.equals(
        score_features(table.where(split='test'), SYSU()).trials
    )
    with pytest.raises(DataError, match='split test'):
        score_features(table.where(split=('train', 'val')), SYSU())


# damaged files


def small(ending, folder):
    "The bytes of a small file"
    rows = [
        (f'cam{camera}/0001/{camera:04d}.jpg', 1, camera, modality, split)
        for camera, modality, split in ((1, 0, 'test'), (3, 1, 'test'), (6, 1, 'train'))
    ]
    save_features(
        FeatureTable(
            torch.arange(6.0).reshape(3, 2), Records.from_rows('x', rows), dict(feature='small')
        ),
        folder / f'small.{ending}',
    )
    return (folder / f'small.{ending}').read_bytes()


@pytest.mark.parametrize('ending', ENDINGS)
def test_a_damaged_file_is_an_error_in_words_or_a_table(ending, tmp_path):
    "Up to three changed bytes, or cut off anywhere, 400 times: a table, or a DataError"
    whole, file, outcomes = (
        small(ending, tmp_path),
        tmp_path / f'damaged.{ending}',
        {True: 0, False: 0},
    )

    def load(content):
        file.write_bytes(content)
        try:
            found = load_features(file)
        except DataError as error:
            assert str(file) in str(error) and 'Expected' in str(error)
            return False
        assert torch.isfinite(found.features).all() and len(found) == len(found.records) > 0
        assert set(found.records.modality) <= {0, 1} and set(found.records.split) <= {
            'train',
            'val',
            'test',
        }
        assert all(
            len(getattr(found.records, name)) == len(found)
            for name in ('identity', 'camera', 'modality', 'split')
        )
        return True

    @settings(max_examples=400, deadline=None, derandomize=True, database=None)
    @given(
        st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(1, 255)), max_size=3),
        st.one_of(st.just(len(whole)), st.integers(0, len(whole))),
    )
    def damage(flips, length):
        content = bytearray(whole)
        for place, bits in flips:
            content[place] ^= bits
        outcomes[load(bytes(content[:length]))] += 1

    damage()
    assert load(whole)
    assert outcomes[False] > 50, outcomes  # most damage is seen


def test_a_damaged_npz_content_is_noticed(table, tmp_path):
    "The zip's checksum sees every changed byte of the features"
    save_features(table, tmp_path / 'a.npz')
    whole, row = (tmp_path / 'a.npz').read_bytes(), table.features[7].numpy().tobytes()
    place = whole.index(row)
    (tmp_path / 'a.npz').write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(DataError, match='CRC'):
        load_features(tmp_path / 'a.npz')


def test_code_in_a_file_is_not_run(tmp_path):
    "Objects in a feature file are refused"

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'exploded'),)

    np.savez(tmp_path / 'bomb.npz', features=np.array([Bomb()], dtype=object))
    with pytest.raises(DataError, match='nothing is unpickled'):
        load_features(tmp_path / 'bomb.npz')
    assert not (tmp_path / 'exploded').exists()


def other_file(table, folder, **columns):
    "A file as somebody else writes it, with some columns changed"
    records = table.records
    good = dict(
        features=table.features.numpy(),
        path=records.path,
        identity=records.identity,
        camera=records.camera,
        modality=records.modality,
        split=records.split,
    )
    columns = {name: column for name, column in (good | columns).items() if column is not None}
    np.savez(folder / 'other.npz', **columns)
    return folder / 'other.npz'


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
@pytest.mark.parametrize('rows', [1, 7, 3000])
def test_text_kept_as_objects_is_read(protocol, rows, tmp_path, monkeypatch):
    "As a column of a DataFrame comes, whichever way it was pickled, with texts that recur"
    dump = pickle.dump
    monkeypatch.setattr(
        pickle, 'dump', lambda array, file, **_: dump(array, file, protocol=protocol)
    )
    words = [f'cam1/{n % 1100:04d}/größe_人_{n % 1100}.jpg' for n in range(rows)]
    paths, split, modality = (
        np.array(words, dtype=object),
        np.array([('train', 'test')[n % 2] for n in range(rows)], dtype=object),
        np.array(['RGB'] * rows, dtype=object),
    )
    np.savez(
        tmp_path / 'f.npz',
        features=np.eye(rows, 2) + 1,
        path=paths,
        identity=np.ones(rows, int),
        camera=np.ones(rows, int),
        modality=modality,
        split=split,
    )
    monkeypatch.undo()
    found = load_features(tmp_path / 'f.npz').records
    assert (found.path.tolist(), found.split.tolist(), found.modality.tolist()) == (
        words,
        split.tolist(),
        [0] * rows,
    )


class Calls:
    "What makes a folder when it is unpickled"

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize(
    'what',
    [
        'a call among texts',
        'a call in place of the array',
        'a call behind the array',
        'numbers',
        'a missing value',
        'lists',
        'two dimensions',
        'too few',
    ],
)
def test_objects_that_are_not_text_are_refused_and_never_built(table, what, tmp_path):
    paths, call = table.records.path.astype(object), Calls(str(tmp_path / 'exploded'))
    if what == 'a call among texts':
        paths[3] = call
    if what == 'numbers':
        paths = np.arange(len(paths)).astype(object)
    if what == 'a missing value':
        paths[3] = None
    if what == 'lists':
        paths[3] = ['a.jpg']
    if what == 'two dimensions':
        paths = paths.reshape(2, -1)
    file = other_file(table, tmp_path, path=paths)
    if what in ('a call in place of the array', 'a call behind the array', 'too few'):
        content = io.BytesIO()
        np.lib.format.write_array(content, paths)
        start = content.getvalue().index(b'\n') + 1
        header, body = content.getvalue()[:start], content.getvalue()[start:]
        if what == 'too few':
            body = pickle.dumps(paths[:-1], protocol=4)
        if what == 'a call in place of the array':
            body = pickle.dumps(call)
        if what == 'a call behind the array':
            body = pickle.dumps([paths, call], protocol=4)
        with zipfile.ZipFile(file) as old:
            members = {name: old.read(name) for name in old.namelist()}
        with zipfile.ZipFile(file, 'w') as new:
            for name, member in (members | {'path.npy': header + body}).items():
                new.writestr(name, member)
    with pytest.raises(
        DataError, match='path holds .*nothing is unpickled. Expected text, as path.astype'
    ):
        load_features(file)
    assert not (tmp_path / 'exploded').exists()


@pytest.mark.parametrize(
    'column, cure',
    [('identity', 'plain numbers'), ('features', 'plain numbers'), ('about', 'JSON text')],
)
def test_other_objects_are_refused_with_a_cure(table, column, cure, tmp_path):
    objects = dict(
        identity=table.records.identity.astype(object),
        features=table.features.numpy().astype(object),
        about=np.array(dict(feature='mine'), dtype=object),
    )
    with pytest.raises(
        DataError,
        match=f'{column} holds Python objects, and nothing is unpickled. Expected a? ?{cure}',
    ):
        load_features(other_file(table, tmp_path, **{column: objects[column]}))


def test_unknown_keys_are_left_out_with_a_warning(table, tmp_path):
    extra = dict(
        label=np.arange(len(table)),
        paths_of_mine=np.array([Calls(str(tmp_path / 'exploded'))], dtype=object),
    )
    with pytest.warns(
        UserWarning,
        match='other.npz: keys that do not belong here, and are left out: '
        r"\['label', 'paths_of_mine'\]",
    ):
        found = load_features(other_file(table, tmp_path, **extra))
    assert torch.equal(found.features, table.features) and found.records.frame().equals(
        table.records.frame()
    )
    assert not (tmp_path / 'exploded').exists()
    for name in ('splits', 'Split', 'spilt'):  # it would quietly make test images of all
        columns = dict(
            features=table.features.numpy(),
            path=table.records.path,
            identity=table.records.identity,
            camera=table.records.camera,
            modality=table.records.modality,
        )
        np.savez(tmp_path / 'misspelt.npz', **columns, **{name: table.records.split})
        with pytest.raises(DataError, match=f'{name}.*is split meant'):
            load_features(tmp_path / 'misspelt.npz')


@pytest.mark.parametrize(
    'visible, infrared',
    [
        ('visible', 'infrared'),
        ('VIS', 'NIR'),
        ('RGB', 'thermal'),
        ('rgb', 'IR'),
        ('Color', 'Thermal'),
        (' vis ', 'ir'),
        ('colour', 'TIR'),
    ],
)
@pytest.mark.parametrize('kind', [str, object])
def test_the_usual_words_for_a_modality(table, visible, infrared, kind, tmp_path):
    words = np.array([visible, infrared])[table.records.modality].astype(kind)
    assert (
        load_features(other_file(table, tmp_path, modality=words)).records.modality
        == table.records.modality
    ).all()


def seven_ways_out(records):
    "Records whose first path leads out of the root, or is none"
    names = ('/somewhere/a.jpg', '../a.jpg', 'cam1/../../a.jpg', 'C:/a.jpg', 'cam1\\a.jpg')
    for path in (*names, 'cam1/a\nb.jpg', ''):
        yield replace(records, path=np.array([path, *records.path[1:]]))


@pytest.mark.parametrize('ending', ENDINGS)
def test_paths_that_lead_out_are_not_written(table, ending, tmp_path):
    for records in seven_ways_out(table.records):
        outside = FeatureTable(table.features, records)
        with pytest.raises(DataError, match="relative to the dataset's root"):
            save_features(outside, tmp_path / f'x.{ending}')


@pytest.mark.parametrize('ending', ENDINGS)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_there_and_back_to_the_last_bit(table, root, ending, dtype, tmp_path):
    records = replace(table.records, identity=table.records.identity + 70_000)
    about = {'feature': 'noise', 'flip': 'off', 'Größe': '32 × 16'}
    saved = FeatureTable(table.features.to(dtype), records, about)
    save_features(saved, tmp_path / f'a.{ending}')
    loaded = load_features(tmp_path / f'a.{ending}', root=root)
    if ending == 'npz' and dtype == torch.bfloat16:
        saved = FeatureTable(saved.features.float(), records, about)  # NumPy has no bfloat16
    assert loaded.features.dtype == saved.features.dtype
    assert torch.equal(loaded.features, saved.features)
    assert loaded.about == about and loaded.records.frame().equals(records.frame())
    assert loaded.records.root == root
    assert load_features(tmp_path / f'a.{ending}').records.root.name == 'root-not-given'


def test_other_types_and_words_are_read(table, tmp_path):
    "Modalities in words, paths as objects, numbers of another width and order; no split"
    columns = dict(
        features=table.features.numpy().astype('>f8'),
        path=table.records.path.astype(object),
        identity=table.records.identity.astype('u2'),
        camera=table.records.camera,
        modality=np.array(['RGB', 'Thermal'])[table.records.modality],
    )
    np.savez(tmp_path / 'f.npz', **columns)
    loaded = load_features(tmp_path / 'f.npz')
    assert loaded.records.path.tolist() == table.records.path.tolist()
    assert loaded.records.modality.tolist() == table.records.modality.tolist()
    assert set(loaded.records.split) == {'test'}
    assert torch.equal(loaded.features, table.features.double())


EMPTY = dict.fromkeys(('identity', 'camera', 'modality'), np.array([], dtype=int))


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda t: dict(camera=None), r"missing: \['camera'\]"),
        (
            lambda t: dict(split=None, splits=t.records.split),
            r"do not belong here: \['splits'\]; is split meant\?",
        ),
        (lambda t: dict(features=None), r"missing: \['features'\]"),
        (lambda t: dict(identity=t.records.identity[1:]), 'one for each of [0-9]+ features'),
        (lambda t: dict(identity=t.records.identity / 2), 'identity is float64'),
        (lambda t: dict(camera=np.full(len(t), 'front')), 'expected whole numbers'),
        (lambda t: dict(modality=t.records.modality + 1), 'modality 2 occurs'),
        (lambda t: dict(modality=np.full(len(t), 'Radar')), 'modality Radar occurs; expected 0'),
        (lambda t: dict(split=np.full(len(t), 'exam')), 'split exam occurs'),
        (
            lambda t: dict(path=np.array([f'/data/{path}' for path in t.records.path])),
            "relative to the dataset's root",
        ),
        (
            lambda t: dict(path=np.array([Path(path) for path in t.records.path], dtype=object)),
            'path holds objects that are not text',
        ),
        (lambda t: dict(features=t.features.numpy().astype(int)), 'features are int64'),
        (lambda t: dict(features=t.features.numpy().astype('c8')), 'features are complex64'),
        (lambda t: dict(features=t.features.numpy()[0]), 'one for each of 16 features'),
        (lambda t: dict(features=t.features.numpy() * np.nan), 'the first is that of cam'),
        (lambda t: dict(about='no JSON'), 'JSONDecodeError'),
        (lambda t: dict(about='[1]'), 'about is list'),
        (lambda t: dict(about='{"flip": true}'), 'expected words'),
        (
            lambda t: dict(
                EMPTY, split=None, path=np.array([], dtype=str), features=t.features.numpy()[:0]
            ),
            'empty',
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_words(table, change, message, tmp_path):
    with pytest.raises(DataError, match=f'other.npz: .*{message}'):
        load_features(other_file(table, tmp_path, **change(table)))


@pytest.mark.parametrize('ending', ENDINGS)
def test_files_that_are_cut_off(table, ending, tmp_path):
    save_features(table, tmp_path / f'a.{ending}')
    whole = (tmp_path / f'a.{ending}').read_bytes()
    for content in (whole[: len(whole) // 2], whole[:5], b'', b'hello'):
        (tmp_path / f'cut.{ending}').write_bytes(content)
        with pytest.raises(DataError, match='unreadable, perhaps cut off'):
            load_features(tmp_path / f'cut.{ending}')


def test_files_that_are_none(table, tmp_path):
    (tmp_path / 'other.safetensors').write_bytes(save(dict(features=table.features)))
    for file, message in (
        (tmp_path / 'other.safetensors', 'format 1'),
        (tmp_path / 'nothing.npz', 'no such file'),
        ('x' * 300 + '.npz', 'no such file'),
        (tmp_path / 'note.txt', 'unknown ending'),
    ):
        with pytest.raises(DataError, match=message):
            load_features(file)
    with pytest.raises(DataError, match='choose .safetensors or .npz'):
        save_features(table, tmp_path / 'x.pt')


def test_an_unknown_word_for_a_modality_is_named(table, tmp_path):
    words = np.array(['RGB', 'Sketch'])[table.records.modality]
    with pytest.raises(
        DataError,
        match='modality Sketch occurs; expected 0 and 1, or in any case visible, vis, rgb.*thermal',
    ):
        load_features(other_file(table, tmp_path, modality=words))


# interrupted writing

fork = multiprocessing.get_context('fork') if hasattr(os, 'fork') else None


def overwrite(file, how, said):
    "In a process of its own: double the features of a file, and write down what goes wrong"
    import resource

    sys.stderr = said.open('w')
    table = load_features(file)
    twice = FeatureTable(2 * table.features, table.records)
    if how == 'disk full':
        resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(file) // 2,) * 2)
    if how == 'killed':
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    save_features(twice, file)


@pytest.mark.skipif(fork is None, reason='a process is forked')
@pytest.mark.parametrize(
    'ending, how, code',
    [
        ('safetensors', 'disk full', 1),
        ('npz', 'disk full', 1),
        ('npz', 'killed', -9),
        ('npz', 'nothing', 0),
    ],
)
def test_the_old_file_or_the_new_one_is_whole(table, ending, how, code, tmp_path):
    "Disk full or SIGKILL while a file of features is replaced"
    file, said = tmp_path / 'features' / f'a.{ending}', tmp_path / 'said.txt'
    file.parent.mkdir()
    save_features(table, file)
    process = fork.Process(target=overwrite, args=(file, how, said))
    process.start()
    process.join(60)
    assert process.exitcode == code
    if how == 'disk full':
        assert 'File too large' in said.read_text()
    assert torch.equal(
        load_features(file).features, table.features * (2 if how == 'nothing' else 1)
    )
    if how != 'killed':
        assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize('broken', ['fsync', 'replace'])
def test_a_failing_system_call_leaves_the_old_file(table, broken, tmp_path, monkeypatch):
    "A failing fsync or rename, too"

    def fails(*_):
        raise OSError('out of order')

    save_features(table, tmp_path / 'a.npz')
    with monkeypatch.context() as patched:
        patched.setattr(os, broken, fails)
        with pytest.raises(OSError, match='out of order'):
            save_features(FeatureTable(2 * table.features, table.records), tmp_path / 'a.npz')
    assert (
        torch.equal(load_features(tmp_path / 'a.npz').features, table.features)
        and len(list(tmp_path.iterdir())) == 1
    )


def test_no_path_of_the_machine_is_in_a_file(table, root, tmp_path):
    for ending in ENDINGS:
        save_features(table, tmp_path / f'a.{ending}')
        content = (tmp_path / f'a.{ending}').read_bytes()
        for word in (str(root), str(Path.home()), root.parent.name):
            for encoding in ('utf-8', 'utf-32-le'):
                assert word.encode(encoding) not in content
