"Trials, their rows, and the command that computes what is missing."

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from jaxtyping import TypeCheckError

from idkl_nb.comparisons import table
from idkl_nb.computing import compute
from idkl_nb.config import PRESETS
from idkl_nb.diagnosis import COLUMNS, features_of, pair_distances, probe
from idkl_nb.experiment_rows import BASE, LONG, OFF, ROWS, changed
from idkl_nb.experiments import EXPERIMENTS, Comparison, experiments_main, trials
from idkl_nb.model import IDKL
from idkl_nb.readers import read_dataset
from idkl_nb.stages import stages_main
from idkl_nb.trial import Trial, append_row, note_settings, read_runs
from idkl_nb.warm_start import WarmStart
from idkl_nb.world import World
from idkl_nb.writers import write_sysu

RESULTS = Path(__file__).parents[1] / 'nbs' / 'results'


def test_every_row_that_is_kept_belongs_to_an_experiment():
    "A changed key would compute everything anew"
    known = {trial.key for name in EXPERIMENTS for trial in trials(name).values()}
    rows = read_runs(RESULTS / 'runs.csv')
    assert set(rows.index) <= known
    assert set(rows.setting) <= set(json.loads((RESULTS / 'settings.json').read_text()))


def test_settings_are_chosen_by_the_rows_of_the_tuning():
    "The preset and LONG are what tuning on worlds 0 and 1 gave"
    runs = read_runs(RESULTS / 'runs.csv')
    for tuning, base in (
        ('harness', LONG),
        ('own', LONG),
        ('harness, new start', BASE),
        ('own, new start', BASE),
    ):
        mAP = table(tuning, runs).mAP.groupby('name').mean()
        rows = EXPERIMENTS[tuning].rows
        assert set(mAP.index) == set(rows)
        chosen = {name: value for name, value in rows[mAP.idxmax()].items() if name not in OFF}
        chosen |= {
            name: value for name, value in rows[mAP.idxmax()].items() if value and name in OFF
        }
        assert changed(base, **chosen) == base, (tuning, mAP.idxmax())


def test_worlds_of_tuning_and_test_never_meet():
    tuning = {name for name in EXPERIMENTS if name.startswith(('harness', 'own'))}
    tuned_on = {world for name in tuning for world in EXPERIMENTS[name].worlds}
    tested_on = {w for name in set(EXPERIMENTS) - tuning for w in EXPERIMENTS[name].worlds}
    assert tuned_on == {0, 1}
    assert not tuned_on & tested_on
    assert not (tuned_on | tested_on) & set(WarmStart().worlds)


def test_all_settings_count_and_so_do_the_weights_of_the_start(tmp_path):
    trial = Trial(PRESETS['smoke'], world=3, people=(5, 1, 3))
    assert trial.settings['config']['K'] == PRESETS['smoke'].K
    file = tmp_path / 'start.safetensors'
    settings = set()
    for content in (b'1', b'2'):
        file.write_bytes(content)
        config = changed(PRESETS['smoke'], weights=str(file))
        settings.add(replace(trial, config=config).setting)
    assert len(settings) == 2


def test_a_row_of_table_4_switches_terms_off():
    config = changed(BASE, **ROWS['+ ip, csa'])
    assert config.model.lambda_tgsa == config.model.lambda_mdr == 0
    assert config.model.lambda_csa == BASE.model.lambda_csa
    start = changed(BASE, weights=None, align_from=0.0, seed=1)
    assert (start.model.weights, start.align_from, start.seed) == (None, 0.0, 1)


def test_the_way_begins_at_the_paper_and_ends_at_the_settings():
    paper = changed(LONG, **EXPERIMENTS['way'].rows['as written'])
    model = paper.model
    assert (model.reduction, model.stop_gradient, paper.align_from) == ('sum', False, 0)
    assert (model.lambda_ip, model.lambda_tgsa) == (0.1, 0.6)
    assert (model.lambda_csa, model.lambda_mdr) == (0.8, 1.0)
    assert EXPERIMENTS['way'].rows['… + channel augmentation'] == {}


def test_unknown_experiments_and_missing_rows_are_named():
    with pytest.raises(ValueError, match='table4'):
        trials('tabel4')
    with pytest.raises(ValueError, match='make experiments ONLY=dial'):
        table('dial', pd.DataFrame())


def test_there_may_be_no_rows(tmp_path):
    assert len(read_runs(tmp_path / 'none.csv')) == 0
    (tmp_path / 'torn.csv').write_text('key,x')  # the power failed in the first line
    assert len(read_runs(tmp_path / 'torn.csv')) == 0
    append_row(tmp_path / 'torn.csv', dict(key='a', x=1))
    assert read_runs(tmp_path / 'torn.csv').x.to_dict() == dict(a=1)


@pytest.fixture(scope='module')
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp('world') / 'w'
    world = World(3, height=64, width=32)
    write_sysu(world, folder, range(1, 3), [6], range(7, 10), images=2)
    return read_dataset(folder).where(split='test')


@pytest.mark.parametrize('method', ['L_b', 'IDKL'])
def test_features_are_of_length_one_and_named(records, method):
    config = changed(PRESETS['smoke'], **ROWS[method])
    features = features_of(IDKL(config.model, 6), records, config)
    names = ['shared', 'specific'] + ['purified'] * (method == 'IDKL')
    assert list(features) == names
    for f in features.values():
        assert f.shape == (len(records), 256)
        assert torch.allclose(f.norm(dim=1), torch.ones(len(records)), atol=1e-5)


def test_distances_and_probes_want_a_row_for_each_image(records):
    f = torch.nn.functional.normalize(torch.randn(len(records), 4))
    spread = pair_distances(f, records, np.linspace(0, 2, 11))
    assert len(spread) == 4 * 10
    with pytest.raises(TypeCheckError, match='labels'):
        probe(f, records.modality[1:], records.identity)


def words(folder, **options):
    options |= dict(preset='smoke', results=folder / 'results', work=folder / 'work')
    return [str(word) for name, value in options.items() for word in (f'--{name}', value)]


def test_the_command_computes_what_is_missing(tmp_path, capsys):
    "And nothing when nothing is left to do"
    file = tmp_path / 'results' / 'runs.csv'
    for _ in range(2):
        before = file.read_bytes() if file.exists() else b''
        experiments_main(words(tmp_path, only='readme', processes=2))
    assert file.read_bytes() == before
    rows = read_runs(file)
    assert len(rows) == 2 and rows.commit.notna().all()
    assert set(rows.columns) >= {'world', 'mAP i2v', 'mINP v2i', 'precision', 'device', 'threads'}
    assert '2 rows asked for, 0 of them are missing' in capsys.readouterr().out
    own = trials('readme', PRESETS['smoke'], (5, 1, 4)).values()
    assert {trial.key for trial in own} == set(rows.index)


def test_a_trial_that_fails_is_named_and_hinders_no_other(tmp_path):
    rows = {'fails': dict(P=50), 'works': dict(OFF, method='untrained')}
    few = Comparison(rows, worlds=(7,)).trials(PRESETS['smoke'], (5, 1, 4))
    with pytest.raises(RuntimeError, match='1 trials failed'):
        compute(list(few.values()), tmp_path / 'results', tmp_path / 'work')
    assert read_runs(tmp_path / 'results' / 'runs.csv').method.tolist() == ['untrained']


def test_settings_are_written_down_once(tmp_path):
    trial = Trial(PRESETS['smoke'], world=3)
    for world in (3, 4):
        note_settings(tmp_path / 'settings.json', replace(trial, world=world))
    known = json.loads((tmp_path / 'settings.json').read_text())
    assert known == {trial.setting: trial.settings}


def test_the_stages_are_looked_at(tmp_path):
    stages_main(words(tmp_path))
    for name, columns in COLUMNS.items():
        assert list(pd.read_csv(tmp_path / 'results' / f'{name}.csv').columns) == columns
    heat = pd.read_csv(tmp_path / 'results' / 'heat.csv')
    assert list(heat.groupby(['stage', 'feature'], sort=False).size().index) == [
        ('L_b', 'shared'),
        ('IDKL', 'shared'),
        ('IDKL', 'specific'),
        ('IDKL', 'enhanced'),
    ]
