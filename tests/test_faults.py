"""Killed processes, full disks and files that go bad while they are in use.

Nothing is lost beyond the steps since the last checkpoint. What tests/test_training.py,
test_cache.py and test_features.py try is not repeated here. `make test-slow` adds fifty kills at
random times and writes nbs/results/faults.csv. `python tests/test_faults.py` prints what a kill in
each phase of a checkpoint leaves."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
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

from idkl_nb import common
from idkl_nb.batches import train_loader
from idkl_nb.cache_building import build_cache, cache_bytes
from idkl_nb.checkpoints import CheckpointError, Checkpoints
from idkl_nb.common import VISIBLE, DataError, open_unfinished
from idkl_nb.feature_files import load_features, save_features
from idkl_nb.features import FeatureTable
from idkl_nb.images import eval_transform
from idkl_nb.records import Records
from idkl_nb.training import fit, resume
from idkl_nb.training_log import read_log

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
    'before the file is opened': (lambda: setattr(common, 'open_unfinished', kill), False),
    'half of it written': (lambda: setattr(common, 'open_unfinished', Half), False),
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


# Fifty kills at random times

ROUNDS = 50
SLOWLY = '''
import time
from idkl_nb import common
open_unfinished = common.open_unfinished
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
common.open_unfinished = slow_for_weights
'''


@pytest.fixture(scope='module')
def rounds():
    "Rows of the table; it is written when all rounds have run"
    rows = []
    yield rows
    if len(rows) == ROUNDS:
        pd.DataFrame(rows).sort_values('round').to_csv(results, index=False)


@pytest.mark.slow
@pytest.mark.parametrize('round', range(ROUNDS))
def test_killed_at_a_random_time(round, people, untouched, tmp_path, rounds):
    "A training that saves after 1, 2 or 3 steps is killed, every second one twice, and resumed"
    rng = np.random.default_rng([7, round])
    folder = tmp_path / 'run'
    log = folder / 'log.jsonl'
    every = 1 + round % 3
    unfinished = finished = 0
    lost = []
    saved = []
    for attempt in range(1 + round % 2):
        goal = rng.integers(max(saved, default=0), 12)  # steps that are done before the kill
        # the log is written anew when a run begins or goes on
        before = log.stat().st_ino if attempt else None
        process = start(
            people,
            folder,
            slow=0.03,
            before=SLOWLY,
            again=attempt > 0,
            save_every=every,
            log_every=1,
        )
        while process.poll() is None:
            begun = log.exists() and log.stat().st_ino != before
            if begun and log.read_bytes().count(b'\n') >= goal:
                break
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.wait()

        with warnings.catch_warnings():
            warnings.simplefilter('error')  # a damaged file under a good name would warn
            newest = Checkpoints(folder / 'checkpoints').newest()
        saved.append(newest['step'] if newest else 0)
        lost.append(max(0, len(read_log(folder)) - saved[-1]))
        assert lost[-1] <= every
        # it died while it wrote
        unfinished += any((folder / 'checkpoints').glob('.*.unfinished'))
        if (folder / 'weights.safetensors').exists():
            finished += 1
            break

    if not finished:
        resume(folder, people, progress=False)
    equal = same(weights(folder), weights(untouched))
    rounds.append(
        dict(
            round=round,
            save_every=every,
            kills=len(saved),
            newest_steps=' '.join(map(str, saved)),
            while_writing=unfinished,
            too_late=finished,
            most_steps_lost=max(lost),
            same_weights=equal,
        )
    )
    assert equal


if __name__ == '__main__':  # for the notebook on faults: what a kill in each phase leaves, as JSON
    import tempfile

    rows = []
    for phase in PHASES:
        with tempfile.TemporaryDirectory() as folder:
            newest, names = killed_in(phase, Path(folder))
            rows.append(dict(phase=phase, newest=newest['step'], files=', '.join(names)))
    print(json.dumps(rows))
