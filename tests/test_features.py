"Files of features: damaged ones, interrupted writing, the command line, and features from elsewhere."
import json, os, subprocess, sys
from pathlib import Path
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from idkl_nb.datasets import DataError, Records, read_sysu, write_sysu
from idkl_nb.features import PROTOCOLS, FeatureTable, evaluate_main, load_features, save_features, score_features
from idkl_nb.protocols import SYSU, RegDB
from idkl_nb.world import INFRARED, MODALITIES, World

ENDINGS = ('safetensors', 'npz')


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    "A small dataset in the layout of SYSU-MM01"
    return write_sysu(World(height=32, width=16), tmp_path_factory.mktemp('data')/'sysu', [1], [2], range(3, 13), images=8)


@pytest.fixture(scope='module')
def table(root):
    "Features around a vector of each person"
    records, g = read_sysu(root), torch.Generator().manual_seed(0)
    person = torch.randn(20, 16, generator=g)
    return FeatureTable(person[records.identity] + torch.randn(len(records), 16, generator=g), records, dict(feature='noise', version='1', flip='off'))


def python(code, *words): return subprocess.run([sys.executable, '-c', code, *map(str, words)], capture_output=True, text=True, env=os.environ | dict(OMP_NUM_THREADS='1'))


def command(*words):
    "The installed command"
    return subprocess.run([Path(sys.executable).with_name('idkl-evaluate'), *map(str, words)], capture_output=True, text=True, env=os.environ | dict(OMP_NUM_THREADS='1'))


# the command line

@pytest.mark.parametrize('ending', ENDINGS)
def test_command_prints_and_writes_the_table(table, root, ending, tmp_path):
    file, scores = tmp_path/f'a.{ending}', tmp_path/'scores.json'
    save_features(table, file)
    done = command('--features', file, '--protocol', 'sysu-all-single', '--root', root, '--metric', 'euclidean', '--json', scores)
    expected = score_features(table, SYSU(metric='euclidean'))
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout == f'{expected}\n'
    assert json.loads(scores.read_text()) == json.loads(json.dumps(expected.to_dict()))
    for words in ('infrared to visible', 'rerank None', 'feature noise', 'version 1', 'flip off', '10 trials'): assert words in done.stdout


def test_command_joins_the_trials_of_regdb(table, tmp_path):
    files = [tmp_path/f'{n}.safetensors' for n in range(3)]
    for n, file in enumerate(files): save_features(FeatureTable(table.features.roll(n, 1)*torch.arange(1, 17), table.records, table.about), file)
    evaluate_main(['--features', *map(str, files), '--protocol', 'regdb', '--query', 'visible', '--json', str(tmp_path/'scores.json')])
    written = json.loads((tmp_path/'scores.json').read_text())
    assert written['about']['trials'] == [1, 2, 3] and written['about']['direction'] == 'visible to infrared'
    assert [row['mAP'] for row in written['trials']] == [score_features(load_features(file), RegDB(), 'visible').trials.mAP[0] for file in files]


def cut_files(table, folder):
    "A whole file and one without its end, of each kind"
    for ending in ENDINGS:
        save_features(table, folder/f'a.{ending}')
        (folder/f'cut.{ending}').write_bytes((folder/f'a.{ending}').read_bytes()[:-100])


def test_command_ends_with_code_2_and_one_line(table, tmp_path):
    "A file that is cut off: one line on standard error"
    cut_files(table, tmp_path)
    done = command('--features', tmp_path/'cut.safetensors', '--protocol', 'llcm')
    assert (done.returncode, done.stdout, done.stderr.count('\n')) == (2, '', 1)
    assert done.stderr.startswith(f'idkl-evaluate: {tmp_path}/cut.safetensors: unreadable, perhaps cut off')


@pytest.mark.parametrize('words, said', [
    ('a.npz --protocol regdb --draws seeded', '--draws is a choice of SYSU-MM01'),
    ('a.npz --protocol llcm --trial 3', '--trial is a choice of RegDB'),
    ('a.npz --protocol regdb --trial 11', 'RegDB has trials 1 to 10'),
    ('a.npz a.safetensors --protocol llcm', 'only RegDB has one model a trial'),
    ('a.npz --protocol llcm --root .', '--root is for the official draws'),
    ('a.npz --protocol sysu-all-single', 'exp/rand_perm_cam.mat'),
    ('a.npz --protocol sysu-all-single --root .', 'the file of gallery draws is missing'),
    ('a.npz --protocol sysu-all-single --draws seeded --query visible', 'asks from infrared to visible'),
    ('a.npz --protocol sysu-all-single --draws seeded --rerank beside', 'invalid choice'),
    ('a.npz --protocol nobody', 'invalid choice'),
    ('cut.npz --protocol llcm', 'cut.npz: unreadable, perhaps cut off'),
    ('nothing.npz --protocol llcm', 'nothing.npz: no such file'),
    ('a.npz --protocol llcm --json nowhere/x.json', 'nowhere: no such folder')])
def test_command_says_what_is_wrong(table, words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cut_files(table, tmp_path)
    with pytest.raises(SystemExit) as end: evaluate_main(['--features', *words.split()])
    assert end.value.code == 2 and said in capsys.readouterr().err


# features from elsewhere

@pytest.mark.parametrize('name', PROTOCOLS)
def test_features_written_with_numpy_alone_score_the_same(table, root, name, tmp_path):
    test = table.where(split='test')
    order = np.random.default_rng(0).permutation(len(test))    # in whatever order they come
    np.savez(tmp_path/'theirs.npz', features=test.features.numpy()[order], path=test.records.path[order], identity=test.records.identity[order].astype(np.int32),
             camera=test.records.camera[order].astype(np.uint8), modality=np.array(MODALITIES)[test.records.modality[order]])
    theirs = score_features(load_features(tmp_path/'theirs.npz', root), PROTOCOLS[name])
    asks = test.records.modality == INFRARED
    ours = PROTOCOLS[name].evaluate(test.features[asks], test.records[asks], test.features[~asks], test.records[~asks])
    assert theirs.about == ours.about
    np.testing.assert_allclose(theirs.trials.to_numpy(float), ours.trials.to_numpy(float), rtol=1e-6)


def test_training_images_in_the_file_are_not_scored(table):
    assert score_features(table, SYSU()).trials.equals(score_features(table.where(split='test'), SYSU()).trials)
    with pytest.raises(DataError, match='split test'): score_features(table.where(split=('train', 'val')), SYSU())


# damaged files

def small(ending, folder):
    "The bytes of a small file"
    rows = [(f'cam{camera}/0001/{camera:04d}.jpg', 1, camera, modality, split) for camera, modality, split in ((1, 0, 'test'), (3, 1, 'test'), (6, 1, 'train'))]
    save_features(FeatureTable(torch.arange(6.).reshape(3, 2), Records.from_rows('x', rows), dict(feature='small')), folder/f'small.{ending}')
    return (folder/f'small.{ending}').read_bytes()


@pytest.mark.parametrize('ending', ENDINGS)
def test_a_damaged_file_is_an_error_in_words_or_a_table(ending, tmp_path):
    "Up to three changed bytes, or cut off anywhere, 400 times: a table, or the project's own exception"
    whole, file, outcomes = small(ending, tmp_path), tmp_path/f'damaged.{ending}', {True: 0, False: 0}

    def load(content):
        file.write_bytes(content)
        try: found = load_features(file)
        except DataError as error:
            assert str(file) in str(error) and 'Expected' in str(error)
            return False
        assert torch.isfinite(found.features).all() and len(found) == len(found.records) > 0
        assert set(found.records.modality) <= {0, 1} and set(found.records.split) <= {'train', 'val', 'test'}
        assert all(len(getattr(found.records, name)) == len(found) for name in ('identity', 'camera', 'modality', 'split'))
        return True

    @settings(max_examples=400, deadline=None, derandomize=True, database=None)
    @given(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(1, 255)), max_size=3), st.one_of(st.just(len(whole)), st.integers(0, len(whole))))
    def damage(flips, length):
        content = bytearray(whole)
        for place, bits in flips: content[place] ^= bits
        outcomes[load(bytes(content[:length]))] += 1

    damage()
    assert load(whole)
    assert outcomes[False] > 50, outcomes     # most damage is seen


def test_a_damaged_npz_content_is_noticed(table, tmp_path):
    "The zip's checksum sees every changed byte of the features"
    save_features(table, tmp_path/'a.npz')
    whole, row = (tmp_path/'a.npz').read_bytes(), table.features[7].numpy().tobytes()
    place = whole.index(row)
    (tmp_path/'a.npz').write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place+1:])
    with pytest.raises(DataError, match='CRC'): load_features(tmp_path/'a.npz')


def test_code_in_a_file_is_not_run(tmp_path):
    "Objects in a feature file are refused"
    class Bomb:
        def __reduce__(self): return os.mkdir, (str(tmp_path/'exploded'),)
    np.savez(tmp_path/'bomb.npz', features=np.array([Bomb()], dtype=object))
    with pytest.raises(DataError, match='allow_pickle'): load_features(tmp_path/'bomb.npz')
    assert not (tmp_path/'exploded').exists()


# interrupted writing

OVERWRITE = '''
import os, resource, signal, sys, torch
from idkl_nb.features import FeatureTable, load_features, save_features
file, how = sys.argv[1:]
table = load_features(file)
twice = FeatureTable(2*table.features, table.records)
if how == 'disk full': resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(file)//2,)*2)
if how == 'killed': os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
save_features(twice, file)
'''


@pytest.mark.parametrize('ending, how, code', [('safetensors', 'disk full', 1), ('npz', 'disk full', 1), ('npz', 'killed', -9), ('npz', 'nothing', 0)])
def test_the_old_file_or_the_new_one_is_whole(table, ending, how, code, tmp_path):
    "Disk full or SIGKILL while a file of features is replaced"
    pytest.importorskip('resource')
    file = tmp_path/f'a.{ending}'
    save_features(table, file)
    done = python(OVERWRITE, file, how)
    assert done.returncode == code, done.stderr
    if how == 'disk full': assert 'File too large' in done.stderr
    assert torch.equal(load_features(file).features, table.features*(2 if how == 'nothing' else 1))
    if how != 'killed': assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize('broken', ['fsync', 'replace'])
def test_a_failing_system_call_leaves_the_old_file(table, broken, tmp_path, monkeypatch):
    "A failing fsync or rename, too"
    def fails(*_): raise OSError('out of order')
    save_features(table, tmp_path/'a.npz')
    with monkeypatch.context() as patched:
        patched.setattr(os, broken, fails)
        with pytest.raises(OSError, match='out of order'): save_features(FeatureTable(2*table.features, table.records), tmp_path/'a.npz')
    assert torch.equal(load_features(tmp_path/'a.npz').features, table.features) and len(list(tmp_path.iterdir())) == 1


def test_no_path_of_the_machine_is_in_a_file(table, root, tmp_path):
    for ending in ENDINGS:
        save_features(table, tmp_path/f'a.{ending}')
        content = (tmp_path/f'a.{ending}').read_bytes()
        for word in (str(root), str(Path.home()), root.parent.name):
            for encoding in ('utf-8', 'utf-32-le'): assert word.encode(encoding) not in content
