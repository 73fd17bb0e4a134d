"People whom a network has seen, names of a run, options, and what fails before a training."

import contextlib
import dataclasses
import io
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.state import PartialState
from commands import TINY, command

import idkl_nb
from idkl_nb import devices
from idkl_nb.check import Check, check_main
from idkl_nb.common import INFRARED, VISIBLE, DataError
from idkl_nb.embed_command import Embed, embed_main, images_below
from idkl_nb.evaluate import Evaluate, evaluate_main
from idkl_nb.feature_files import load_features
from idkl_nb.option_words import given
from idkl_nb.readers import read_dataset
from idkl_nb.run_folder import load_run
from idkl_nb.runs import Experiment, data
from idkl_nb.train_command import Train, train_main
from idkl_nb.world import World
from idkl_nb.writers import write_llcm, write_regdb, write_sysu


def trained(out, *words):
    "A short training by the command"
    return command(train_main, *TINY, '--out', out, *words)


def embedded(images, run, out, *words):
    return command(embed_main, '--images', images, '--run', run, '--out', out, *words)


def refused(done, pattern):
    assert done.code == 2, (done.out, done.err)
    assert re.search(pattern, done.err), done.err


@pytest.fixture(scope='module')
def bench(tmp_path_factory):
    "A small dataset of each layout, and a run on trial 1 of RegDB"
    folder = tmp_path_factory.mktemp('commands')
    world = World(height=32, width=16)
    roots = SimpleNamespace(
        regdb=write_regdb(world, folder / 'regdb', range(1, 9), images=4),
        sysu=write_sysu(world, folder / 'sysu', [1, 2], [3], [4, 5], images=8),
        llcm=write_llcm(world, folder / 'llcm', [1, 2, 3], [4, 5], images=9),
    )
    done = trained(folder / 'r1', '--root', roots.regdb, '--trial', 1)
    assert done.code == 0, done.err
    return SimpleNamespace(folder=folder, roots=roots, run=folder / 'r1')


def other_trial(root):
    "A trial whose test people were partly trained on in trial 1, and another such"
    seen = set(read_dataset(root, 1).where(split='train').identity)
    trials = []
    for trial in range(2, 11):
        if seen & set(read_dataset(root, trial).where(split='test').identity):
            trials.append(trial)
    return trials[:2]


def without_dataset(run, folder):
    "A copy of a run as an earlier version wrote it"
    copy = shutil.copytree(run, folder)
    file = copy / 'model' / 'config.json'
    about = json.loads(file.read_text())
    about.pop('dataset', None)
    file.write_text(json.dumps(about))
    return copy


# a network that has seen the people it is tested on


def test_a_run_notes_its_dataset_and_trial(bench):
    about = json.loads((bench.run / 'model' / 'config.json').read_text())
    assert about['dataset'] == dict(name='RegDB', trial='1')
    features = load_features(bench.run / 'features.safetensors')
    assert (features.about['dataset'], features.about['trial']) == ('RegDB', '1')
    assert json.loads(features.about['trained_on'])['identities'] == about['identities']


@pytest.mark.parametrize('old', [False, True], ids=['', 'a run from before it noted its dataset'])
def test_embedding_people_whom_the_run_has_seen_is_refused(bench, old, tmp_path):
    run = without_dataset(bench.run, tmp_path / 'old') if old else bench.run
    trial, _ = other_trial(bench.roots.regdb)
    file = tmp_path / 'f.npz'
    done = embedded(bench.roots.regdb, run, file, '--trial', trial)
    refused(done, r'\d of 4 test identities were trained on \(\d.*RegDB, trial 1.*with --trial 1$')
    assert not file.exists()

    assert embedded(bench.roots.regdb, run, file, '--trial', 1).code == 0
    assert load_features(file).about['trial'] == '1'
    load_run(run / 'model')


def test_the_trial_is_that_of_the_run_unless_given(bench, tmp_path):
    trial, _ = other_trial(bench.roots.regdb)
    run, file = tmp_path / 'run', tmp_path / 'f.npz'
    root = ('--root', bench.roots.regdb)
    assert trained(run, *root, '--trial', trial).code == 0
    done = embedded(bench.roots.regdb, run, file)
    assert done.code == 0, done.err
    assert load_features(file).about['trial'] == str(trial)
    scores = command(evaluate_main, '--features', file, '--protocol', 'regdb')
    assert f'trial {trial},' in scores.out

    refused(
        trained(run, *root, '--resume', '--trial', 1),
        f'trained on trial {trial}; leave --trial out',
    )
    assert trained(run, *root, '--resume').code == 0


def test_identities_of_another_dataset_are_other_people(bench, tmp_path):
    "The numbers overlap, the people do not: a score on another dataset is a fair question"
    seen = json.loads((bench.run / 'model' / 'config.json').read_text())['identities']
    test = read_dataset(bench.roots.sysu).where(split='test').identity
    assert set(seen) & set(test)
    done = embedded(bench.roots.sysu, bench.run, tmp_path / 'f.npz')
    assert (done.code, done.err.count('worthless')) == (0, 0), done.err

    # nobody knows: it is said
    old = without_dataset(bench.run, tmp_path / 'old')
    done = embedded(bench.roots.sysu, old, tmp_path / 'f.npz')
    assert done.code == 0 and 'does not say which dataset it was trained on' in done.err


def test_features_of_people_who_were_seen_get_no_score(bench, tmp_path):
    "Training images that somebody calls test images, in the file and without the dataset"
    table = load_features(bench.run / 'features.safetensors')
    seen = json.loads(table.about['trained_on'])['identities']
    columns = dict(
        features=table.features.numpy(),
        path=table.records.path,
        camera=table.records.camera,
        modality=table.records.modality,
    )
    identity = np.where(
        table.records.identity == table.records.identity[0], seen[0], table.records.identity
    )
    np.savez(tmp_path / 'f.npz', identity=identity, about=json.dumps(table.about), **columns)
    refused(
        command(evaluate_main, '--features', tmp_path / 'f.npz', '--protocol', 'regdb'),
        rf'1 of 4 test identities were trained on \({seen[0]}\).*worthless',
    )


def test_a_drawn_world_is_told_from_another_and_from_a_real_dataset(bench, tmp_path):
    run = tmp_path / 'run'
    done = trained(run)
    assert done.code == 0, done.err
    about = json.loads((run / 'model' / 'config.json').read_text())
    assert about['dataset'] == dict(name='synthetic', world='seed 7, coupling 0.65')
    assert embedded(run / 'data', run, tmp_path / 'f.npz').code == 0

    # the same people, but the first ones to test on
    lists = run / 'data' / 'exp'
    (lists / 'train_id.txt').write_text('3,4,5')
    (lists / 'val_id.txt').write_text('6')
    (lists / 'test_id.txt').write_text('1,2,7')
    refused(
        embedded(run / 'data', run, tmp_path / 'g.npz'),
        r'2 of 3 test identities were trained on \(1, 2\)',
    )


# names of a run


def test_both_names_of_a_run_are_accepted(bench, tmp_path):
    root = bench.roots.regdb
    for n, run in enumerate((bench.run, bench.run / 'model')):
        assert embedded(root, run, tmp_path / f'{n}.npz').code == 0
        assert trained(run, '--root', root, '--resume').code == 0
    first, second = (load_features(tmp_path / f'{n}.npz') for n in (0, 1))
    assert torch.equal(first.features, second.features) and first.about == second.about
    refused(
        embedded(root, bench.folder, tmp_path / 'x.npz'),
        'Expected the folder that idkl-train named, such as runs/embedded, or model in it',
    )


def test_messages_speak_of_options(bench, monkeypatch):
    for out in (bench.run, bench.run / 'model'):
        done = trained(out, '--root', bench.roots.regdb)
        refused(done, f'--out {bench.run}: a run is here already. Go on with it by --resume --out')
        assert f'--resume --out {bench.run}' in done.err and 'resume(' not in done.err
    refused(
        trained(bench.run, '--resume'),
        '--resume: the run was trained on RegDB; name its folder with --root',
    )


@pytest.mark.parametrize('error', [KeyboardInterrupt, SystemExit, ChildProcessError])
def test_a_training_that_ends_speaks_of_options(error, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise error("stopped after step 1 of 9; go on with resume('model', ...)")

    monkeypatch.setattr('idkl_nb.train_command.fit', stopped)
    out = tmp_path / 'stopped'
    printed = io.StringIO()
    with pytest.raises((error, SystemExit)) as end, contextlib.redirect_stderr(printed):
        train_main([str(word) for word in (*TINY, '--out', out)])
    message = f'{end.value}{printed.getvalue()}'
    assert f'go on with --resume --out {out}' in message and 'resume(' not in message


# a folder of images that is no dataset


def test_images_below_a_folder_are_what_a_dataset_would_read(tmp_path):
    "Names with a dot are no images, suffixes count in any case; one warning counts the rest"
    (tmp_path / 'night').mkdir()
    (tmp_path / '.hidden').mkdir()
    names = (
        '0001.JPG',
        '0002.jfif',
        'night/0003.apng',
        '._0001.JPG',
        '.hidden/0004.png',
        'Thumbs.db',
        'night/old.tif',
    )
    for name in names:
        (tmp_path / name).touch()
    with pytest.warns(UserWarning) as caught:
        records = images_below(tmp_path, INFRARED)
    assert records.path.tolist() == ['0001.JPG', '0002.jfif', 'night/0003.apng']
    assert set(records.modality) == {INFRARED}
    assert set(records.identity) == {0} and set(records.split) == {'test'}
    (warning,) = [str(one.message) for one in caught]
    assert '4 files in folders of images are not used: 2 with a name that begins' in warning


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / 'empty').mkdir()
    message = 'no image below this folder. Expected files that end in .jpg'
    with pytest.raises(DataError, match=message):
        images_below(tmp_path / 'empty', VISIBLE)
    (tmp_path / '._0001.jpg').touch()
    with pytest.warns(UserWarning, match='begins with a dot'):
        with pytest.raises(DataError, match=message):
            images_below(tmp_path, INFRARED)


# options


def test_help_shows_the_presets_and_their_batches(monkeypatch):
    monkeypatch.setenv('COLUMNS', '200')
    done = command(train_main, '--preset', 'smoke', '--help')
    assert '--preset {sysu-paper,regdb-paper,llcm-paper,sysu-released,embedded,smoke}' in done.out
    for line in (
        'sysu-paper     120 images in a batch, 384 x 128 pixels, 120 epochs',
        'embedded       64 images in a batch',
        'smoke          12 images in a batch',
    ):
        assert line in done.out
    assert 'images in all' not in done.out
    assert '--validate-every' not in done.out and '--settings' not in done.out


def test_options_without_effect_are_refused(bench, tmp_path):
    for words, pattern in (
        (['--validate-every', 3], 'Unrecognized options'),
        (['--coupling', 0, '--root', bench.roots.sysu], '--coupling is for a drawn world'),
        (['--trial', 2], '--trial 2 is a choice of RegDB; leave it out for a drawn world'),
    ):
        refused(trained(tmp_path / 'run', *words), pattern)
        assert not (tmp_path / 'run').exists()
    for words, pattern in (
        (['--height', 64], 'a run knows its own'),
        (['--trial', 2], '--trial 2 is a choice of RegDB'),
        (['--trial', 2, '--modality', 'visible'], '--trial is a choice of RegDB'),
    ):
        refused(embedded(bench.roots.sysu, bench.run, tmp_path / 'f.npz', *words), pattern)


def test_the_device_of_a_training(bench, tmp_path, monkeypatch):
    "What --device names is what the training computes on, and nothing is left behind"
    never = tmp_path / 'never'
    for device in ('gpu', 'cuda:99', 'meta'):
        refused(trained(never, '--device', device), f'idkl-train: --device {device}')
    assert not never.exists()
    done = trained(tmp_path / 'run', '--device', 'cpu')
    assert done.code == 0, done.err

    monkeypatch.setattr(devices, 'check_device', lambda device: None)
    with devices.training_on('meta'):
        assert PartialState(cpu=True).device.type == 'meta'
    assert PartialState(cpu=True).device.type == 'cpu'
    monkeypatch.setenv('LOCAL_RANK', '0')
    refused(trained(never, '--device', 'cpu'), '--device: several processes were started')


HOME = {
    'train': (train_main, Train, 'run', '--out=~/a --root=~/b'),
    'embed': (embed_main, Embed, 'execute', '--images=~/a --out=~/b --run=~/c --released=~/d'),
    'evaluate': (
        evaluate_main,
        Evaluate,
        'tables',
        '--features ~/a ~/b --protocol sysu-all-single --root=~/c --json=~/d',
    ),
    'check': (check_main, Check, 'run', '~/a --json=~/b'),
}


@pytest.mark.parametrize('name', HOME)
def test_the_home_folder_in_every_path(name, tmp_path, monkeypatch):
    "A shell leaves --out=~/x as it is; each command puts the home folder there, once"
    main, options, method, words = HOME[name]
    monkeypatch.setenv('HOME', str(tmp_path))
    seen = []

    def stop(self, *_, **__):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            seen.extend(value if isinstance(value, tuple) else [value])
        raise OSError('stop')

    monkeypatch.setattr(options, method, stop)
    command(main, *words.split())
    paths = {path for path in seen if isinstance(path, Path)}
    assert paths == {tmp_path / word[-1] for word in words.split() if '~' in word}


def test_every_command_expands_its_paths():
    "Whatever reads options hands them on with the home folder in place of ~"
    for file in Path(idkl_nb.__file__).parent.glob('*.py'):
        text = file.read_text(encoding='utf-8')
        assert 'tyro.cli(' not in text or 'expand_paths(' in text, file.name


def test_the_small_network_says_that_it_is_small(bench, tmp_path):
    "Who names a dataset and no preset would take its scores for those of the paper's network"
    words = '--epochs 1 --batches 1 --P 2 --K 2 --precision no'.split()
    done = command(train_main, *words, '--root', bench.roots.sysu, '--out', tmp_path / 'run')
    assert done.code == 0 and 'a small network on images of 64 x 32 pixels' in done.err
    assert 'narrow, 64 x 32 pixels, 8 images a batch' in done.out + done.err
    assert 'small network' not in trained(tmp_path / 'other', '--root', bench.roots.sysu).err


# what fails, fails before the training


@pytest.mark.parametrize('what', ['no draws', 'draws of other images', 'no infrared test images'])
def test_what_cannot_be_scored_is_not_trained(bench, what, tmp_path):
    root = shutil.copytree(bench.roots.sysu, tmp_path / 'data')
    if what == 'no draws':
        (root / 'exp' / 'rand_perm_cam.mat').unlink()
    if what == 'draws of other images':
        (root / 'cam1' / '0004' / '0002.jpg').unlink()
    if what == 'no infrared test images':
        for camera in ('cam3', 'cam6'):
            for person in ('0004', '0005'):
                shutil.rmtree(root / camera / person)
    done = trained(tmp_path / 'run', '--root', root, '--no-check')
    refused(done, 'could not be scored after the training: ')
    assert not (tmp_path / 'run' / 'model').exists()
    if what == 'no draws':
        assert 'rand_perm_cam.mat: the file of gallery draws is missing' in done.err


# a world with another coupling


def test_the_coupling_of_the_drawn_world(tmp_path):
    run = tmp_path / 'run'
    done = trained(run, '--coupling', 0)
    assert done.code == 0, done.err
    image = Path('data', 'cam3', '0001', '0001.jpg')
    other = Experiment('other', load_run(run / 'model')[1], people=(5, 1, 2))
    data(other, tmp_path / 'other')
    assert (tmp_path / 'other' / image).read_bytes() != (run / image).read_bytes()
    assert json.loads((run / 'data' / 'world.json').read_text())['coupling'] == 0

    assert trained(run, '--resume').code == 0  # the run knows its own
    refused(
        trained(run, '--resume', '--coupling', 0.5),
        'drawn with seed 7, coupling 0.0, not with seed 7, coupling 0.5',
    )
    refused(trained(tmp_path / 'never', '--coupling', 2), 'coupling must be from 0')
    assert not (tmp_path / 'never').exists()


def test_a_run_goes_on_with_its_own_settings(tmp_path, monkeypatch):
    "Without a preset, options need not be repeated; an option that is given counts"
    run = tmp_path / 'run'
    assert trained(run).code == 0
    configs = []
    monkeypatch.setattr(Train, 'run', lambda self, _: configs.append(self.settings.config()))
    own = json.loads((run / 'model' / 'config.json').read_text())['config']
    for out in (run, run / 'model'):
        command(train_main, '--resume', '--out', out)
        command(train_main, '--resume', f'--out={out}', '--epochs', 3)
    assert [config.epochs for config in configs] == [1, 3, 1, 3]
    assert {config.P for config in configs} == {own['P']} == {2}


def test_the_last_of_an_option_counts():
    words = ['--out', 'a', '--preset=smoke', '--out=b', '--resume', '--preset']
    assert given(words, '--out') == 'b'
    assert given(words, '--preset') == 'smoke'
    assert given(words, '--root') is None


def test_a_command_that_does_not_fit_is_refused(bench, tmp_path):
    for words, pattern in (
        (['--preset', 'somke'], '--preset somke: choose one of'),
        (['--preset', 'smoke', '--root', tmp_path / 'nowhere'], 'no such folder'),
        (['--resume'], '--resume: name the run with --out'),
    ):
        refused(command(train_main, *words), pattern)


def test_a_refused_command_leaves_no_run(bench, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = shutil.copytree(bench.roots.sysu, tmp_path / 'data')
    (root / 'exp' / 'rand_perm_cam.mat').unlink()
    refused(command(train_main, *TINY, '--root', root, '--no-check'), 'could not be scored')
    assert [path.name for path in tmp_path.iterdir()] == ['data']
