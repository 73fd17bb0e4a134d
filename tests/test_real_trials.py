"Trials on a dataset: rows, files, two processes, and what a killed program leaves."

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from idkl_nb import real_trials as module
from idkl_nb.config import PRESETS
from idkl_nb.embed_command import embed_main
from idkl_nb.evaluate import evaluate_main
from idkl_nb.experiments import experiments_main, real_configs
from idkl_nb.real_trials import PAPERS, named_rows, paper_preset, real_trials, run_real_trial
from idkl_nb.training import Trainer
from idkl_nb.trial import MEASURES, read_runs
from idkl_nb.world import World
from idkl_nb.writers import write_llcm, write_regdb, write_sysu

CONFIG = replace(PRESETS['smoke'], P=2, precision='no')
SCORES = {  # columns of a row: protocol and modality of the queries
    'SYSU-MM01': {
        'all': ('sysu-all-single', 'infrared'),
        'indoor': ('sysu-indoor-single', 'infrared'),
    },
    'RegDB': {'i2v': ('regdb', 'infrared'), 'v2i': ('regdb', 'visible')},
    'LLCM': {'i2v': ('llcm', 'infrared'), 'v2i': ('llcm', 'visible')},
}


@pytest.fixture(scope='module')
def roots(tmp_path_factory):
    "A small dataset of each layout, by name"
    folder = tmp_path_factory.mktemp('datasets')
    world = World(3, height=32, width=16)
    return {
        'SYSU-MM01': write_sysu(world, folder / 'a', range(1, 4), [4], range(5, 8), images=8),
        'RegDB': write_regdb(world, folder / 'b', range(1, 7), images=2),
        'LLCM': write_llcm(world, folder / 'c', range(1, 4), range(4, 7), images=9),
    }


def asked_trials(root, preset=None, trials=()):
    "L_b and IDKL, of one seed"
    base = PRESETS[preset or paper_preset(root, trials)]
    return list(real_trials(root, real_configs('main', base), trials=trials).values())


def command(folder, root):
    "Words: four rows by two processes"
    words = f'--root {root} --only main --preset smoke --seeds 0 1 --processes 2'.split()
    return [*words, '--results', str(folder / 'results'), '--work', str(folder / 'work')]


def descendants(pid):
    "The processes that this one has started, and theirs"
    with open(f'/proc/{pid}/task/{pid}/children') as file:
        children = [int(word) for word in file.read().split()]
    return children + [number for child in children for number in descendants(child)]


def wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'waited too long'
        time.sleep(0.05)


def running(pid):
    "Whether a process is there and not a dead one that nobody has asked for"
    try:
        with open(f'/proc/{pid}/stat') as file:
            return file.read().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False


@pytest.fixture(scope='module')
def killed(roots, tmp_path_factory):
    "Four rows on SYSU-MM01 by a command that was killed after the first, and called again"
    folder = tmp_path_factory.mktemp('killed')
    words = command(folder, roots['SYSU-MM01'])
    file = folder / 'results' / 'runs.csv'
    process = subprocess.Popen([sys.executable, '-m', 'idkl_nb.experiments', *words])
    wait_for(lambda: file.exists() and len(read_runs(file)))
    workers = descendants(process.pid) if sys.platform == 'linux' else []
    process.send_signal(signal.SIGKILL)
    process.wait()

    left = file.read_bytes()
    wait_for(lambda: not any(map(running, workers)), 30)  # half of what they have at most
    experiments_main(words)
    return SimpleNamespace(folder=folder, words=words, file=file, left=left, workers=workers)


def test_a_killed_command_goes_on(killed, capsys):
    "What was computed stays, nothing is computed twice, and no process is left behind"
    text = killed.file.read_bytes()
    assert text.startswith(killed.left[: killed.left.rfind(b'\n') + 1])
    rows = pd.read_csv(killed.file)
    assert len(rows) == 4 and rows.key.is_unique
    assert sorted(rows.seed) == [0, 0, 1, 1] and set(rows.dataset) == {'SYSU-MM01'}
    # two that train, the process whose copies they are, and the tracker of resources
    assert len(killed.workers) >= 4 or sys.platform != 'linux'

    experiments_main(killed.words)
    assert '4 rows asked for, 0 of them are missing' in capsys.readouterr().out
    assert killed.file.read_bytes() == text


def test_settings_say_what_is_behind_a_row(killed):
    settings = json.loads((killed.folder / 'results' / 'settings.json').read_text())
    rows = read_runs(killed.file)
    assert set(rows.setting) == set(settings)
    table = named_rows(rows, settings, real_configs('table4', PRESETS['smoke']))
    assert set(table.index) == {(name, 1, seed) for name in ('L_b', 'IDKL') for seed in (0, 1)}
    assert not len(named_rows(rows, settings, real_configs('main', PRESETS['sysu-paper'])))


def test_the_report_reads_the_results(killed, monkeypatch):
    page = Path(__file__).resolve().parents[1] / 'nbs' / 'evidence' / 'on_real_data.ipynb'
    monkeypatch.chdir(page.parent)
    monkeypatch.setenv('IDKL_RESULTS', str(killed.folder / 'results'))
    names = {}
    for cell in json.loads(page.read_text(encoding='utf-8'))['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'code' and 'find_spec' not in source:
            exec(source, names)
            if 'fig, axes' in source and 'PUBLISHED[measure]' in source:
                dots = [line.get_xdata() for line in names['axes'][1].lines][1:]

    assert (len(names['four']), names['compared'].loc['IDKL', 'worlds']) == (4, 2)
    drawn = sorted(value for row in dots for value in row)
    assert drawn == sorted(read_runs(killed.file)['mAP all'])


def evaluated(row, root, work, folder):
    "The scores of idkl-evaluate for the run of a row"
    features, scores = folder / f'{row.key}.npz', {}
    words = f'--images {root} --run {work / "runs" / row.key} --out {features}'
    embed_main(words.split())
    for name, (protocol, query) in SCORES[row.dataset].items():
        out = folder / 'scores.json'
        words = f'--features {features} --protocol {protocol} --query {query} --root {root}'
        evaluate_main([*words.split(), '--json', str(out)])
        means = json.loads(out.read_text())['table']['mean']
        scores |= {f'{measure} {name}': means[measure] for measure in MEASURES}
    return scores


def test_rows_of_the_command_are_those_of_idkl_evaluate(killed, roots, tmp_path):
    for row in read_runs(killed.file).reset_index().to_dict('records'):
        scores = evaluated(
            SimpleNamespace(**row), roots['SYSU-MM01'], killed.folder / 'work', tmp_path
        )
        assert {name: row[name] for name in scores} == pytest.approx(scores, abs=1e-4)


@pytest.mark.parametrize('name, trial', [('RegDB', 2), ('LLCM', 1)])
def test_rows_of_other_datasets_are_those_of_idkl_evaluate(roots, name, trial, tmp_path):
    trials = (trial,) if name == 'RegDB' else ()
    asked = asked_trials(roots[name], 'smoke', trials)[1]
    asked = replace(asked, config=replace(CONFIG, seed=3))
    row = run_real_trial(asked, tmp_path, progress=False)
    assert (row['dataset'], row['trial'], row['seed'], row['steps']) == (name, trial, 3, 4)
    scores = evaluated(SimpleNamespace(**row), roots[name], tmp_path, tmp_path)
    assert {name: row[name] for name in scores} == pytest.approx(scores, abs=1e-4)
    assert not (tmp_path / 'runs' / asked.key / 'checkpoints').exists()


def stop_at(monkeypatch, number):
    "A training that breaks off before this step"
    step, count = Trainer.step, iter(range(1, 100))

    def stopping(*args, **options):
        if next(count) == number:
            raise RuntimeError('the power failed')
        return step(*args, **options)

    monkeypatch.setattr(Trainer, 'step', stopping)


def test_a_training_that_was_stopped_goes_on_and_scores_the_same(roots, tmp_path, monkeypatch):
    asked = asked_trials(roots['LLCM'], 'smoke')[1]
    asked = replace(asked, config=replace(CONFIG, save_every=1))
    whole = run_real_trial(asked, tmp_path / 'whole', progress=False)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match='power'):
        stop_at(patch, 3)
        run_real_trial(asked, tmp_path, progress=False)

    with monkeypatch.context() as patch:
        stop_at(patch, 3)  # two steps are left
        row = run_real_trial(asked, tmp_path, progress=False)
    assert {**row, 'seconds': 0} == {**whole, 'seconds': 0}

    # stopped again, after the training
    monkeypatch.setattr(Trainer, 'step', None)
    assert run_real_trial(asked, tmp_path, progress=False) == row


def test_the_paper_settings_are_the_default_and_regdb_has_ten_trials(roots):
    for name, root in roots.items():
        asked = asked_trials(root)
        assert [trial.trial for trial in asked[::2]] == list(range(1, 11 if name == 'RegDB' else 2))
        assert {trial.dataset for trial in asked} == {name}
        assert asked[1].config == PRESETS[PAPERS[name]]
        assert len({trial.setting for trial in asked}) == 2


def test_another_version_of_a_dataset_makes_other_rows(roots, tmp_path):
    world = World(3, height=32, width=16)
    other = write_sysu(world, tmp_path / 'v2', range(1, 4), [4], range(5, 9), images=2)
    keys = [{t.key for t in asked_trials(root)} for root in (roots['SYSU-MM01'], other)]
    assert not keys[0] & keys[1]


@pytest.mark.parametrize(
    'words, message',
    [
        ('--root {a} --only dial', 'choose of main, table4, figure5'),
        ('--root {a} --trials 2', '--trials is a choice of RegDB'),
        ('--root {a} --preset tiny', 'sysu-paper'),
        ('--root {a}/cam1', 'one level too high or too deep'),
    ],
)
def test_what_can_be_mended_is_said_in_a_line(roots, words, message, capsys):
    with pytest.raises(SystemExit) as end:
        experiments_main(words.format(a=roots['SYSU-MM01']).split())
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_what_would_fail_after_the_training_fails_before_it(roots, tmp_path):
    world = World(3, height=32, width=16)
    root = write_sysu(world, tmp_path / 'a', [1], [2], [3], images=2)
    os.remove(root / 'exp' / 'rand_perm_cam.mat')
    asked = asked_trials(root, 'smoke')[0]
    with pytest.raises(ValueError, match='rand_perm_cam'):
        module.prepare_real(asked, tmp_path)
    weights = replace(asked.config.model, weights='no-such-file')
    asked = asked_trials(roots['SYSU-MM01'], 'smoke')[0]
    with pytest.raises(ValueError, match='no-such-file'):
        module.prepare_real(replace(asked, config=replace(CONFIG, model=weights)), tmp_path)
    assert not (tmp_path / 'runs').exists()
