"""Runs that are killed, stopped, starved and spoiled, and runs of two processes.

The oracle is a run that nothing happened to."""

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch
from urllib.error import URLError

import numpy as np
import pandas as pd
import pytest
import torch
from forks import SIGNALS, Forked
from safetensors.torch import load_file
from torchvision.models import resnet18

from idkl_nb import backbone, run_start, session
from idkl_nb.augmentation import step_generator
from idkl_nb.batches import PKSampler
from idkl_nb.cache import CachedImages
from idkl_nb.cache_building import build_cache
from idkl_nb.checkpoints import CheckpointError, Checkpoints
from idkl_nb.common import VISIBLE
from idkl_nb.config import PRESETS, TrainConfig
from idkl_nb.devices import make_accelerator
from idkl_nb.plan import Plan, StepLoader
from idkl_nb.precision import Device
from idkl_nb.readers import read_sysu
from idkl_nb.run_folder import load_run, precision_of
from idkl_nb.train_command import train_main
from idkl_nb.training import Trainer, fit, learning_rate, resume
from idkl_nb.training_log import check_finite, forecast, read_log
from idkl_nb.world import World
from idkl_nb.writers import write_sysu

config = replace(
    PRESETS['smoke'],
    epochs=3,
    batches=4,
    save_every=1,
    log_every=2,
    ema=0.9,
    milestones=(2,),
    precision='no',
)
environment = os.environ | dict(OMP_NUM_THREADS='1')


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    "As in the processes that the tests start: with other threads, sums round otherwise"
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    return read_sysu(
        write_sysu(
            World(height=64, width=32),
            tmp_path_factory.mktemp('data') / 'world',
            range(1, 9),
            [9],
            range(10, 13),
            images=4,
        )
    )


@pytest.fixture(scope='module')
def people(world):
    return world.where(split=('train', 'val'))


@pytest.fixture(scope='module')
def untouched(people, tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs') / 'untouched'
    fit(config, people, folder, progress=False)
    return folder


def weights(folder, name='weights'):
    return load_file(folder / f'{name}.safetensors')


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def python(code, printed, wrapper=(), streams=None):
    "This code in a process of its own"
    if sys.platform == 'linux' and not wrapper and not streams:
        return Forked(code, printed)
    streams = streams or dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    command = [*wrapper, sys.executable, '-c', code]
    return subprocess.Popen(command, env=environment, text=True, **streams)


def start(
    people,
    folder,
    slow=0.1,
    before='',
    again=False,
    progress=False,
    wrapper=(),
    streams=None,
    **changes,
):
    """A training in a process of its own, which pauses after each step.

    `before` is run first, and `again` resumes it.
    """
    values = json.dumps(replace(config, **changes).to_dict())
    call = (
        f'fit(TrainConfig.from_dict(json.loads({values!r})), records, {str(folder)!r}, '
        f'progress={progress})'
    )
    if again:
        call = f'resume({str(folder)!r}, records, progress={progress})'
    script = f'''
        import time, json
        from idkl_nb.readers import read_sysu
        from idkl_nb.training import TrainConfig, Trainer, fit, resume
        step = Trainer.step
        def slowly(self, *args, **kwargs):
            time.sleep({slow})
            return step(self, *args, **kwargs)
        Trainer.step = slowly
        records = read_sysu({str(people.root)!r}).where(split=('train', 'val'))
        {call}
    '''
    printed = folder.with_suffix('.printed')
    return python(before + textwrap.dedent(script), printed, wrapper, streams)


def wait_for_a_step(folder, process):
    log = folder / 'log.jsonl'
    while not log.exists() or not log.read_text():
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.02)


def wait_for(folder, steps, process):
    "Until a checkpoint of so many steps is there"
    while True:
        files = Checkpoints(folder / 'checkpoints').files()
        if files and int(files[0].stem.removeprefix('step-')) >= steps:
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


def timeless(folder):
    "The log of a run, without what differs from time to time"
    return read_log(folder).drop(columns=['seconds', 'images_per_s'])


@pytest.mark.parametrize('steps, pause', [(1, 0.05), (5, 0.1)])
def test_killed(people, untouched, tmp_path, steps, pause):
    "Killed after one step or five and resumed, weights and log are those of the untouched run"
    process = start(people, tmp_path / 'run')
    wait_for(tmp_path / 'run', steps, process)
    time.sleep(pause)
    process.kill()
    process.wait()
    assert not (tmp_path / 'run' / 'weights.safetensors').exists()
    resume(tmp_path / 'run', people, progress=False)
    assert same(weights(tmp_path / 'run'), weights(untouched))
    pd.testing.assert_frame_equal(timeless(tmp_path / 'run'), timeless(untouched))


@pytest.mark.parametrize('number', SIGNALS)
def test_stopped_by_a_signal(people, untouched, tmp_path, number):
    "The step is finished and saved, although no checkpoint is due"
    process = start(people, tmp_path / 'run', save_every=10**6)
    wait_for_a_step(tmp_path / 'run', process)
    process.send_signal(number)
    _, printed = process.communicate(timeout=60)
    assert process.returncode and 'stopped after step' in printed
    assert len(Checkpoints(tmp_path / 'run' / 'checkpoints').files()) == 1
    resume(tmp_path / 'run', people, progress=False)
    assert same(weights(tmp_path / 'run'), weights(untouched))


needs_hangup = pytest.mark.skipif(not hasattr(signal, 'SIGHUP'), reason='this system has no SIGHUP')


@needs_hangup
def test_a_connection_that_is_closed(people, untouched, tmp_path):
    "The terminal goes away while a bar is drawn into it; system and shell send SIGHUP"
    pty, fcntl, termios = [pytest.importorskip(name) for name in ('pty', 'fcntl', 'termios')]
    terminal, ours = pty.openpty()
    streams = dict(
        stdin=ours,
        stdout=ours,
        stderr=ours,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    process = start(
        people, tmp_path / 'run', slow=0.4, progress=True, streams=streams, save_every=10**6
    )
    os.close(ours)
    wait_for_a_step(tmp_path / 'run', process)
    os.close(terminal)
    try:
        process.send_signal(signal.SIGHUP)
    except ProcessLookupError:
        pass
    # 120 is Python's own: at its end it could not flush into the terminal that is gone
    assert process.wait(timeout=60) in (1, 120)
    assert (
        len(Checkpoints(tmp_path / 'run' / 'checkpoints').files()) == 1
        and not (tmp_path / 'run' / 'weights.safetensors').exists()
    )
    resume(tmp_path / 'run', people, progress=False)
    assert same(weights(tmp_path / 'run'), weights(untouched))


@needs_hangup
@pytest.mark.parametrize('others', [[], [signal.SIGTERM]])
def test_a_second_hang_up_changes_nothing(others):
    "Also after or before a terminate signal; afterwards it acts as before"
    before = signal.getsignal(signal.SIGHUP)
    with session.StopSignals() as stop:
        for number in (*others, signal.SIGHUP, signal.SIGHUP):
            signal.raise_signal(number)
        assert stop.received == [*others, signal.SIGHUP][0]
    with session.StopSignals() as stop:
        for number in (signal.SIGHUP, *others, signal.SIGHUP):
            signal.raise_signal(number)
        assert stop.received == signal.SIGHUP
    assert signal.getsignal(signal.SIGHUP) == before


@needs_hangup
def test_nohup(people, untouched, tmp_path):
    "A signal that is ignored stays ignored"
    process = start(people, tmp_path / 'run', wrapper=['nohup'], save_every=10**6)
    wait_for_a_step(tmp_path / 'run', process)
    process.send_signal(signal.SIGHUP)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 0, printed
    assert same(weights(tmp_path / 'run'), weights(untouched))


def test_spoiled_newest_checkpoint(people, untouched, tmp_path):
    "A warning names it, and the one before is taken"
    process = start(people, tmp_path / 'run')
    wait_for(tmp_path / 'run', 4, process)
    process.kill()
    process.wait()
    newest = Checkpoints(tmp_path / 'run' / 'checkpoints').files()[0]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    with pytest.warns(UserWarning, match='checksum does not fit'):
        resume(tmp_path / 'run', people, progress=False)
    assert same(weights(tmp_path / 'run'), weights(untouched))


def test_full_disk(people, untouched, tmp_path):
    "A limit on the size of files plays it: the run ends in words, what was saved is whole"
    folder = tmp_path / 'run'
    values = json.dumps(config.to_dict())
    script = textwrap.dedent(f'''
        import resource, signal, json
        from idkl_nb.readers import read_sysu
        from idkl_nb.training import TrainConfig, fit
        def limit(rows):
            if rows.index[-1] == 1:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
        records = read_sysu({str(people.root)!r}).where(split=('train', 'val'))
        config = TrainConfig.from_dict(json.loads({values!r}))
        fit(config, records, {str(folder)!r}, progress=False, on_log=limit)
    ''')
    process = python(script, tmp_path / 'printed')
    _, printed = process.communicate(timeout=60)
    assert process.returncode and 'What was saved before is untouched' in printed
    names = [file.name for file in (folder / 'checkpoints').iterdir()]
    assert names == ['step-000000001.safetensors']
    resume(folder, people, progress=False)
    assert same(weights(folder), weights(untouched))


@pytest.mark.parametrize('workers', [0, 2])
def test_the_same_seed_gives_the_same_weights(people, untouched, tmp_path, workers):
    "In one process, and with processes that read images; another seed gives others"
    fit(replace(config, workers=workers), people, tmp_path / 'run', progress=False)
    assert same(weights(tmp_path / 'run'), weights(untouched))
    if workers:
        other = replace(config, epochs=1, batches=1, seed=1)
        fit(other, people, tmp_path / 'other', progress=False)
        assert not same(weights(tmp_path / 'other'), weights(untouched))


def test_layout_in_memory_changes_rounding_only(people, untouched, tmp_path):
    "The first losses agree; later ones need not, for a tie in the hardest pair can go another way"
    other = replace(config, channels_last=not config.channels_last)
    fit(other, people, tmp_path / 'run', progress=False)
    first, reference = [read_log(folder).total[:2] for folder in (tmp_path / 'run', untouched)]
    np.testing.assert_allclose(first, reference, rtol=1e-3)


def test_bfloat16_trains_alike(people, untouched, tmp_path):
    half = replace(config, precision='bf16', epochs=1, batches=1)
    fit(half, people, tmp_path / 'run', progress=False)
    first, reference = [read_log(folder).total.iloc[0] for folder in (tmp_path / 'run', untouched)]
    np.testing.assert_allclose(first, reference, rtol=0.03)
    assert abs(first - reference) > 1e-5 * reference  # it really is another precision


# What can fail, fails before anything is written


def no_weights(*args, **kwargs):
    raise OSError('the weights could not be downloaded')


def test_nothing_is_written_before_everything_is_there(people, untouched, tmp_path, monkeypatch):
    "No weights, too few people, a damaged image: no folder; and then the same call works"
    folder = tmp_path / 'runs' / 'run'
    with monkeypatch.context() as patched:
        patched.setattr(backbone, 'load_weights', no_weights)
        with pytest.raises(OSError, match='could not be downloaded'):
            fit(config, people, folder, progress=False)
    with pytest.raises(ValueError, match='choose a smaller P'):
        fit(replace(config, P=99), people, folder, progress=False)
    assert not folder.parent.exists()
    with monkeypatch.context() as patched:
        patched.setattr(session, 'build_cache', no_weights)
        with pytest.raises(OSError):
            fit(config, people, folder, progress=False)
    assert not folder.exists()
    fit(config, people, folder, progress=False)
    assert same(weights(folder), weights(untouched))


def stepless(folder, untouched):
    "A run that was begun, and made no step"
    folder.mkdir(parents=True)
    shutil.copy(untouched / 'config.json', folder)
    (folder / 'log.jsonl').write_text('')
    return folder


@pytest.mark.parametrize('again', ['fit', 'resume', 'resume with other settings'])
def test_a_run_without_a_step_can_be_begun_anew(people, untouched, tmp_path, again):
    other, folder = replace(config, lr=1e-4, epochs=1), stepless(tmp_path / 'run', untouched)
    if again == 'fit':
        fit(other, people, folder, progress=False)
    else:
        resume(folder, people, progress=False, config=None if again == 'resume' else other)
    assert load_run(folder)[1] == (config if again == 'resume' else other)
    assert same(weights(folder), weights(untouched)) == (again == 'resume')


@pytest.mark.parametrize(
    'trace', ['log.jsonl', 'checkpoints/step-000000001.safetensors', 'best.safetensors']
)
def test_a_run_with_a_step_is_not_begun_anew(people, untouched, tmp_path, trace):
    folder = stepless(tmp_path / 'run', untouched)
    (folder / trace).parent.mkdir(exist_ok=True)
    (folder / trace).write_text(json.dumps(dict(step=0, total=1.0)) + '\n')
    with pytest.raises(FileExistsError, match='a run is here already'):
        fit(config, people, folder, progress=False)
    with pytest.raises(ValueError, match='these differ: lr'):
        resume(folder, people, progress=False, config=replace(config, lr=1e-4))


# A run that goes on, with settings


def stop_at(step):
    def stop(rows):
        if rows.index[-1] >= step:
            signal.raise_signal(signal.SIGINT)

    return stop


def test_more_epochs_of_a_finished_run(people, untouched, tmp_path, monkeypatch):
    "Added twice, they give weights and log of the untouched run; the weights in between stay"
    folder = tmp_path / 'run'
    once = replace(config, epochs=1, save_every=10**6)
    fit(once, people, folder, progress=False)
    first = weights(folder)
    monkeypatch.setattr(backbone, 'load_weights', no_weights)  # nothing is downloaded again
    for epochs in (2, 3):
        resume(folder, people, progress=False, config=replace(once, epochs=epochs))
    assert same(weights(folder), weights(untouched))
    pd.testing.assert_frame_equal(timeless(folder), timeless(untouched))
    assert same(weights(folder, 'weights-1-epochs'), first) and load_run(folder, 'weights-2-epochs')
    assert load_run(folder)[1].epochs == 3
    resume(folder, people, progress=False)  # it is finished


def test_more_epochs_of_a_run_that_was_stopped(people, untouched, tmp_path):
    "With other settings that decide nothing; without a word, it goes on with these"
    folder = tmp_path / 'run'
    changed = replace(config, log_every=1, save_every=3, keep=5, validate_every=2, workers=1)
    with pytest.raises(KeyboardInterrupt):
        fit(replace(config, epochs=2), people, folder, progress=False, on_log=stop_at(3))
    with pytest.raises(KeyboardInterrupt):
        resume(folder, people, progress=False, on_log=stop_at(7), config=changed)
    assert not (folder / 'weights.safetensors').exists()
    resume(folder, people, progress=False)
    assert same(weights(folder), weights(untouched)) and load_run(folder)[1] == changed
    pd.testing.assert_frame_equal(timeless(folder), timeless(untouched))


def test_a_kill_between_the_old_weights_and_the_new_settings(
    people, untouched, tmp_path, monkeypatch
):
    "The end of the run as it was is made again from its last checkpoint"
    folder = shutil.copytree(untouched, tmp_path / 'run')

    def killed(file, content):
        raise InterruptedError

    with monkeypatch.context() as patched:
        patched.setattr(session, 'write_bytes', killed)
        with pytest.raises(InterruptedError):
            resume(folder, people, progress=False, config=replace(config, epochs=4))
    assert not (folder / 'weights.safetensors').exists()
    resume(folder, people, progress=False)
    assert same(weights(folder), weights(untouched)) and load_run(folder)[1] == config


def test_steps_of_other_batches_are_refused(people, untouched, tmp_path):
    "A step keeps its number of batches: processes times `accumulate`"
    folder = Path(shutil.copytree(untouched, tmp_path / 'run'))
    (folder / 'weights.safetensors').unlink()
    for file in Checkpoints(folder / 'checkpoints').files()[:1]:  # two steps are left
        file.unlink()
    about = json.loads((folder / 'config.json').read_text())
    assert about['processes'] == 1
    twice = replace(config, accumulate=2)
    with pytest.raises(ValueError, match=r'has 1 batches .* would have 2 \(processes: 1, acc'):
        resume(folder, people, progress=False, config=twice)

    # begun by two processes: one goes on with two batches a step, and not with one
    (folder / 'config.json').write_text(json.dumps(about | dict(processes=2)))
    with pytest.raises(ValueError, match='has 2 batches .* others whose product is 2'):
        resume(folder, people, progress=False)
    with pytest.raises(ValueError, match='11 steps are done, and the plan has 6'):
        resume(folder, people, progress=False, config=twice)


REFUSED = {
    'a learning rate': (dict(lr=1e-4), r'lr = 0\.0001, began with 0\.002'),
    'a part of the model': (
        dict(model=replace(config.model, lambda_tgsa=0.1)),
        r'model\.lambda_tgsa = 0\.1, began with 0\.6',
    ),
    'weights': (
        dict(model=replace(config.model, weights='other.pth')),
        r"model\.weights = 'other\.pth', began with 'WORLD_V2'",
    ),
    'fewer epochs': (dict(epochs=1), 'epochs = 1, began with 3'),
    'another preset': (
        dict(P=8, K=4, batches=40, milestones=(13, 18), epochs=20),
        r'P = 8, .*K = 4, .*batches = 40, .*milestones = \[13, 18\], began with \[2\]',
    ),
    'among those that may change': (
        dict(epochs=9, workers=1, clip=1.0),
        r'these differ: clip = 1\.0, began with None\. Leave them out',
    ),
}


@pytest.mark.parametrize('name', REFUSED)
def test_other_settings_are_refused_by_name(people, untouched, tmp_path, name):
    changes, message = REFUSED[name]
    finished = shutil.copytree(untouched, tmp_path / 'finished')
    stopped = shutil.copytree(untouched, tmp_path / 'stopped')
    (stopped / 'weights.safetensors').unlink()
    for folder in (finished, stopped):
        before = {file: file.read_bytes() for file in folder.rglob('*') if file.is_file()}
        with pytest.raises(ValueError, match=message):
            resume(folder, people, progress=False, config=replace(config, **changes))
        assert {file: file.read_bytes() for file in folder.rglob('*') if file.is_file()} == before


def test_a_finished_run_is_only_read(people, untouched, tmp_path):
    folder = shutil.copytree(untouched, tmp_path / 'run')
    resume(folder, people, progress=False, config=replace(config, workers=1, log_every=5))
    assert (folder / 'config.json').read_bytes() == (untouched / 'config.json').read_bytes()
    shutil.rmtree(folder / 'checkpoints')
    with pytest.raises(CheckpointError, match='the checkpoints of this finished run are gone'):
        resume(folder, people, progress=False, config=replace(config, epochs=4))
    assert (folder / 'weights.safetensors').exists()


def test_the_network_of_a_finished_run_is_on_its_device(people, untouched, monkeypatch):
    "As `fit` gives it; a device without values plays the GPU"

    class Elsewhere:
        device, is_main_process, num_processes = torch.device('meta'), True, 1

    monkeypatch.setattr(run_start, 'make_accelerator', lambda precision='no': Elsewhere)
    model, _ = resume(untouched, people, progress=False)
    assert {tensor.device.type for tensor in model.state_dict().values()} == {'meta'}


# Too little memory

CPU = (
    '[enforce fail at alloc_cpu.cpp:114] data. DefaultCPUAllocator: not enough memory: you tried '
    'to allocate 9437184000 bytes.'
)
TOO_LITTLE = {
    'CUDA': torch.cuda.OutOfMemoryError(
        'CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 8 GiB.\n'
        'If reserved but unallocated memory is large'
    ),
    'CUDA, without a word': torch.cuda.OutOfMemoryError(),
    'a CPU': RuntimeError(CPU),
    'Linux': RuntimeError(
        CPU.replace('not enough memory: you tried', "can't allocate memory: you tried")
    ),
    'MPS': RuntimeError('MPS backend out of memory (MPS allocated: 8.00 GB)'),
    'cuBLAS': RuntimeError(
        'CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`'
    ),
    'Python': MemoryError(),
}


@pytest.mark.parametrize('where', ['step', '__init__'])
@pytest.mark.parametrize('name', TOO_LITTLE)
def test_too_little_memory_is_said_in_a_sentence(people, tmp_path, monkeypatch, name, where):
    "Which settings lower it, and what else they change"

    def fail(*args, **kwargs):
        raise TOO_LITTLE[name]

    monkeypatch.setattr(Trainer, where, fail)
    with pytest.raises(MemoryError) as caught:
        fit(replace(config, P=4), people, tmp_path / 'run', progress=False)
    message = str(caught.value)
    assert (
        '\n' not in message
        and 'for a batch of 16 images of 64 x 32 pixels' in message
        and f'{tmp_path / "run"}: not enough memory' in message
    )
    for cure in (
        "precision='bf16' halves",
        'P=2 with accumulate=2 keeps the images of a step, but triplets',
        'smaller P or K',
        'smaller height, width or model.backbone',
    ):
        assert cure in message
    assert (tmp_path / 'run').exists() == (where == 'step')


def test_another_fault_keeps_its_words(people, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError('mat1 and mat2 shapes cannot be multiplied')

    monkeypatch.setattr(Trainer, 'step', fail)
    with pytest.raises(RuntimeError, match='^mat1 and mat2'):
        fit(config, people, tmp_path / 'run', progress=False)


# The same by idkl-train


def command(*words):
    "Its exit code, and what it printed"
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
            train_main([str(word) for word in words])
    except SystemExit as end:
        return end.code, printed.getvalue()
    return 0, printed.getvalue()


def test_idkl_train_goes_on(world, tmp_path):
    "Without options, with those that may change, and not with others"
    out, root = tmp_path / 'run', ('--root', world.root, '--no-check')
    code, printed = command(
        '--preset', 'smoke', '--precision', 'no', '--epochs', 1, '--out', out, *root
    )
    assert code == 0, printed
    once = (out / 'model' / 'weights.safetensors').read_bytes()
    for words, message in (
        (('--lr', 1e-4), 'lr = 0.0001, began with 0.002. Leave them out'),
        (('--preset', 'embedded'), 'P = 8, began with 3'),
    ):
        code, printed = command('--resume', '--out', out, *root, *words)
        assert code == 2 and printed.startswith('idkl-train: ') and message in printed
    code, printed = command('--resume', '--out', out, *root)
    assert code == 0 and (out / 'model' / 'weights.safetensors').read_bytes() == once, printed
    code, printed = command(
        '--preset',
        'smoke',
        '--precision',
        'no',
        '--resume',
        '--out',
        out,
        *root,
        '--epochs',
        2,
        '--log-every',
        1,
    )
    assert code == 0, printed
    assert (out / 'model' / 'weights-1-epochs.safetensors').read_bytes() == once
    resumed = load_run(out / 'model')[1]
    assert (resumed.epochs, resumed.log_every) == (2, 1)
    assert len(read_log(out / 'model')) == 4


def test_idkl_train_without_a_network(world, tmp_path):
    "No folder, a message that names the option; and the same command with that option trains"
    out, file = tmp_path / 'run', tmp_path / 'resnet18.pth'
    tiny = (
        '--model.backbone',
        'resnet18',
        '--height',
        32,
        '--width',
        16,
        '--P',
        2,
        '--K',
        1,
        '--epochs',
        1,
        '--batches',
        1,
        '--precision',
        'no',
        '--workers',
        0,
    )
    words = ('--preset', 'sysu-paper', *tiny, '--root', world.root, '--no-check', '--out', out)
    with patch(
        'torchvision.models._api.load_state_dict_from_url', side_effect=URLError('no network')
    ):
        code, printed = command(*words)
        assert code == 2 and '--model.weights FILE' in printed and not out.exists(), printed
        code, printed = command(*words, '--resume')
        assert code == 2 and 'no run of idkl-train is here' in printed
        torch.save({'state_dict': resnet18().state_dict()}, file)
        code, printed = command(*words, '--model.weights', file)
        assert code == 0 and (out / 'model' / 'weights.safetensors').exists(), printed
        file.unlink()
        # nothing is read or downloaded again
        code, printed = command('--resume', '--out', out, '--root', world.root, '--epochs', 2)
        assert code == 0 and load_run(out / 'model')[1].epochs == 2, printed


def test_idkl_train_with_too_little_memory(world, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise torch.cuda.OutOfMemoryError('CUDA out of memory')

    monkeypatch.setattr(Trainer, 'step', fail)
    code, printed = command(
        '--preset',
        'smoke',
        '--precision',
        'no',
        '--out',
        tmp_path / 'run',
        '--root',
        world.root,
        '--no-check',
    )
    assert code == 2 and 'Traceback' not in printed and "smaller P or K" in printed


SCRIPT = '''
import json, os, sys
from safetensors.torch import save_file
from idkl_nb import training
from idkl_nb.readers import read_sysu
root, *runs = sys.argv[1:]
trained = {}
train = training.train
def watched(trainer, steps, session):
    train(trainer, steps, session)
    trained.update(trainer.model.state_dict())
training.train = watched
records = read_sysu(root).where(split=('train', 'val'))
for folder, values in zip(runs[::2], runs[1::2]):
    config = training.TrainConfig.from_dict(json.loads(values))
    training.fit(config, records, folder, progress=False)
    tensors = {name: value.contiguous() for name, value in trained.items()}
    save_file(tensors, f'{folder}/rank{os.environ["RANK"]}.safetensors')
'''


AVERAGED = replace(config, ema=None, epochs=2)
GATHERED = replace(config, ema=None, epochs=1, batches=2, gather=True)  # a step of two processes


@pytest.fixture(scope='module')
def two_processes(people, tmp_path_factory):
    "A folder with two runs of two processes, which are started once"
    folder = tmp_path_factory.mktemp('two')
    script = folder / 'script.py'
    script.write_text(SCRIPT)
    runs = []
    for name, changed in (('averaged', AVERAGED), ('gathered', GATHERED)):
        runs += [str(folder / name), json.dumps(changed.to_dict())]
    command = [
        sys.executable,
        '-m',
        'torch.distributed.run',
        '--nproc-per-node',
        '2',
        '--master-port',
        '0',
        '--rdzv-backend',
        'c10d',
        '--rdzv-endpoint',
        'localhost:0',
        str(script),
    ]
    done = subprocess.run(
        [*command, str(people.root), *runs],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


RANK = '''
import os
from accelerate.state import AcceleratorState
from idkl_nb.train_command import train_main
os.environ.update({ranks!r})
os.chdir({folder!r})
AcceleratorState._reset_state(reset_partial_state=True)
train_main({words!r})
'''
SMALL = ('--preset', 'smoke', '--epochs', '1', '--batches', '2', '--P', '2', '--precision', 'no')


def free_port():
    with socket.socket() as opened:
        opened.bind(('127.0.0.1', 0))
        return opened.getsockname()[1]


def two_ranks(folder, *words):
    "What `torchrun` does with two processes, with forks: exit codes, and what each printed"
    shared = dict(WORLD_SIZE=2, LOCAL_WORLD_SIZE=2, MASTER_ADDR='127.0.0.1')
    shared |= dict(MASTER_PORT=free_port(), OMP_NUM_THREADS=1)
    started = []
    for rank in range(2):
        ranks = {k: str(v) for k, v in (shared | dict(RANK=rank, LOCAL_RANK=rank)).items()}
        code = RANK.format(ranks=ranks, folder=str(folder), words=[*map(str, words)])
        started.append(python(code, folder / f'{rank}.printed'))
    printed = [process.communicate(timeout=120)[1] for process in started]
    return [process.returncode for process in started], printed


forks = pytest.mark.skipif(sys.platform != 'linux', reason='needs forks')


@forks
def test_two_processes_choose_one_folder_and_draw_once(tmp_path):
    "Neither --out nor --root: the first chooses and draws, the other is told"
    codes, printed = two_ranks(tmp_path, *SMALL)
    assert codes == [0, 0], printed
    assert [path.name for path in (tmp_path / 'runs').iterdir()] == ['smoke']
    assert len(read_log(tmp_path / 'runs' / 'smoke' / 'model')) == 1
    assert 'everything is in' in printed[0] and 'everything is in' not in printed[1]
    assert not list(tmp_path.rglob('run.lock'))


@forks
def test_two_processes_are_refused_with_one_message(world, tmp_path):
    words = (*SMALL, '--root', world.root, '--out', tmp_path / 'run', '--model.weights', 'none')
    codes, printed = two_ranks(tmp_path, *words)
    assert codes == [2, 2]
    assert "weights 'none'" in printed[0] and 'idkl-train' not in printed[1], printed
    assert not (tmp_path / 'run').exists()


def printed_command():
    "The line with torchrun that the page on the command prints"
    page = Path(__file__).parents[1] / 'nbs' / 'workshop' / 'train_command.ipynb'
    cells = json.loads(page.read_text(encoding='utf-8'))['cells']
    text = '\n'.join(''.join(cell['source']) for cell in cells)
    return shlex.split(re.search(r'^torchrun .*$', text, re.M)[0])


@pytest.mark.slow
@pytest.mark.parametrize('out', [False, True])
@pytest.mark.parametrize('root', [False, True])
def test_the_printed_command_for_several_processes(world, tmp_path, out, root):
    "With two processes for four, and a small training; with and without --out and --root"
    words = printed_command()
    at = words.index('--root')
    words[at : at + 2] = ['--root', str(world.root), '--no-check'] if root else []
    words[words.index('--nproc-per-node') + 1] = '2'
    at = words.index('--preset')
    words[at : at + 2] = [*SMALL, *(['--out', str(tmp_path / 'run')] if out else [])]
    words[1:1] = ['--rdzv-backend', 'c10d', '--rdzv-endpoint', 'localhost:0']
    path = os.pathsep.join([str(Path(sys.executable).parent), environment['PATH']])
    done = subprocess.run(
        words, env=environment | dict(PATH=path), cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    folder = tmp_path / 'run' if out else tmp_path / 'runs' / 'smoke'
    assert (folder / 'scores.json').exists() and (folder / 'data').exists() != root
    assert len(list(tmp_path.rglob('config.json'))) == 1


def of_ranks(folder):
    "Weights that each process ended with"
    return [weights(folder, f'rank{rank}') for rank in (0, 1)]


def learned(tensors):
    "Without running statistics"
    statistics = ('running', 'num_batches')
    return {
        name: value
        for name, value in tensors.items()
        if not any(word in name for word in statistics)
    }


def test_two_processes_equal_accumulation(people, two_processes, tmp_path):
    "Two processes with a batch each make the step of one process with two batches"
    two = two_processes / 'averaged'
    ours, others = of_ranks(two)
    assert same(learned(ours), learned(others))
    assert len(read_log(two)) == 4  # the same images as one process has in 8 steps
    fit(replace(AVERAGED, accumulate=2), people, tmp_path / 'one', progress=False)
    one = learned(weights(tmp_path / 'one'))
    for name, value in learned(ours).items():
        torch.testing.assert_close(value, one[name], rtol=1e-3, atol=2e-4, msg=name)


def joined_by_hand(*parts):
    "What `devices.join` makes of the features of several processes"
    if isinstance(parts[0], torch.Tensor):
        return torch.cat(parts)
    if isinstance(parts[0], list):
        return [joined_by_hand(*column) for column in zip(*parts)]
    fields = {}
    for name in parts[0]._fields:
        values = [getattr(part, name) for part in parts]
        fields[name] = None if name == 'map' else joined_by_hand(*values)
    return type(parts[0])(**fields)


def test_gathered_features_equal_the_joined_batch(people, two_processes, tmp_path):
    "The gradient is that of the joined batch's objective; the network sees each half by itself"
    gathered, two = GATHERED, two_processes / 'gathered'
    ours, others = of_ranks(two)
    assert same(learned(ours), learned(others))

    # the same step in one process
    trainer = Trainer(gathered, 9, make_accelerator())
    images = CachedImages(people, build_cache(people, 64, 32, tmp_path / 'cache', progress=False))
    plan = Plan(PKSampler(people, gathered.P, gathered.K, 2, gathered.seed), 1)
    halves = [images.__getitems__(plan.batch(n)) for n in (0, 1)]
    features = []
    for n, half in enumerate(halves):
        augmented = trainer.augment(half.images, step_generator(gathered.seed, n))
        features.append(trainer.model(augmented))
    ids = torch.cat([half.ids for half in halves])
    modality = torch.cat([half.modality for half in halves])
    losses = trainer.objective(joined_by_hand(*features), ids, modality)
    total = read_log(two).total.iloc[0]
    np.testing.assert_allclose(total, losses.total.item(), rtol=1e-5)

    losses.total.backward()
    for group in trainer.optimiser.param_groups:
        group['lr'] = learning_rate(gathered, 0)
    trainer.optimiser.step()
    one = learned(trainer.model.state_dict())
    for name, value in learned(ours).items():
        torch.testing.assert_close(value, one[name], rtol=1e-3, atol=2e-4, msg=name)


def test_forecast_says_minutes_and_what_to_do():
    assert forecast(0.4, 20, 'cpu').endswith('less than a minute')
    short = forecast(1.0, 300, 'cuda')
    assert 'about 5 minutes' in short and 'Shorter' not in short
    long = forecast(30.0, 300, 'cpu')
    assert '(2.5 hours)' in long and 'a GPU' in long
    assert 'several GPUs' in forecast(30.0, 300, 'cuda')


def test_forecast_comes_early(people, untouched, tmp_path, monkeypatch, capsys):
    clock = iter(range(0, 10**6, 3))  # each look at the clock is 3 s later
    stopped_clock = SimpleNamespace(perf_counter=lambda: float(next(clock)))
    monkeypatch.setattr('idkl_nb.training_log.time', stopped_clock)
    fit(replace(config, epochs=1), people, tmp_path / 'run')
    assert capsys.readouterr().out.count('steps to go') == 1


def test_precision_is_decided_once_and_kept(people, tmp_path, monkeypatch):
    "It stands in settings and log, and a resumed run keeps it, whatever the machine says then"
    automatic = replace(config, precision='auto', epochs=1, batches=2, log_every=1)
    machines = iter([Device('cpu', 'a fast one', gain=3.0), Device('cpu', 'a slow one', gain=0.1)])
    monkeypatch.setattr('idkl_nb.devices.this_device', lambda device: next(machines))

    def stop(log):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(automatic, people, tmp_path / 'run', progress=False, on_log=stop)
    _, log = resume(tmp_path / 'run', people, progress=False)

    about = json.loads((tmp_path / 'run' / 'config.json').read_text())
    assert about['config']['precision'] == 'auto'
    assert about['precision']['used'] == 'bf16' and about['precision']['device'] == 'a fast one'
    assert set(log.precision) == {'bf16'} and precision_of(tmp_path / 'run').used == 'bf16'


# The plan of batches, and one step


def test_a_plan_is_the_epochs_of_its_sampler(people):
    sampler = PKSampler(people, P=3, K=2, batches=4)
    whole = list(Plan(sampler, epochs=3))
    sampler.set_epoch(1)
    assert whole[4:8] == list(sampler)
    twice = Plan(sampler, epochs=3, accumulate=2)
    assert list(twice) == whole and twice.steps == 6
    assert [twice.epoch(step) for step in (0, 1, 2)] == [0, 0.5, 1]


def test_batches_of_a_gathered_step_carry_the_labels_of_all_processes(people, tmp_path):
    images = CachedImages(people, build_cache(people, 64, 32, tmp_path, progress=False))
    gathered = replace(config, gather=True, accumulate=2)
    sampler = PKSampler(people, P=3, K=2, batches=8)
    plans = [Plan(sampler, 1, accumulate=2, rank=rank, ranks=2) for rank in (0, 1)]
    steps = [list(StepLoader(images, plan, gathered)) for plan in plans]
    assert [len(portions) for portions in steps[0]] == [2, 2]
    for n in (0, 1):
        (first, _), (second, _) = steps[0][1][n], steps[1][1][n]
        rows = plans[0].batch(4 + 2 * n) + plans[0].batch(5 + 2 * n)
        for batch in (first, second):
            assert batch.ids.tolist() == images.ids[rows].tolist()
            assert batch.modality.tolist() == people.modality[rows].tolist()
        assert not torch.equal(first.images, second.images)


def test_the_learning_rate_rises_in_the_warm_up():
    warm = TrainConfig(warmup=10)
    rising = [learning_rate(warm, n) > learning_rate(warm, n - 1) for n in (1, 9, 10, 11)]
    assert rising == [True, True, True, False]


@pytest.fixture(scope='module')
def portion(people, tmp_path_factory):
    "A function that gives the n-th batch with its generator"
    cache = build_cache(people, 64, 32, tmp_path_factory.mktemp('cache'), progress=False)
    images = CachedImages(people, cache)
    plan = Plan(PKSampler(people, 3, 2, 4), 1)
    return lambda n: (images.__getitems__(plan.batch(n)), step_generator(0, n))


def small_trainer(**changes):
    smoke = replace(PRESETS['smoke'], channels_last=False, **changes)
    return Trainer(smoke, 9, make_accelerator())


def test_a_learning_rate_of_0_moves_nothing(portion):
    moved = small_trainer(clip=0.01)
    moved.step([portion(0)], lr=0.0)
    for before, after in zip(small_trainer().model.parameters(), moved.model.parameters()):
        assert torch.equal(before, after)


def weights_after_a_step(portion, align, **model):
    trainer = small_trainer(model=replace(PRESETS['smoke'].model, **model))
    trainer.step([portion(0)], lr=1e-3, align=align)
    return torch.cat([p.flatten() for p in trainer.model.parameters()])


def test_before_align_from_a_step_is_as_if_the_terms_were_off(portion):
    without = dict(lambda_tgsa=0.0, lambda_csa=0.0, lambda_mdr=0.0)
    off = weights_after_a_step(portion, True, **without)
    assert torch.equal(weights_after_a_step(portion, False), off)
    assert not torch.equal(weights_after_a_step(portion, True), off)


def test_the_exponential_mean_begins_with_the_first_weights_and_follows_slowly(portion):
    trainer = small_trainer(ema=0.9)
    trainer.step([portion(0)], lr=1e-3)
    for weight, mean in zip(trainer.model.parameters(), trainer.ema.module.parameters()):
        assert torch.equal(weight, mean)
    trainer.step([portion(1)], lr=1e-3)
    weight = next(trainer.model.parameters())
    assert not torch.equal(weight, next(trainer.ema.module.parameters()))
    assert trainer.model_to_save is trainer.ema.module


def test_the_whole_batch_goes_to_the_device(portion, monkeypatch):
    "Labels, too: what the objective gets is what the trainer moved"
    trainer = small_trainer()
    objective = trainer.objective
    batch, generator = portion(0)
    move = torch.Tensor.to
    moved = {}

    def moving(self, *words, **options):
        result = move(self, *words, **options)
        if self is batch.ids or self is batch.modality:
            result = moved[id(self)] = result.clone()
        return result

    def checking(features, ids, modality):
        assert ids is moved[id(batch.ids)] and modality is moved[id(batch.modality)]
        return objective(features, ids, modality)

    monkeypatch.setattr(torch.Tensor, 'to', moving)
    monkeypatch.setattr(trainer, 'objective', checking)
    trainer.losses(batch, generator)


# What the log says


def test_what_is_not_finite_is_named():
    check_finite(pd.DataFrame(dict(ce=[1.0])))
    with pytest.raises(FloatingPointError, match='step 1: ce, triplet is not finite'):
        check_finite(pd.DataFrame(dict(ce=[1.0, float('inf')], triplet=[1.0, float('nan')])))


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    (tmp_path / 'log.jsonl').write_text('{"step": 0, "total": 2.5}\n{"step": 1, "total": 2.')
    assert read_log(tmp_path).total.to_dict() == {0: 2.5}
    (tmp_path / 'log.jsonl').write_text('')
    assert len(read_log(tmp_path)) == 0


def test_a_weight_that_is_no_number_ends_the_run(people, tmp_path, monkeypatch):
    "The next losses show it; step and terms are named, and the checkpoint is from before"
    trainers = []
    make = Trainer.__init__

    def remembered(self, *args):
        make(self, *args)
        trainers.append(self)

    def poison(rows):
        if rows.index[-1] == 3:
            next(trainers[0].model.parameters()).data.fill_(float('nan'))

    monkeypatch.setattr(Trainer, '__init__', remembered)
    changed = replace(config, ema=None, save_every=3)
    with pytest.raises(FloatingPointError, match='step 4: ce_sh'):
        fit(changed, people, tmp_path / 'run', progress=False, on_log=poison)
    assert Checkpoints(tmp_path / 'run' / 'checkpoints').newest()['step'] == 3


# What a run leaves, and what is refused


def test_a_run_leaves_a_folder(people, untouched):
    names = sorted(file.name for file in untouched.iterdir())
    assert names == ['checkpoints', 'config.json', 'log.jsonl', 'weights.safetensors']
    log = read_log(untouched)
    assert len(log) == 12
    assert log.lr.tolist() == [learning_rate(config, epoch) for epoch in log.epoch]
    assert log.columns[-7:].tolist() == [
        *('total', 'grad_norm', 'epoch', 'lr', 'images_per_s', 'seconds', 'precision')
    ]
    about = json.loads((untouched / 'config.json').read_text())
    order = ['precision', 'processes', 'identities', 'images', 'fingerprint', 'dataset', 'config']
    assert list(about) == order


@pytest.mark.parametrize('change', [dict(lr=1e-4), dict(seed=1)])
def test_settings_that_decide_the_weights_are_refused(people, untouched, change):
    with pytest.raises(ValueError, match='these differ: '):
        resume(untouched, people, config=replace(config, **change))


def test_other_images_or_another_order_are_refused(people, untouched):
    for records in (people[::-1], people[1:]):
        with pytest.raises(ValueError, match='needs the same'):
            resume(untouched, records)


def test_validation_shows_other_people_in_both_modalities(world, people, tmp_path):
    one_light = world.where(split='test', modality=VISIBLE)
    for records, message in ((people, 'who are trained on'), (one_light, 'both modalities')):
        with pytest.raises(ValueError, match=message):
            fit(config, people, tmp_path / 'run', validation=records)
    assert not (tmp_path / 'run').exists()


def test_a_folder_without_a_run_is_not_loaded(people):
    with pytest.raises(FileNotFoundError, match='does not hold a run'):
        load_run(people.root)


@pytest.mark.parametrize(
    'name, content, message',
    [
        ('weights.safetensors', b'half', 'not the weights of this run, or damaged'),
        ('config.json', b'{"config": {"P": "3"}}', 'expected int'),
        ('config.json', b'[]', 'does not describe a run'),
        ('config.json', b'\xff', 'does not describe a run'),
    ],
)
def test_a_spoiled_file_of_a_run_is_refused(untouched, tmp_path, name, content, message):
    spoiled = shutil.copytree(untouched, tmp_path / 'spoiled')
    (spoiled / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_run(spoiled)


def test_a_run_from_before_precision_and_dataset_were_written_down(people, untouched, tmp_path):
    old = shutil.copytree(untouched, tmp_path / 'run')
    about = json.loads((old / 'config.json').read_text())
    del about['precision'], about['dataset']
    (old / 'config.json').write_text(json.dumps(about))
    assert precision_of(old).used == 'no'
    resume(old, people, progress=False, config=replace(config, epochs=4))
    assert load_run(old)[1].epochs == 4
