"What a file, a name or a machine from somebody else may not do to a command, a card or a cache."

import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from commands import command
from PIL import Image

from idkl_nb import cards, commands, folders
from idkl_nb.assembly import IDKLConfig
from idkl_nb.cache import to_cache_json
from idkl_nb.cache_building import build_cache
from idkl_nb.check import check, check_main
from idkl_nb.check_images import check_image
from idkl_nb.checkpoints import (
    STATE_FORMAT,
    CheckpointError,
    Checkpoints,
    _checksum,
    load_state,
    save_state,
)
from idkl_nb.common import INFRARED, DataError
from idkl_nb.config import TrainConfig
from idkl_nb.console import messages
from idkl_nb.embed_command import embed_main, images_below
from idkl_nb.evaluate import evaluate_main
from idkl_nb.export_command import export_main
from idkl_nb.feature_files import load_features, save_features
from idkl_nb.features import FeatureTable
from idkl_nb.folders import image_files
from idkl_nb.loggers import ToTensorBoard
from idkl_nb.precision import Precision
from idkl_nb.readers import read_dataset, read_sysu
from idkl_nb.reading_images import read_image
from idkl_nb.records import Records
from idkl_nb.run_folder import RunDescription, load_run
from idkl_nb.runs import Experiment, data
from idkl_nb.search_command import search_main
from idkl_nb.train_command import train_main
from idkl_nb.training import fit
from idkl_nb.training_log import read_log
from idkl_nb.whole_files import write_bytes
from idkl_nb.world import World
from idkl_nb.writers import write_sysu

root = Path(__file__).resolve().parents[1]
HOSTILE = 'good\x1b[2J\nrank-1 100.0 `<script>alert(1)</script>'


@pytest.fixture(scope='module')
def people(tmp_path_factory):
    folder = tmp_path_factory.mktemp('promises') / 'sysu'
    return read_sysu(write_sysu(World(height=32, width=16), folder, [1, 2], [3], [4, 5], images=8))


@pytest.fixture
def copied(people, tmp_path):
    return dataclasses.replace(people, root=Path(shutil.copytree(people.root, tmp_path / 'copy')))


def features_of(records, **about):
    noise = torch.randn(len(records), 4, generator=torch.Generator().manual_seed(0))
    return FeatureTable(noise, records, about)


# What is printed and written for people


def test_words_of_a_feature_file_can_not_forge_scores(people, tmp_path):
    "Escape codes and line breaks are shown as letters"
    file = tmp_path / 'f.npz'
    save_features(features_of(people.where(split='test'), feature=HOSTILE, more=HOSTILE), file)
    words = '--features', file, '--protocol', 'sysu-all-single', '--draws', 'seeded'
    code, out, _ = command(evaluate_main, *words)
    assert code == 0 and '\x1b' not in out and r'good\x1b[2J\nrank-1 100.0' in out
    assert not any(line.startswith('rank-1') for line in out.splitlines())
    assert '\x1b' not in repr(load_features(file))


def test_a_name_can_not_write_into_the_card(people):
    "HTML, code spans and line breaks of a file name or of config.json stay letters"
    config = TrainConfig(model=IDKLConfig(weights=f'{HOSTILE}.safetensors'.replace('/', '')))
    precision = Precision('no', 'no', HOSTILE, HOSTILE, False)
    text = cards.model_card(config, people, [scores_of(people)], 'synthetic', precision=precision)
    outside = re.sub(r'`[^`\n]*`', '', text)
    assert '\x1b' not in text and '<script' not in outside
    assert not any(line.startswith('rank-1') for line in text.splitlines())


def scores_of(people):
    from idkl_nb.runs import score_run

    return score_run(features_of(people.where(split='test')), rerank=False)[0]


def test_a_file_name_can_not_write_a_line_of_its_own(tmp_path):
    "Messages are one line, without codes"
    code, _, err = command(check_main, tmp_path / HOSTILE.replace('/', ''))
    assert code == 2 and err.count('\n') == 1 and '\x1b' not in err


@pytest.mark.parametrize('order', '<>')
def test_letters_that_do_not_exist(order, people, tmp_path):
    "NumPy takes any number for a letter, and Python fails when it looks at such a one"
    save_features(features_of(people.where(split='test'), feature='good'), tmp_path / 'f.npz')
    arrays = dict(np.load(tmp_path / 'f.npz'))
    about = np.array(str(arrays['about'])).astype(f'{order}U99')
    letters = np.frombuffer(about.tobytes(), f'{order}u4').copy()
    letters[3] = 0x110000
    np.savez(tmp_path / 'g.npz', **arrays | dict(about=np.ndarray((), f'{order}U99', letters)))
    with pytest.raises(DataError, match='g.npz: about holds letters that do not exist'):
        load_features(tmp_path / 'g.npz')


# Names that could not be saved


@pytest.mark.parametrize('name', ['a\nb.jpg', 'a\\b.jpg', 'a\udcff.jpg', 'a\x1b[2J.jpg'])
def test_a_name_that_can_not_be_kept_is_found_when_it_is_read(name, copied):
    "By reader, check and embed, not after the training"
    shutil.copy(copied.root / copied.path[0], copied.root / 'cam1' / '0001' / name)
    for read in (read_sysu, lambda folder: images_below(folder, INFRARED)):
        with pytest.raises(DataError, match="can't be kept in lists.*Rename"):
            read(copied.root)
    kinds = {one.kind for one in check(copied.root, quick=True, workers=0, progress=False).errors}
    assert "name that can't be kept" in kinds


# What is ours, and what is not


def test_a_real_dataset_in_the_place_of_the_drawn_one_is_refused(people, tmp_path):
    "No card says that nobody real is in it"
    shutil.copytree(people.root, tmp_path / 'run' / 'data')
    with pytest.raises(DataError, match='was not drawn by a run. Name it with --root'):
        data(Experiment('smoke', TrainConfig(), people=(5, 1, 2)), tmp_path / 'run')


def test_checkpoints_kept_by_hand_stay_and_hide_no_new_one(tmp_path):
    "Only `step-` and nine digits are checkpoints"
    checkpoints = Checkpoints(tmp_path, keep=1)
    own = ['step-good.safetensors', 'step-z.safetensors', '.step-mine.unfinished']
    for name in own:
        (tmp_path / name).write_bytes(b'mine')
    for step in (1, 2):
        checkpoints.save(step, dict(step=step))
    assert checkpoints.newest() == dict(step=2)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == sorted([*own, 'step-000000002.safetensors'])


@pytest.mark.parametrize(
    'name', ['scores.json', 'features.safetensors', 'model/weights.safetensors']
)
def test_results_of_somebody_else_are_not_written_over(name, tmp_path):
    "A folder without our config.json is refused before anything is drawn"
    file = tmp_path / 'out' / name
    file.parent.mkdir(parents=True)
    file.write_text('mine')
    code, _, err = command(train_main, '--preset', 'smoke', '--out', tmp_path / 'out')
    assert code == 2 and 'no run of idkl-train left it' in err
    assert file.read_text() == 'mine' and not (tmp_path / 'out' / 'data').exists()


@pytest.mark.parametrize(
    'name, content, message',
    [
        ('weights.safetensors', 'mine', 'no config.json says'),
        ('log.jsonl', 'mine', 'no config.json says'),
        ('checkpoints/step-000000007.safetensors', 'mine', 'no config.json says'),
        ('config.json', '{"architectures": ["ViT"]}', 'config.json: does not describe a run'),
    ],
)
def test_fit_writes_over_nothing_of_somebody_else(name, content, message, people, tmp_path):
    "In Python, too"
    file = tmp_path / 'run' / name
    file.parent.mkdir(parents=True)
    file.write_text(content)
    with pytest.raises((FileExistsError, CheckpointError), match=message):
        fit(TrainConfig(), people, tmp_path / 'run', progress=False)
    assert file.read_text() == content and list(tmp_path.rglob('*.*')) == [file]


@pytest.mark.parametrize(
    'place, python, anew',
    [
        ('{here}', sys.executable, False),
        ('', sys.executable, False),
        ('/elsewhere', sys.executable, True),
        ('{here}', '/nowhere/python', True),
    ],
)
def test_a_moved_clone_is_set_up_anew(place, python, anew, tmp_path):
    "Also when its Python no longer starts"
    for name in ('settings.ini', 'setup.py', 'constraints.txt', 'Makefile'):
        shutil.copy(root / name, tmp_path)
    (tmp_path / '.venv' / 'bin').mkdir(parents=True)
    (tmp_path / '.venv' / 'bin' / 'python').symlink_to(python)
    (tmp_path / '.venv' / '.installed').write_text(place.format(here=tmp_path))
    plan = subprocess.run(['make', '-n', '-C', tmp_path, 'setup'], capture_output=True, text=True)
    assert plan.returncode == 0, plan.stderr
    assert ('-m venv --clear' in plan.stdout) == anew


# The dataset has the last word


def exchanged(records, column, value):
    changed = getattr(records, column).copy()
    changed[0] = value
    return dataclasses.replace(records, **{column: changed})


@pytest.mark.parametrize(
    'column, value',
    [
        ('path', 'cam1/0004/x/0001.jpg'),
        ('path', 'elsewhere/0001.jpg'),
        ('identity', 5),
        ('camera', 2),
        ('modality', INFRARED),
    ],
)
def test_features_are_compared_with_draws_alone(column, value, people, tmp_path):
    "Without images, paths say who is on them; another identity, camera or modality is refused"
    draws = tmp_path / 'draws'
    (draws / 'exp').mkdir(parents=True)
    shutil.copy(people.root / 'exp' / 'rand_perm_cam.mat', draws / 'exp')
    test = people.where(split='test')
    file = tmp_path / 'f.npz'
    words = '--features', file, '--protocol', 'sysu-all-single', '--root', draws
    save_features(features_of(test), file)
    assert command(evaluate_main, *words)[0] == 0

    wrong = features_of(
        exchanged(test, column, value.replace('/..', '') if column == 'path' else value)
    )
    save_features(wrong, file)
    code, _, err = command(evaluate_main, *words)
    assert code == 2 and 'is said to be' in err


def test_a_folder_that_can_not_be_read_is_an_error(copied, monkeypatch):
    "Its images would be missing in silence"
    scandir = os.scandir

    def refuse(folder):
        if str(folder).endswith('cam1/0001'):
            raise PermissionError(13, 'Permission denied', str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, 'scandir', refuse)
    for read in (read_sysu, lambda folder: images_below(folder, INFRARED)):
        with pytest.raises(DataError, match="0001: this folder can't be read"):
            read(copied.root)


# The cache


def flip(file, at):
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


@pytest.fixture
def cached(people, tmp_path):
    return build_cache(people, 16, 16, tmp_path / 'cache', progress=False)


def rebuilt(cache):
    "Whether the next start builds the cache anew, with a word, and whole"
    with pytest.warns(UserWarning, match='damaged; it is removed and built anew'):
        again = build_cache(cache.records, 16, 16, cache.folder.parent, progress=False)
    again.verify()
    return True


def test_flipped_pixels_end_in_a_sentence_and_a_new_cache(cached):
    "In the first epoch, and when somebody asks"
    flip(cached.folder / 'images.npy', -1)
    with pytest.raises(DataError, match='the pixels of .* have changed'):
        cached.verify()
    assert rebuilt(cached)


def test_an_epoch_compares_each_image_once(cached):
    "Later epochs do not pay for it"
    rows = np.arange(len(cached))
    cached.compared[:] = False
    cached.gather(rows[:3])
    assert cached.compared.sum() == 3
    cached.blocks[0] ^= 1
    cached.gather(rows[:3])
    cached.compared[:] = False
    with pytest.raises(DataError, match='have changed'):
        cached.gather(rows[:3])


def test_a_cache_that_is_cut_off_while_it_is_read(cached):
    "A sentence, where touching the missing pages would kill the process"
    os.truncate(cached.folder / 'images.npy', 4096)
    with pytest.raises(DataError, match='it was cut off since this cache was built'):
        cached.gather(np.array([len(cached) - 1]))
    assert rebuilt(cached)


DAMAGES = {
    'deep JSON': lambda folder: (folder / 'cache.json').write_text('[' * 10**5),
    'no UTF-8': lambda folder: (folder / 'cache.json').write_bytes(b'\xff{}'),
    'another list': lambda folder: change(folder, unreadable=7),
    'another size': lambda folder: change(folder, height='16'),
    'a flipped header': lambda folder: flip(folder / 'images.npy', 20),
    'a header that is no Python': lambda folder: flip(folder / 'images.npy', 12),
    'checksums of another form': lambda folder: sign(folder, blocks=[[]]),
    'checksums that are too large': lambda folder: sign(folder, blocks=[2**32] * 16),
    'checksums of fewer images': lambda folder: sign(folder, blocks=[1]),
    'no list of unreadable images': lambda folder: sign(folder, unreadable=7),
    'another alphabet': lambda folder: sign(folder, width='١٦'),
    'no checksums': lambda folder: sign(folder, blocks=None),
}


def sign(folder, **values):
    "Other values, with a checksum that fits"
    text = json.loads((folder / 'cache.json').read_text())
    del text['checksum']
    (folder / 'cache.json').write_text(to_cache_json(text | values))


def change(folder, **values):
    text = json.loads((folder / 'cache.json').read_text())
    (folder / 'cache.json').write_text(json.dumps(text | values))


@pytest.mark.parametrize('damage', DAMAGES)
def test_a_damaged_cache_is_built_anew(damage, cached):
    "Never a traceback"
    DAMAGES[damage](cached.folder)
    assert rebuilt(cached)


# Only documented exceptions


@pytest.mark.parametrize(
    'text',
    [
        '[' * 10**5,
        '{"$pairs": 5}',
        '{"$pairs": [1]}',
        '{"$pairs": [[[], 1]]}',
        '{"$tensor": []}',
        '{"$tensor": "x"}',
        'nothing',
    ],
)
def test_a_malformed_state_with_a_valid_checksum(text, tmp_path):
    "CheckpointError, and no other"
    from safetensors.torch import save_file

    about = dict(format=STATE_FORMAT, state=text, checksum=_checksum({}, text))
    save_file({}, tmp_path / 's.safetensors', about)
    with pytest.raises(CheckpointError, match='not a readable state'):
        load_state(tmp_path / 's.safetensors')


DAMAGED_LINES = [
    b'\xff\xfe',
    b'[1]',
    b'{"loss": 1}',
    b'[' * 10**5,
    b'{"step": 2',
    b'{"step": "2"}',
    b'{"step": 1}',
    b'{"step": true}',
    b'{"step": 2, "\\ud83d": 1}',
]


@pytest.mark.parametrize('line', DAMAGED_LINES)
def test_a_damaged_line_ends_the_log(line, tmp_path):
    "What stands before it is read"
    (tmp_path / 'log.jsonl').write_bytes(b'{"step": 1, "total": 2.0}\n' + line + b'\n')
    assert read_log(tmp_path).total.tolist() == [2.0]


@pytest.mark.parametrize(
    'damage',
    [
        dict(identities=[]),
        dict(config=dict(model=dict(backbone='resnet9'))),
        dict(config=dict(model=dict(taps=10**9))),
        dict(images=[[]]),
        '[' * 10**5,
    ],
)
def test_an_impossible_configuration(damage, people, tmp_path):
    "CheckpointError, which names the file"
    config = dataclasses.replace(TrainConfig(), model=IDKLConfig(backbone='narrow'))
    precision = Precision('no', 'no', 'cpu', 'float32 it is', False)
    text = RunDescription.of(config, people, precision).to_json()
    text = damage if isinstance(damage, str) else json.dumps(json.loads(text) | damage)
    (tmp_path / 'config.json').write_text(text)
    (tmp_path / 'weights.safetensors').write_bytes(b'')
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        load_run(tmp_path)


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    "The operating system does not"

    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='No space left on device: .*scores.json'):
        write_bytes(tmp_path / 'scores.json', b'1')


class Unwritable(io.StringIO):
    def write(self, text):
        raise OSError(28, 'No space left on device')


@pytest.mark.parametrize('stream', [None, Unwritable()], ids=['closed', 'full'])
def test_an_output_that_nobody_takes(stream, people, tmp_path, monkeypatch):
    "The work is done, the file is written, and one sentence and exit code 2 say so"
    save_features(features_of(people.where(split='test')), tmp_path / 'f.npz')
    words = '--protocol', 'sysu-all-single', '--draws', 'seeded', '--json', tmp_path / 's.json'
    err = io.StringIO()
    monkeypatch.setattr(sys, 'stdout', stream)
    monkeypatch.setattr(sys, 'stderr', err)
    with pytest.raises(SystemExit) as end:
        evaluate_main([str(word) for word in ('--features', tmp_path / 'f.npz', *words)])
    assert end.value.code == 2 and 'could not be printed' in err.getvalue()
    assert (tmp_path / 's.json').exists()


def test_errors_that_nobody_reads_stop_nothing(monkeypatch):
    "A closed stderr"
    monkeypatch.setattr(sys, 'stderr', None)
    with messages('idkl-x'):
        print('a bar', file=sys.stderr)


def test_ctrl_c_is_one_sentence(tmp_path, monkeypatch):
    "With --resume as the advice once there is a run, and no traceback"

    def pressed(*_, **__):
        folder = tmp_path / 'run' / 'model'
        folder.mkdir()
        (folder / 'config.json').write_text('{}')
        raise KeyboardInterrupt

    monkeypatch.setattr('idkl_nb.train_command.fit', pressed)
    code, _, err = command(train_main, '--preset', 'smoke', '--out', tmp_path / 'run')
    assert code == 130 and f'go on with --resume --out {tmp_path / "run"}' in err


class Interrupted:
    "Stands for a module in which Ctrl-C came while it was imported"

    def find_spec(self, name, *_):
        if name == 'idkl_nb.check':
            raise KeyboardInterrupt


def test_ctrl_c_while_a_command_is_imported(monkeypatch, capsys):
    "One sentence, too, and no traceback"
    monkeypatch.delitem(sys.modules, 'idkl_nb.check')
    monkeypatch.setattr(sys, 'meta_path', [Interrupted(), *sys.meta_path])
    with pytest.raises(SystemExit) as end:
        commands.check()
    assert end.value.code == 130 and capsys.readouterr().err == 'idkl-check: stopped\n'
    assert end.value.__suppress_context__


# Time bombs


def progressive(file, scans):
    "A progressive JPEG whose last scan is said again and again"
    made = io.BytesIO()
    Image.new('RGB', (2000, 1500)).save(made, 'JPEG', progressive=True)
    content = made.getvalue()
    last = content[content.rindex(b'\xff\xda') : -2]
    file.write_bytes(content[:-2] + last * scans + content[-2:])
    return file


def test_a_jpeg_of_a_thousand_scans_is_refused(tmp_path):
    "190 kB that would take twenty seconds; the usual ten scans are read"
    assert read_image(progressive(tmp_path / 'a.jpg', 0)).size == (2000, 1500)
    with pytest.raises(DataError, match='scans of 2000 x 1500 pixels'):
        read_image(progressive(tmp_path / 'b.jpg', 1000))


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='Windows has no named pipes')
def test_a_pipe_is_no_image(copied):
    "Nobody waits for what never comes"
    file = copied.root / copied.path[0]
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(DataError, match='neither a file nor a link to one'):
        read_image(file)
    assert check_image(file, quick=True).what == 'neither a file nor a link to one'


def test_links_that_multiply_folders_meet_a_bound(copied, monkeypatch):
    "A word instead of a million ways"
    monkeypatch.setattr(folders, 'MAX_FOLDERS', 50)
    monkeypatch.setattr('idkl_nb.check_folders.MAX_FOLDERS', 50)
    place = copied.root / 'cam1'
    for n in range(12):
        (place / f'x{n}').mkdir()
        for name in 'ab':
            (place / f'x{n}' / name).symlink_to(place / f'x{n + 1}', target_is_directory=True)
    with pytest.raises(DataError, match='more than .* folders, counted along links'):
        image_files(copied.root)
    report = check(copied.root, quick=True, workers=0, progress=False)
    assert 'too many folders' in {one.kind for one in report.errors}


@pytest.mark.parametrize(
    'words, message',
    [
        (['--workers', 1_000_000], '1000000 workers: expected 0 to 128'),
        (['--K', 1_000_000], 'batches of 6,000,000 images; 16,384 are the most'),
        (['--height', 10**6], 'height must be at most 4,096'),
        (['--epochs', 10**12], 'epochs must be at most 1,000,000'),
    ],
)
def test_a_zero_too_many(words, message, tmp_path):
    "One sentence, before anything is made"
    code, _, err = command(train_main, '--preset', 'smoke', *words, '--out', tmp_path / 'run')
    assert code == 2 and message in err and not (tmp_path / 'run').exists()


# Names of the machine, and workflows


def test_files_for_tensorboard_do_not_name_the_machine(tmp_path, monkeypatch):
    "And TensorBoard reads them"
    loading = pytest.importorskip('tensorboard.backend.event_processing.event_file_loader')
    monkeypatch.setattr('socket.gethostname', lambda: 'name-of-the-machine')
    index = pd.Index([1, 2], name='step')
    ToTensorBoard(tmp_path)(pd.DataFrame(dict(total=[3.0, 2.0], precision='no'), index=index))
    (file,) = tmp_path.iterdir()
    assert 'name-of-the-machine' not in file.name + file.read_bytes().decode('latin-1')
    events = [event for event in loading.LegacyEventFileLoader(str(file)).Load() if event.step]
    assert [event.summary.value[0].simple_value for event in events] == [3.0, 2.0]


WORKFLOWS = sorted((root / '.github' / 'workflows').glob('*.yml'))


@pytest.mark.parametrize('file', WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_what_was_looked_at(file):
    "Actions by their hash, tools by their version, and no credentials beside the code"
    text = file.read_text(encoding='utf-8')
    for action in re.findall(r'uses: (.*)', text):
        assert re.fullmatch(r'[\w./-]+@[0-9a-f]{40} # v[\d.]+', action), action
    for tool in re.findall(r'pipx run (?:--spec )?(\S+)', text):
        assert re.fullmatch(r'[\w-]+==[\d.]+', tool), tool
    for line in re.findall(r'pip install .*', text):
        assert '-c constraints.txt' in line
    assert text.count('actions/checkout@') == text.count('persist-credentials: false')


# ------------------------------------------------------------------ before the work, not after it


@pytest.mark.skipif(not Path('/proc').is_dir(), reason='a folder in which nobody can write')
@pytest.mark.parametrize(
    'main, words',
    [
        (embed_main, '--run IDKL --images {0} --modality visible --out /proc/x.npz'),
        (search_main, '--run IDKL --query {0} --gallery {0} --out /proc/x.html'),
        (export_main, '--run IDKL --out /proc/x.onnx'),
        (evaluate_main, '--features {0}/f.npz --protocol llcm --json /proc/x.json'),
    ],
)
def test_where_nothing_can_be_written_is_said_before_the_work(main, words, tmp_path):
    done = command(main, *words.format(tmp_path).split())
    assert done.code == 2 and 'nothing can be written into /proc (' in done.err
    assert '.unfinished' not in done.err and len(done.err.splitlines()) == 1


def test_an_ending_that_nobody_writes_is_said_before_the_work(tmp_path):
    words = f'--run IDKL --images {tmp_path} --modality visible --out {tmp_path}/x.txt'
    done = command(embed_main, *words.split())
    assert done.code == 2 and 'x.txt: expected a name that ends in .safetensors or .npz' in done.err


def test_a_table_and_the_protocol_of_a_dataset(tmp_path):
    Image.new('RGB', (8, 16)).save(tmp_path / 'a.png')
    rows = 'path,identity,camera,modality,split\na.png,1,1,visible,test\na.png,1,2,infrared,test\n'
    (tmp_path / 'table.csv').write_text(rows.replace('a.png,1,2', 'b.png,1,2'))
    Image.new('RGB', (8, 16)).save(tmp_path / 'b.png')
    records = read_dataset(tmp_path / 'table.csv')
    save_features(FeatureTable(torch.eye(2), records, {}), tmp_path / 'f.npz')
    words = f'--features {tmp_path}/f.npz --root {tmp_path}/table.csv --protocol'
    said = 'If they are not, choose --protocol plain'
    assert said in command(evaluate_main, *words.split(), 'llcm').err
    assert said not in command(evaluate_main, *words.split(), 'plain').err
