"Runs that are killed, stopped, starved and spoiled, and runs of two processes. The oracle is a run that nothing happened to."
import json, os, signal, subprocess, sys, textwrap, time, warnings
from dataclasses import replace
from types import SimpleNamespace
import numpy as np, pandas as pd, pytest, torch
from safetensors.torch import load_file
from idkl_nb.checkpoints import CheckpointError, Checkpoints
from idkl_nb.datasets import read_sysu, write_sysu
from idkl_nb.precision import Device
from idkl_nb.steps import PRESETS, settings
from idkl_nb.training import fit, forecast, load, precision_of, read_log, resume
from idkl_nb.world import World

config = replace(PRESETS['smoke'], epochs=3, batches=4, save_every=1, log_every=2, ema=.9, milestones=(2,), precision='no')
environment = os.environ | dict(OMP_NUM_THREADS='1')


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    "As in the processes that the tests start: another number of threads adds in another order, and rounds otherwise"
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    return read_sysu(write_sysu(World(height=64, width=32), tmp_path_factory.mktemp('data')/'world', range(1, 9), [9], range(10, 13), images=4))


@pytest.fixture(scope='module')
def people(world): return world.where(split=('train', 'val'))


@pytest.fixture(scope='module')
def untouched(people, tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs')/'untouched'
    fit(config, people, folder, progress=False)
    return folder


def weights(folder, name='weights'): return load_file(folder/f'{name}.safetensors')
def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def start(people, folder, slow=.1, before='', again=False, **changes):
    "A training in a process of its own, which pauses after each step; `before` is run first, and `again` resumes it"
    go = f'resume({str(folder)!r}, records, progress=False)' if again else f'fit(from_settings(json.loads({json.dumps(settings(replace(config, **changes)))!r})), records, {str(folder)!r}, progress=False)'
    script = f'''
        import time, json
        from pathlib import Path
        from idkl_nb.datasets import read_sysu
        from idkl_nb.steps import Trainer, from_settings
        from idkl_nb.training import fit, resume
        step = Trainer.step
        def slowly(self, *args, **kwargs):
            time.sleep({slow})
            return step(self, *args, **kwargs)
        Trainer.step = slowly
        records = read_sysu({str(people.root)!r}).where(split=('train', 'val'))
        {go}
    '''
    return subprocess.Popen([sys.executable, '-c', before + textwrap.dedent(script)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(folder, steps, process):
    while len(Checkpoints(folder/'checkpoints').files()) == 0 or int(Checkpoints(folder/'checkpoints').files()[0].stem[5:]) < steps:
        assert process.poll() is None, process.stderr.read()
        time.sleep(.02)


@pytest.mark.parametrize('steps, pause', [(1, .05), (5, .1)])
def test_killed(people, untouched, tmp_path, steps, pause):
    "A training process gets SIGKILL after one step or five; resumed, weights and log are those of a run that was left alone"
    process = start(people, tmp_path/'run')
    wait_for(tmp_path/'run', steps, process)
    time.sleep(pause)
    process.kill(); process.wait()
    assert not (tmp_path/'run'/'weights.safetensors').exists()
    resume(tmp_path/'run', people, progress=False)
    assert same(weights(tmp_path/'run'), weights(untouched))
    timeless = lambda log: log.drop(columns=['seconds', 'images_per_s'])
    pd.testing.assert_frame_equal(timeless(read_log(tmp_path/'run')), timeless(read_log(untouched)))


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_stopped_by_a_signal(people, untouched, tmp_path, number):
    "The step is finished and saved, although no checkpoint is due"
    process = start(people, tmp_path/'run', save_every=10**6)
    while not (tmp_path/'run'/'log.jsonl').exists() or not (tmp_path/'run'/'log.jsonl').read_text(): time.sleep(.02); assert process.poll() is None, process.stderr.read()
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode and 'stopped after step' in said
    assert len(Checkpoints(tmp_path/'run'/'checkpoints').files()) == 1
    resume(tmp_path/'run', people, progress=False)
    assert same(weights(tmp_path/'run'), weights(untouched))


def test_spoiled_newest_checkpoint(people, untouched, tmp_path):
    "A warning names it, and the one before is taken"
    process = start(people, tmp_path/'run')
    wait_for(tmp_path/'run', 4, process)
    process.kill(); process.wait()
    newest = Checkpoints(tmp_path/'run'/'checkpoints').files()[0]
    content = bytearray(newest.read_bytes()); content[len(content)//2] ^= 1; newest.write_bytes(content)
    with pytest.warns(UserWarning, match='checksum does not fit'): resume(tmp_path/'run', people, progress=False)
    assert same(weights(tmp_path/'run'), weights(untouched))


def test_full_disk(people, untouched, tmp_path):
    "A limit on the size of a file plays the full disk: the run ends in words, and what was saved is whole"
    fit_small = replace(config, epochs=1)
    script = textwrap.dedent(f'''
        import resource, signal, json
        from idkl_nb.datasets import read_sysu
        from idkl_nb.steps import from_settings
        from idkl_nb.training import fit
        def limit(rows):
            if rows.index[-1] == 1:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
        records = read_sysu({str(people.root)!r}).where(split=('train', 'val'))
        fit(from_settings(json.loads({json.dumps(settings(config))!r})), records, {str(tmp_path/"run")!r}, progress=False, on_log=limit)
    ''')
    done = subprocess.run([sys.executable, '-c', script], env=environment, capture_output=True, text=True)
    assert done.returncode and 'What was saved before is untouched' in done.stderr
    assert [file.name for file in (tmp_path/'run'/'checkpoints').iterdir()] == ['step-000000001.safetensors']
    resume(tmp_path/'run', people, progress=False)
    assert same(weights(tmp_path/'run'), weights(untouched))


@pytest.mark.parametrize('workers', [0, 2])
def test_the_same_seed_gives_the_same_weights(people, untouched, tmp_path, workers):
    "In one process, and with processes that read images; another seed gives others"
    fit(replace(config, workers=workers), people, tmp_path/'run', progress=False)
    assert same(weights(tmp_path/'run'), weights(untouched))
    if workers:
        fit(replace(config, epochs=1, batches=1, seed=1), people, tmp_path/'other', progress=False)
        assert not same(weights(tmp_path/'other'), weights(untouched))


def test_layout_in_memory_changes_rounding_only(people, untouched, tmp_path):
    "The first losses agree to rounding; later ones need not, since a tie in the hardest pair can go another way"
    fit(replace(config, channels_last=not config.channels_last), people, tmp_path/'run', progress=False)
    np.testing.assert_allclose(read_log(tmp_path/'run').total[:2], read_log(untouched).total[:2], rtol=1e-3)


def test_bfloat16_trains_alike(people, untouched, tmp_path):
    fit(replace(config, precision='bf16', epochs=1, batches=1), people, tmp_path/'run', progress=False)
    first, reference = [read_log(folder).total.iloc[0] for folder in (tmp_path/'run', untouched)]
    np.testing.assert_allclose(first, reference, rtol=.03)
    assert abs(first - reference) > 1e-5*reference       # it really is another precision


SCRIPT = '''
import json, os, sys, torch
from safetensors.torch import save_file
from idkl_nb.datasets import read_sysu
from idkl_nb.steps import from_settings
from idkl_nb import training
root, folder, values = sys.argv[1:]
keep = {}
train = training._Run.train
def watched(self):
    train(self)
    keep['model'] = self.trainer.model
training._Run.train = watched
training.fit(from_settings(json.loads(values)), read_sysu(root).where(split=('train', 'val')), folder, progress=False)
rank = os.environ['RANK']
save_file({name: value.contiguous() for name, value in keep['model'].state_dict().items()}, f'{folder}/rank{rank}.safetensors')
'''


def two_processes(people, folder, changed):
    script = folder.with_suffix('.py'); script.write_text(SCRIPT)
    command = [sys.executable, '-m', 'torch.distributed.run', '--nproc-per-node', '2', '--master-port', '0', '--rdzv-backend', 'c10d', '--rdzv-endpoint', 'localhost:0', str(script)]
    done = subprocess.run([*command, str(people.root), str(folder), json.dumps(settings(changed))], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return [weights(folder, f'rank{rank}') for rank in (0, 1)]


learned = lambda found: {name: value for name, value in found.items() if 'running' not in name and 'num_batches' not in name}


def test_two_processes_equal_accumulation(people, tmp_path):
    "Two processes with a batch each make the step of one process with two batches"
    plain = replace(config, ema=None, epochs=2)
    ours, others = two_processes(people, tmp_path/'two', plain)
    assert same(learned(ours), learned(others))
    assert len(read_log(tmp_path/'two')) == 4          # the same images as one process has in 8 steps
    fit(replace(plain, accumulate=2), people, tmp_path/'one', progress=False)
    one = learned(weights(tmp_path/'one'))
    for name, value in learned(ours).items(): torch.testing.assert_close(value, one[name], rtol=1e-3, atol=2e-4, msg=name)


def test_gathered_features_equal_the_joined_batch(people, tmp_path):
    "With `gather`, the gradient is that of the objective of the joined batch; the network sees each half by itself"
    from idkl_nb.batches import PKSampler
    from idkl_nb.cache import CachedImages, build_cache, step_generator
    from idkl_nb.steps import Plan, Trainer, learning_rate, make_accelerator
    gathered = replace(config, ema=None, epochs=1, batches=2, gather=True)      # one step of two processes
    ours, others = two_processes(people, tmp_path/'two', gathered)
    assert same(learned(ours), learned(others))
    trainer = Trainer(gathered, 9, make_accelerator())
    images = CachedImages(people, build_cache(people, 64, 32, tmp_path/'cache', progress=False))
    plan = Plan(PKSampler(people, gathered.P, gathered.K, 2, gathered.seed), 1)
    halves = [images.__getitems__(plan.batch(n)) for n in (0, 1)]
    from idkl_nb.model import Features
    def cat(*parts):
        if isinstance(parts[0], torch.Tensor): return torch.cat(parts)
        if isinstance(parts[0], list): return [cat(*same) for same in zip(*parts)]
        return type(parts[0])(*[None if name == 'map' else cat(*[getattr(p, name) for p in parts]) for name in parts[0]._fields])
    features = cat(*[trainer.model(trainer.augment(half.images, step_generator(gathered.seed, n))) for n, half in enumerate(halves)])
    losses = trainer.objective(features, torch.cat([h.ids for h in halves]), torch.cat([h.modality for h in halves]))
    np.testing.assert_allclose(read_log(tmp_path/'two').total.iloc[0], losses.total.item(), rtol=1e-5)
    losses.total.backward()
    for group in trainer.optimiser.param_groups: group['lr'] = learning_rate(gathered, 0)
    trainer.optimiser.step()
    one = learned(trainer.model.state_dict())
    for name, value in learned(ours).items(): torch.testing.assert_close(value, one[name], rtol=1e-3, atol=2e-4, msg=name)


def test_forecast_says_minutes_and_what_to_do():
    assert forecast(.4, 20, 'cpu').endswith('less than a minute')
    assert 'about 5 minutes' in forecast(1., 300, 'cuda') and 'Shorter' not in forecast(1., 300, 'cuda')
    assert '(2.5 hours)' in forecast(30., 300, 'cpu') and 'a GPU' in forecast(30., 300, 'cpu')
    assert 'several GPUs' in forecast(30., 300, 'cuda')


def test_forecast_comes_early(people, untouched, tmp_path, monkeypatch, capsys):
    clock = iter(range(0, 10**6, 3))                     # each look at the clock is 3 s later
    monkeypatch.setattr('idkl_nb.training.time', SimpleNamespace(perf_counter=lambda: float(next(clock))))
    fit(replace(config, epochs=1), people, tmp_path/'run')
    assert capsys.readouterr().out.count('steps to go') == 1


def test_precision_is_decided_once_and_kept(people, tmp_path, monkeypatch):
    "What was decided stands in the settings and in the log, and a resumed run keeps it, whatever the machine says then"
    asked = replace(config, precision='auto', epochs=1, batches=2)
    monkeypatch.setattr('idkl_nb.steps.this_device', lambda device: Device('cpu', 'a fast one', gain=3.))

    def stop(log):
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        fit(replace(asked, log_every=1), people, tmp_path/'run', progress=False, on_log=stop)
    monkeypatch.setattr('idkl_nb.steps.this_device', lambda device: Device('cpu', 'a slow one', gain=.1))
    _, log = resume(tmp_path/'run', people, progress=False)

    about = json.loads((tmp_path/'run'/'config.json').read_text())
    assert about['config']['precision'] == 'auto'
    assert about['precision']['used'] == 'bf16' and about['precision']['device'] == 'a fast one'
    assert set(log.precision) == {'bf16'} and precision_of(tmp_path/'run').used == 'bf16'
