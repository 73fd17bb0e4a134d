"Trials, their rows, and the command that computes what is missing."

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from jaxtyping import TypeCheckError

from idkl_nb.comparisons import table
from idkl_nb.config import PRESETS
from idkl_nb.diagnosis import COLUMNS, features_of, pair_distances, probe
from idkl_nb.experiments import BASE, ROWS, SWEEPS, changed, experiments_main, trials
from idkl_nb.model import IDKL
from idkl_nb.readers import read_dataset
from idkl_nb.trial import Trial, append_row, read_runs
from idkl_nb.world import World
from idkl_nb.writers import write_sysu


def test_the_rows_that_are_kept_are_found_by_their_keys():
    "A changed key would compute everything anew"
    assert trials('table4', 0)['IDKL'].key == '89be8c8cf257ea56'
    assert Trial(PRESETS['smoke'], world=3, people=(5, 1, 3)).description['people'] == [5, 1, 3]


def test_a_row_of_table_4_switches_terms_off():
    trial = trials('table4', 0)['+ ip, csa']
    assert trial.config.model.lambda_tgsa == 0
    assert trial.config.model.lambda_csa == BASE.model.lambda_csa
    start = changed(BASE, 1, weights=None, align_from=0.0)
    assert (start.model.weights, start.align_from, start.seed) == (None, 0.0, 1)


def test_unknown_experiments_and_missing_rows_are_named():
    with pytest.raises(ValueError, match='table4'):
        trials('tabel4', 0)
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
    config = changed(PRESETS['smoke'], 0, **ROWS[method])
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


def words(folder, only):
    options = dict(preset='smoke', seeds='0', only=only, results=folder / 'results')
    options['work'] = folder / 'work'
    return [str(word) for name, value in options.items() for word in (f'--{name}', value)]


def test_the_command_computes_what_is_missing(tmp_path, capsys):
    "And nothing when nothing is left to do; two processes may share the trials"
    file = tmp_path / 'results' / 'runs.csv'
    for part, rows in (('2/2', 1), ('1/2', 3), ('1/1', 3)):
        before = file.read_bytes() if file.exists() else b''
        experiments_main([*words(tmp_path, 'lambda_ip'), '--part', part])
        assert len(read_runs(file)) == rows
    assert file.read_bytes() == before
    assert set(read_runs(file).columns) >= {'world', 'mAP i2v', 'mINP v2i', 'precision', 'settings'}
    assert '3 rows asked for, 3 of them are there already' in capsys.readouterr().out
    base = PRESETS['smoke']
    keys = [replace(t, people=(5, 1, 4)).key for t in trials('lambda_ip', 0, base).values()]
    assert set(keys) == set(read_runs(file).index) and len(keys) == len(SWEEPS['lambda_ip'])


def test_the_command_diagnoses(tmp_path):
    experiments_main(words(tmp_path, 'diagnose'))
    for name, columns in COLUMNS.items():
        assert list(pd.read_csv(tmp_path / 'results' / f'{name}.csv').columns) == columns
    heat = pd.read_csv(tmp_path / 'results' / 'heat.csv')
    assert list(heat.groupby(['stage', 'feature'], sort=False).size().index) == [
        ('L_b', 'shared'),
        ('IDKL', 'shared'),
        ('IDKL', 'specific'),
        ('IDKL', 'enhanced'),
    ]
