"The whole road, small: draw, write, read, train, save, load, embed, score."

from dataclasses import replace

import numpy as np
import pytest
import torch

from idkl_nb.end_to_end import evaluate
from idkl_nb.features import embed
from idkl_nb.readers import read_dataset
from idkl_nb.runs import data, experiment, new_run
from idkl_nb.steps import PRESETS
from idkl_nb.training import fit, load
from idkl_nb.world import World
from idkl_nb.writers import write_llcm, write_regdb, write_sysu

tiny = replace(PRESETS['smoke'], epochs=1)


def features_of(model, records):
    return embed(model.embedder(), records, tiny.height, tiny.width, progress=False).features


def layouts(folder):
    "One dataset of each layout, 8 people or so"
    return dict(
        sysu=write_sysu(World(), folder / 'sysu', range(1, 5), [5], range(6, 9), images=4),
        regdb=write_regdb(World(), folder / 'regdb', range(1, 9), images=4),
        llcm=write_llcm(World(), folder / 'llcm', range(1, 6), range(6, 9), images=9),
    )


@pytest.mark.parametrize('layout', ['sysu', 'regdb', 'llcm'])
def test_every_layout_trains_and_evaluates(layout, tmp_path):
    records = data(experiment(str(layouts(tmp_path)[layout])), tmp_path)
    training, test = records.where(split=('train', 'val')), records.where(split='test')
    model, log = fit(replace(tiny, P=2), training, tmp_path / 'run', progress=False)
    assert np.isfinite(log.total).all()
    again, config = load(tmp_path / 'run')
    features = features_of(again, test)
    assert torch.equal(features, features_of(model, test))
    scores = evaluate(features, test)
    assert list(scores.index) == ['infrared to visible', 'visible to infrared']
    assert scores['mAP'].between(0, 100).all()


def test_training_learns_identities_it_will_not_be_asked_about(tmp_path):
    "A short training beats chance on unseen people"
    records = read_dataset(
        write_sysu(World(), tmp_path / 'data', range(1, 81), [81], range(82, 98), images=8)
    )
    embedded = PRESETS['embedded']
    config = replace(
        embedded,
        model=replace(embedded.model, weights=None),
        epochs=6,
        batches=25,
        milestones=(5,),
        align_from=2,
    )
    model, _ = fit(config, records.where(split=('train', 'val')), tmp_path / 'run', progress=False)
    test = records.where(split='test')
    scores = evaluate(features_of(model, test), test)
    assert scores['rank-1'].mean() > 2 * scores['chance'].mean(), (
        scores
    )  # three seeds gave 17 % after 100 steps; chance is 6 %


def test_unfinished_run_is_not_loaded(tmp_path):
    run = new_run('smoke', tmp_path)
    with pytest.raises(FileNotFoundError, match='does not hold a run'):
        load(run)
