"""Killed processes, full disks and files that go bad while they are in use.

Nothing is lost beyond the steps since the last checkpoint. What tests/test_training.py,
test_cache.py and test_features.py try is not repeated here. `make test-slow` adds a hundred
trainings that are killed, or stopped with their whole group, at random times, and writes
nbs/results/faults.csv. `python tests/test_faults.py` prints what a kill in each phase of a
checkpoint leaves."""

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import test_training
import torch
from test_training import config, same, start, wait_for, weights

from idkl_nb import loaders, run_lock, whole_files
from idkl_nb.batches import train_loader
from idkl_nb.cache_building import build_cache, cache_bytes
from idkl_nb.checkpoints import CheckpointError, Checkpoints
from idkl_nb.common import VISIBLE, DataError
from idkl_nb.feature_files import load_features, save_features
from idkl_nb.features import FeatureTable
from idkl_nb.images import eval_transform
from idkl_nb.records import Records
from idkl_nb.runs import Experiment
from idkl_nb.train_command import remove_other_world
from idkl_nb.training import fit, resume
from idkl_nb.training_log import read_log
from idkl_nb.unfinished_folders import unfinished_folder
from idkl_nb.whole_files import open_unfinished

# fixtures
one_thread = test_training.one_thread
people = test_training.people
untouched = test_training.untouched
world = test_training.world

fork = multiprocessing.get_context('fork')
results = Path(__file__).resolve().parents[1] / 'nbs' / 'results' / 'faults.csv'


def child(work, *args):
    process = fork.Process(target=work, args=args)
    process.start()
    return process


# SIGKILL in each phase of a checkpoint


def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def nth(n, function):
    "That function, but a kill when it is called for the n-th time"
    calls = iter(range(1, 99))
    return lambda *args, **kwargs: kill() if next(calls) == n else function(*args, **kwargs)


class Half:
    "A file that is killed when half of its content is written"

    def __init__(self, *args):
        self.file = open_unfinished(*args)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, content):
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        kill()


# where: what is replaced in the process that saves, and whether the new state counts already
PHASES = {
    'before the file is opened': (lambda: setattr(whole_files, 'open_unfinished', kill), False),
    'half of it written': (lambda: setattr(whole_files, 'open_unfinished', Half), False),
    'written, perhaps in memory only': (lambda: setattr(os, 'fsync', nth(1, os.fsync)), False),
    'on the disk, under another name': (lambda: setattr(os, 'replace', kill), False),
    'renamed, perhaps in memory only': (lambda: setattr(os, 'fsync', nth(2, os.fsync)), True),
    'renamed, before the oldest is removed': (
        lambda: setattr(Path, 'unlink', nth(2, Path.unlink)),
        True,
    ),
    'the oldest removed': (lambda: None, True),
}


def state(step):
    return dict(step=step, model=dict(weight=torch.full((300, 300), float(step))))


def killed_in(phase, folder):
    """Save steps 1 and 2, and be killed in this phase of saving step 3.

    Returns the newest state that can be read, and the names in the folder."""
    checkpoints = Checkpoints(folder, keep=2)
    for step in (1, 2):
        checkpoints.save(step, state(step))

    def save():
        PHASES[phase][0]()
        checkpoints.save(3, state(3))
        kill()

    process = child(save)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    return checkpoints.newest(), sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize('phase', PHASES)
def test_killed_in_a_phase_of_a_checkpoint(phase, tmp_path):
    "The state before or the new one can be read, whole; what is unfinished goes with the next save"
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # no damaged file under a good name
        newest, names = killed_in(phase, tmp_path)
    expected = 3 if PHASES[phase][1] else 2
    assert newest['step'] == expected
    assert torch.equal(newest['model']['weight'], state(expected)['model']['weight'])

    # nothing unfinished is left
    Checkpoints(tmp_path, keep=2).save(4, state(4))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f'step-{step:09d}.safetensors' for step in (expected, 4)]


def test_killed_at_random_times_while_saving(tmp_path):
    "A process that does nothing but save; whenever it dies, the newest state is whole"
    rng = np.random.default_rng(0)
    steps = []

    def save():
        for step in range(1 if not steps else steps[-1] + 1, 10**6):
            Checkpoints(tmp_path, keep=2).save(step, state(step))

    def newest_step():
        files = Checkpoints(tmp_path).files()
        return int(files[0].stem.removeprefix('step-')) if files else 0

    for round in range(3):
        before = newest_step()
        process = child(save)
        while newest_step() == before:  # on a busy machine the first save takes its time
            time.sleep(0.01)
        time.sleep(rng.uniform(0.02, 0.3))
        process.kill()
        process.join()
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            newest = Checkpoints(tmp_path).newest()
        assert torch.equal(newest['model']['weight'], state(newest['step'])['model']['weight'])
        steps.append(newest['step'])
    assert steps == sorted(steps) and len(set(steps)) == 3
    assert len(Checkpoints(tmp_path).files()) <= 3


# A process that reads images dies


def children(pid):
    return [int(word) for word in Path(f'/proc/{pid}/task/{pid}/children').read_text().split()]


@pytest.mark.skipif(
    not Path(f'/proc/{os.getpid()}/task/{os.getpid()}/children').exists(),
    reason='needs the children of a process in /proc',
)
def test_a_killed_worker_is_named_and_the_run_goes_on(people, untouched, tmp_path):
    "The run ends in words, its checkpoints stay, and resumed it gives the same weights"
    process = start(people, tmp_path / 'run', slow=0.15, workers=2)
    wait_for(tmp_path / 'run', 2, process)
    workers = [
        pid
        for pid in children(process.pid)
        if b'resource_tracker' not in Path(f'/proc/{pid}/cmdline').read_bytes()
    ]
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 1
    for words in (
        'ChildProcessError',
        'a process that reads images has died',
        "resume('run', ...)",
    ):
        assert words in printed
    steps = Checkpoints(tmp_path / 'run' / 'checkpoints').newest()['step']
    assert steps >= 2 and not (tmp_path / 'run' / 'weights.safetensors').exists()
    resume(tmp_path / 'run', people, progress=False)
    assert same(weights(tmp_path / 'run'), weights(untouched))


# A disk that is full


@pytest.fixture
def disk(tmp_path):
    "A function that mounts a disk of so many bytes in a folder, or changes its size"
    mounted = []

    def mount(size):
        options = f'size={size}' + (',remount' if mounted else '')
        done = subprocess.run(
            ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', str(tmp_path)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            pytest.skip(f'a small disk can\'t be mounted here: {done.stderr.strip()}')
        mounted.append(tmp_path)
        return tmp_path

    yield mount
    if mounted:
        subprocess.run(['umount', '--lazy', str(tmp_path)], check=True)


def test_a_full_disk_while_training(people, untouched, disk):
    "The cache fits, one checkpoint fits, a second does not; with more room the run goes on"
    size = next((untouched / 'checkpoints').iterdir()).stat().st_size
    folder = disk(cache_bytes(people, 64, 32) + size * 3 // 2 + 200_000)
    message = (
        'No space left on device.*It needs .* MiB and .* MiB are free there. '
        'What was saved before is untouched: make room, then resume'
    )
    with pytest.raises(CheckpointError, match=message):
        fit(config, people, folder / 'run', progress=False)
    assert [file.name for file in (folder / 'run' / 'checkpoints').iterdir()] == [
        'step-000000001.safetensors'
    ]
    disk(100 * size)
    resume(folder / 'run', people, progress=False)
    assert same(weights(folder / 'run'), weights(untouched))


@pytest.mark.parametrize('ending', ['safetensors', 'npz'])
def test_a_full_disk_while_writing_features(ending, disk):
    "The old file stays whole, and nothing else is left"
    folder = disk(300_000)
    rows = [(f'{n}.jpg', n, 1, VISIBLE, 'test') for n in range(50)]
    records = Records.from_rows('x', rows)
    old = FeatureTable(torch.ones(50, 8), records)
    save_features(old, folder / f'a.{ending}')
    with pytest.raises(OSError, match='No space left on device'):
        save_features(FeatureTable(torch.ones(50, 8000), records), folder / f'a.{ending}')
    assert [path.name for path in folder.iterdir()] == [f'a.{ending}']
    assert torch.equal(load_features(folder / f'a.{ending}').features, old.features)


def test_a_disk_that_fills_up_while_the_cache_is_built(people, disk, monkeypatch):
    "The message says how much room is needed, and nothing is left"
    need = cache_bytes(people, 64, 32)
    folder = disk(need // 2)
    usage = shutil.disk_usage

    def room_when_we_looked(path):
        return usage(path)._replace(free=need)

    monkeypatch.setattr(shutil, 'disk_usage', room_when_we_looked)
    message = f"image cache can't be written .*No space left on device.*It needs {need:,} bytes"
    with pytest.raises(DataError, match=message):
        build_cache(people, 64, 32, folder, progress=False)
    assert list(folder.iterdir()) == []


# Images that go bad in mid-epoch


def spoil(records, row):
    (records.root / records.path[row]).write_bytes(b'')


@pytest.fixture
def copied(people, tmp_path):
    return replace(people, root=Path(shutil.copytree(people.root, tmp_path / 'copied')))


@pytest.mark.parametrize('workers', [0, 2])
def test_an_image_goes_bad_in_mid_epoch(copied, workers):
    "'raise' names it; 'skip' shows another one, says so, and counts it"
    loader = partial(train_loader, copied, eval_transform(16, 8), 3, 2, batches=40, workers=workers)
    raising, skipping = loader(), loader(on_unreadable='skip')
    with pytest.raises(DataError, match=f'{copied.path[5]}: this image is missing or damaged'):
        for n, batch in enumerate(raising):
            if n == 0:
                spoil(copied, 5)
    assert n >= 1  # it was in the middle
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        for batch in skipping:
            assert batch.images.shape == (12, 3, 16, 8)
            counts = torch.bincount(2 * batch.ids + batch.modality)
            assert set(counts.tolist()) <= {0, 2}  # K of each stays K
    assert np.flatnonzero(skipping.dataset.unreadable).tolist() == [5]  # also when a worker met it
    if workers == 0:
        messages = [str(one.message) for one in caught if copied.path[5] in str(one.message)]
        assert 'this image is missing or damaged' in messages[0]
        assert 'stands in for it' in messages[0]


def test_a_run_with_an_unreadable_image(copied, people, untouched, tmp_path):
    "Fatal before anything begins, or replaced and named, and resumed to the same weights"
    spoil(copied, 5)
    with pytest.raises(DataError, match=f'{copied.path[5]}: this image is missing or damaged'):
        fit(config, copied, tmp_path / 'raise' / 'run', progress=False)
    skipping = replace(config, on_unreadable='skip')
    message = f'1 of {len(people)} images could not be read, for example {copied.path[5]}'
    with pytest.warns(UserWarning, match=message):
        fit(skipping, copied, tmp_path / 'runs' / 'whole', progress=False)
    assert (tmp_path / 'runs' / 'whole' / 'unreadable.txt').read_text() == f'{copied.path[5]}\n'

    def stop(rows):
        if rows.index[-1] >= 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), pytest.warns(UserWarning, match='could not be read'):
        fit(skipping, copied, tmp_path / 'runs' / 'stopped', progress=False, on_log=stop)
    with pytest.warns(UserWarning, match='could not be read'):
        resume(tmp_path / 'runs' / 'stopped', copied, progress=False)
    whole = weights(tmp_path / 'runs' / 'whole')
    assert same(whole, weights(tmp_path / 'runs' / 'stopped'))
    assert not same(whole, weights(untouched))

    # the same cache is not taken in silence
    with pytest.raises(DataError, match="train with on_unreadable='skip'"):
        fit(config, copied, tmp_path / 'runs' / 'raise', progress=False)


def test_an_image_for_validation_goes_bad(world, people, untouched, tmp_path):
    "A test image is never replaced; the run ends, names it, and goes on when it is mended"
    root = Path(shutil.copytree(world.root, tmp_path / 'copied'))
    seen = replace(world.where(split='test'), root=root)
    good = (seen.root / seen.path[3]).read_bytes()

    def harm(rows):
        if rows.index[-1] == 5:
            spoil(seen, 3)

    watched = replace(config, validate_every=1, on_unreadable='skip')
    with pytest.raises(DataError, match=f'{seen.path[3]}: this image is missing or damaged'):
        fit(watched, people, tmp_path / 'run', seen, progress=False, on_log=harm)
    # of 12; the second validation is after step 8
    assert Checkpoints(tmp_path / 'run' / 'checkpoints').newest()['step'] == 7
    (seen.root / seen.path[3]).write_bytes(good)
    resume(tmp_path / 'run', people, seen, progress=False)
    assert same(weights(tmp_path / 'run'), weights(untouched))
    assert (tmp_path / 'run' / 'best.safetensors').exists()


# Signals to all processes of a training


def stopped_at(folder):
    "Step of the only checkpoint"
    (file,) = Checkpoints(folder / 'checkpoints').files()
    return int(file.stem.removeprefix('step-'))


OWN_GROUP = 'import os; os.setpgid(0, 0)\n'


def stop_group(people, folder, number, step=1):
    "A training with workers, in a group of its own, that gets a signal as a whole"
    process = start(people, folder, before=OWN_GROUP, workers=2, save_every=10**6, log_every=1)
    log = folder / 'log.jsonl'
    while not log.exists() or log.read_bytes().count(b'\n') < step:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    os.killpg(process.pid, number)
    return process


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_whole_group(people, untouched, tmp_path, number):
    "Processes that read images leave it to the training, which saves; resumed, the same weights"
    folder = tmp_path / 'run'
    process = stop_group(people, folder, number)
    time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):  # it has ended already
        os.killpg(process.pid, number)  # `timeout` and `torchrun` repeat it
    _, printed = process.communicate(timeout=60)
    assert process.returncode and 'stopped after step' in printed
    assert stopped_at(folder) >= 1
    if number == signal.SIGTERM:
        resume(folder, people, progress=False)
        assert same(weights(folder), weights(untouched))


def test_a_signal_to_processes_that_begin(people, untouched, tmp_path):
    "It came before they knew how to leave it to the training, which then waited for them for ever"
    as_they_begin = '''
import os, signal
os.register_at_fork(after_in_child=lambda: os.killpg(0, signal.SIGTERM))
'''
    folder = tmp_path / 'run'
    before = OWN_GROUP + as_they_begin
    process = start(people, folder, before=before, workers=2, save_every=10**6)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 1 and 'Waited' not in printed, printed
    assert 'stopped after step 0 of 12' in printed
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    resume(folder, people, progress=False)
    assert same(weights(folder), weights(untouched))


def test_images_that_never_come(people, untouched, tmp_path):
    "The first signal acts while a step waits for them, and the steps before are saved"
    stuck = '''
import time
from idkl_nb.plan import StepLoader
portion = StepLoader._portion
def stuck(self, step, *args):
    if step == 3:
        time.sleep(600)
    return portion(self, step, *args)
StepLoader._portion = stuck
'''
    folder = tmp_path / 'run'
    process = start(people, folder, slow=0, before=stuck, save_every=10**6, log_every=1)
    while not (folder / 'log.jsonl').exists() or len(read_log(folder)) < 3:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, printed = process.communicate(timeout=20)
    assert 'stopped after step 3 of 12' in printed and stopped_at(folder) == 3
    resume(folder, people, progress=False)
    assert same(weights(folder), weights(untouched))


# Processes that read images can't hand them over


def test_a_small_shared_memory(people, tmp_path, monkeypatch):
    "Said before anything is written, with the cure"
    usage = shutil.disk_usage

    def docker(folder):
        return usage(folder)._replace(free=2**16) if folder == loaders.SHARED else usage(folder)

    monkeypatch.setattr(shutil, 'disk_usage', docker)
    monkeypatch.setattr(loaders, 'SHARED', tmp_path)
    with pytest.raises(ChildProcessError, match='0.1 MiB are free.*--shm-size.*workers=0'):
        fit(replace(config, workers=2), people, tmp_path / 'runs' / 'run', progress=False)
    assert not (tmp_path / 'runs' / 'run').exists()


def test_a_long_folder_for_temporary_files(people, tmp_path, monkeypatch):
    "Its sockets would have no name: said before anything is written"
    long = tmp_path / ('x' * 90)
    long.mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(long))
    monkeypatch.setattr(loaders.util, 'get_temp_dir', lambda: str(long / 'pymp-12345678'))
    with pytest.raises(ChildProcessError, match='Set TMPDIR to a shorter one.*workers=0'):
        fit(replace(config, workers=2), people, tmp_path / 'runs' / 'run', progress=False)
    assert not (tmp_path / 'runs' / 'run').exists()


class Stubborn:
    "An item that can't be sent to another process"

    def __len__(self):
        return 4

    def __getitem__(self, n):
        return lambda: n


def test_a_batch_that_cannot_be_handed_over():
    "The process that read it ends, and the training hears of it; it waited for ever"

    def late(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    try:
        with pytest.raises(RuntimeError, match=r'DataLoader worker \(pid'):
            next(iter(loaders.ordered_loader(Stubborn(), 1, 1, list)))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# Two trainings in one folder


HOLD = '''
import time
from idkl_nb.run_lock import run_lock
with run_lock({folder!r}):
    time.sleep(600)
'''


def test_a_folder_in_which_another_process_trains(people, untouched, tmp_path):
    "Neither begun nor resumed: the holder is named. Killed, it holds nothing"
    folder = Path(shutil.copytree(untouched, tmp_path / 'run'))
    empty = tmp_path / 'empty'
    holders = [
        test_training.python(HOLD.format(folder=str(f)), tmp_path / f'{f.name}.printed')
        for f in (folder, empty)
    ]
    for held, process in zip((folder, empty), holders):
        while not (held / 'run.lock').exists() or not (held / 'run.lock').read_text():
            time.sleep(0.02)
        with pytest.raises(BlockingIOError, match=f'process {process.pid} on .* trains in this'):
            fit(config, people, held, progress=False)
    with pytest.raises(BlockingIOError):
        resume(folder, people, progress=False)
    for process in holders:
        process.kill()
        process.wait()
    resume(folder, people, progress=False)
    assert not (folder / 'run.lock').exists()
    with run_lock.run_lock(empty):
        assert (empty / 'run.lock').read_text().startswith(f'process {os.getpid()} on ')


# A start that was refused


def test_no_room_for_a_checkpoint(people, tmp_path, monkeypatch):
    "Said before the first step; the corrected call may take the same folder"
    usage = shutil.disk_usage
    with monkeypatch.context() as patched:
        patched.setattr(shutil, 'disk_usage', lambda f: usage(f)._replace(free=10**6))
        with pytest.raises(CheckpointError, match='1.0 MiB are free, and a checkpoint takes'):
            fit(config, people, tmp_path / 'run', progress=False)
    assert not (tmp_path / 'run').exists()
    fit(replace(config, lr=1e-4, epochs=1, batches=1), people, tmp_path / 'run', progress=False)


def test_people_whom_a_refused_start_has_drawn(tmp_path):
    "Other people take their place, unless a step was made or somebody else's data lie there"
    chosen = Experiment('x', config, people=(5, 1, 2), coupling=0.2)
    mark = json.dumps(dict(seed=7, coupling=0.65, people=(5, 1, 2)))
    kinds = dict(refused=mark, begun=mark, own=None, same=mark.replace('0.65', '0.2'))
    kinds['fewer'] = kinds['same'].replace('[5', '[4')
    for name, text in kinds.items():
        (tmp_path / name / 'data').mkdir(parents=True)
        if text:
            (tmp_path / name / 'data' / 'world.json').write_text(text)
    (tmp_path / 'begun' / 'model').mkdir()
    (tmp_path / 'begun' / 'model' / 'log.jsonl').write_text('{"step": 0}\n')
    for name in kinds:
        remove_other_world(tmp_path / name, chosen)
    left = {name for name in kinds if (tmp_path / name / 'data').exists()}
    assert left == {'begun', 'own', 'same'}


# Half a cache


def test_half_a_cache_where_there_are_no_locks(people, tmp_path, monkeypatch):
    "A dead process's is removed and named; a paused one's stays, and is named when room is short"
    monkeypatch.setattr(whole_files.fcntl, 'flock', no_locks)
    process = child(make_half, tmp_path)
    process.join()
    (dead,) = tmp_path.iterdir()
    paused = unfinished_folder(tmp_path / 'b')
    paused.mkdir()
    os.utime(paused, (0, 0))  # it has waited for long
    with pytest.warns(UserWarning, match=f'{dead.name}: a killed process left this half'):
        build_cache(people, 16, 8, tmp_path, progress=False)
    assert paused.exists() and not dead.exists()
    usage = shutil.disk_usage
    monkeypatch.setattr(shutil, 'disk_usage', lambda folder: usage(folder)._replace(free=10))
    with pytest.raises(DataError, match=f'no room .* beside it: {paused.name}'):
        build_cache(people, 32, 16, tmp_path, progress=False)


def no_locks(*_):
    raise OSError('no locks available')


def make_half(folder):
    half = unfinished_folder(folder / 'a')
    half.mkdir()
    (half / 'images.npy').touch()


# A hundred trainings that are killed or stopped at random times

ROUNDS = 50
SLOWLY = '''
import time
from idkl_nb import loaders, run_lock, whole_files
open_unfinished = whole_files.open_unfinished
class Slow:      # writes in twenty parts, with time between them to be killed
    def __init__(self, *args): self.file = open_unfinished(*args)
    def __enter__(self): return self
    def __exit__(self, *_): self.file.close()
    def __getattr__(self, name): return getattr(self.file, name)
    def write(self, content):
        part = len(content)//20 + 1
        for at in range(0, len(content), part):
            self.file.write(content[at:at + part])
            self.file.flush()
            time.sleep(.004)
def slow_for_weights(file):
    return Slow(file) if 'safetensors' in str(file) else open_unfinished(file)
whole_files.open_unfinished = slow_for_weights
'''


@pytest.fixture(scope='module')
def rounds():
    "Rows of the table; it is written when all rounds with both signals have run"
    rows = []
    yield rows
    if len(rows) == 2 * ROUNDS:
        pd.DataFrame(rows).sort_values(['signal', 'round']).to_csv(results, index=False)


def wait_for_rows(folder, goal, before, process):
    "Until a training has begun, or goes on, and its log has so many rows; or it has ended"
    log = folder / 'log.jsonl'
    while process.poll() is None:
        # the log is written anew when a run begins or goes on
        begun = (folder / 'config.json').exists() and log.stat().st_ino != before
        if begun and log.read_bytes().count(b'\n') >= goal:
            return
        time.sleep(0.005)


def saved_and_lost(folder):
    "Steps of the newest checkpoint, and how many more the log has"
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # a damaged file under a good name would warn
        newest = Checkpoints(folder / 'checkpoints').newest()
    saved = newest['step'] if newest else 0
    return saved, max(0, len(read_log(folder)) - saved)


def interrupted(end, times, rng, people, untouched, folder, **settings):
    "A training that is ended so often at random times, and resumed: its row in the table"
    log = folder / 'log.jsonl'
    unfinished = finished = 0
    lost = []
    saved = []
    for attempt in range(times):
        goal = rng.integers(min(max(saved, default=0), 11), 12)  # steps before the end
        before = log.stat().st_ino if attempt else None
        process = start(
            people, folder, slow=0.03, before=OWN_GROUP + SLOWLY, again=attempt > 0, **settings
        )
        wait_for_rows(folder, goal, before, process)
        time.sleep(rng.uniform(0, 0.3))
        end(process)
        process.wait(60)

        steps, more = saved_and_lost(folder)
        saved.append(steps)
        lost.append(more)
        # it died while it wrote
        unfinished += any((folder / 'checkpoints').glob('.*.unfinished'))
        if (folder / 'weights.safetensors').exists():
            finished += 1
            break

    if not finished:
        resume(folder, people, progress=False)
    ours, theirs = [(run / 'weights.safetensors').read_bytes() for run in (folder, untouched)]
    return dict(
        workers=settings['workers'],
        save_every=settings['save_every'],
        ends=len(saved),
        newest_steps=' '.join(map(str, saved)),
        while_writing=unfinished,
        too_late=finished,
        most_steps_lost=max(lost),
        same_weights=ours == theirs,
    )


@pytest.mark.slow
@pytest.mark.parametrize('round', range(ROUNDS))
def test_killed_at_a_random_time(round, people, untouched, tmp_path, rounds):
    "A training that saves after 1, 2 or 3 steps is killed, every second one twice, and resumed"
    rng = np.random.default_rng([7, round])
    settings = dict(save_every=1 + round % 3, log_every=1, workers=round // 2 % 2 * 2)
    places = people, untouched, tmp_path / 'run'
    row = interrupted(lambda process: process.kill(), 1 + round % 2, rng, *places, **settings)
    rounds.append(dict(signal='SIGKILL', round=round) | row)
    assert row['most_steps_lost'] <= settings['save_every'] and row['same_weights']


def stop_all(process):
    "SIGTERM to a process and then to its group, as `timeout` sends it; nobody is left"
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
        for _ in range(600):
            os.killpg(process.pid, 0)
            time.sleep(0.05)
        raise AssertionError('processes that read images are left')


@pytest.mark.slow
@pytest.mark.parametrize('round', range(ROUNDS))
def test_a_group_is_stopped_at_a_random_time(round, people, untouched, tmp_path, rounds):
    "With workers, every second one twice, and resumed: a request to stop costs no step"
    rng = np.random.default_rng([21, round])
    settings = dict(save_every=10**6, log_every=1, workers=1 + round // 2 % 2)
    places = people, untouched, tmp_path / 'run'
    row = interrupted(stop_all, 1 + round % 2, rng, *places, **settings)
    rounds.append(dict(signal='SIGTERM', round=round) | row)
    assert row['most_steps_lost'] == 0 and row['same_weights']


if __name__ == '__main__':  # for the notebook on faults: what a kill in each phase leaves, as JSON
    rows = []
    for phase in PHASES:
        with tempfile.TemporaryDirectory() as folder:
            newest, names = killed_in(phase, Path(folder))
            rows.append(dict(phase=phase, newest=newest['step'], files=', '.join(names)))
    print(json.dumps(rows))
