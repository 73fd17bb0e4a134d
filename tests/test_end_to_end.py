"The whole road, small: draw, write, read, train, save, load, embed, score."

import os
import re
from dataclasses import fields, replace
from itertools import product
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from idkl_nb.assembly import BASELINE, IDKLConfig
from idkl_nb.common import INFRARED, VISIBLE
from idkl_nb.config import PRESETS
from idkl_nb.end_to_end import distances, evaluate, methods
from idkl_nb.examples import whole_objective
from idkl_nb.features import embed
from idkl_nb.records import Records
from idkl_nb.run_folder import load_run
from idkl_nb.runs import data, experiment, new_run
from idkl_nb.training import fit
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
    again, config = load_run(tmp_path / 'run')
    features = features_of(again, test)
    assert torch.equal(features, features_of(model, test))
    scores = evaluate(features, test)
    assert list(scores.index) == ['infrared to visible', 'visible to infrared']
    assert scores['mAP'].between(0, 100).all()


def test_training_learns_identities_it_will_not_be_asked_about(tmp_path):
    "A short training beats chance on unseen people"
    # the one that the pictures show, trained from random weights by this very code
    model, _, config, train, test = whole_objective(os.environ.get('IDKL_RUNS', tmp_path))
    assert not set(train.identity) & set(test.identity)
    table = embed(model.embedder(), test, config.height, config.width, progress=False)
    scores = evaluate(table.features, test)
    # 44 % after 160 steps, 13 % before; chance is 12.5 %
    assert scores['rank-1'].mean() > 2 * scores['chance'].mean(), scores


def test_unfinished_run_is_not_loaded(tmp_path):
    run = new_run('smoke', tmp_path)
    with pytest.raises(FileNotFoundError, match='does not hold a run'):
        load_run(run)


def test_the_two_methods_differ_in_the_baseline_s_settings_alone():
    both = methods(PRESETS['embedded'])
    assert both['IDKL'] == PRESETS['embedded']
    assert replace(both['L_b'], model=both['IDKL'].model) == both['IDKL']
    changed = set()
    for field in fields(IDKLConfig):
        values = [getattr(config.model, field.name) for config in both.values()]
        if values[0] != values[1]:
            changed.add(field.name)
    assert changed == set(BASELINE)


def records_of_four():
    "Two people, two images of each in each modality, but the first visible one"
    rows = []
    for n, (identity, modality) in enumerate(
        product((1, 2), (VISIBLE, INFRARED, VISIBLE, INFRARED))
    ):
        rows.append((f'{n}.jpg', identity, 1 + 2 * modality, modality, 'test'))
    return Records.from_rows('x', rows[1:])


def test_distances_have_a_row_for_each_query_and_a_column_for_each_image_of_the_gallery():
    records = records_of_four()
    features = torch.eye(2)[torch.as_tensor(records.identity) - 1]
    shapes = [tuple(distances(features, records, query).shape) for query in (INFRARED, VISIBLE)]
    assert shapes == [(4, 3), (3, 4)]
    scores = evaluate(features, records)
    assert scores[['rank-1', 'mAP', 'mINP']].to_numpy() == pytest.approx(100.0)
    assert scores.queries.tolist() == [4, 3] and scores.gallery.tolist() == [3, 4]
    assert scores.chance.tolist() == pytest.approx([50.0, 50.0])


def test_features_of_another_shape_are_refused():
    with pytest.raises(TypeCheckError, match='features'):
        evaluate(torch.zeros(7), records_of_four())
    with pytest.raises(TypeCheckError, match='features'):
        distances(torch.zeros(7, 2, dtype=torch.int64), records_of_four(), VISIBLE)


def chapter():
    "The Markdown of the committed notebook, and the lines that it printed"
    path = Path(__file__).resolve().parents[1] / 'nbs' / '13_end_to_end.ipynb'
    cells = nbformat.read(path, 4).cells
    prose = ' '.join(cell.source for cell in cells if cell.cell_type == 'markdown')
    outputs = [out for cell in cells for out in cell.get('outputs', [])]
    return prose, ''.join(out.get('text', '') for out in outputs).splitlines()


def numbers_after(lines, start):
    "Numbers of the lines that begin so"
    rows = [line for line in lines if re.match(start, line)]
    return [[float(x) for x in re.findall(r'(?<= )-?\d+\.?\d*', row)] for row in rows]


def test_the_text_is_about_the_losses_of_its_own_run():
    prose, printed = chapter()
    before, end = [numbers_after(printed, rf'{epoch}  +\d')[0] for epoch in (2, 7)]
    assert f'({before[0]:.2f} and {before[1]:.2f})' in prose and abs(before[0] - before[1]) < 0.05
    assert f'{end[1]:.2f} with IDKL and {end[0]:.2f} without' in prose and end[1] > end[0] + 0.1
    assert f'({end[3]:.2f} against {end[2]:.2f})' in prose and abs(end[3] - end[2]) < 0.05
    assert f'{end[4]:.2f} with either' in prose and end[4] == end[5] < 3 * np.log(2)


def test_the_text_is_about_the_scores_of_its_own_run():
    prose, printed = chapter()
    alone, reranked = np.array(numbers_after(printed, ' *(L_b|IDKL) (infra|visible)')).reshape(
        2, 4, 9
    )
    gain = alone[2:] - alone[:2]  # (directions, scores)
    assert (abs(alone[:, 0] - 90) < 7).all()  # nine of ten
    assert f'{gain[0, 0]:.1f} and {gain[1, 0]:.1f} points of rank-1' in prose
    assert f'{gain[0, 4]:.1f} and {gain[1, 4]:.1f} of mAP' in prose
    assert f'behind by {-gain[1, 5]:.1f} in one' in prose and gain[0, 5] > 0
    assert (
        f'(mAP {reranked[2, 4]} against {reranked[0, 4]})' in prose
        and reranked[2, 4] < reranked[0, 4]
    )


def test_the_text_is_about_the_mistakes_of_its_own_run():
    prose, printed = chapter()
    right = [
        int(re.search(r'(\d) of 6 right', line)[1]) for line in printed if 'of 6 right' in line
    ]
    assert right == [6, 6, 0, 6]

    wrong = {line[:4]: line for line in printed if 'wrong at rank 1' in line}
    for line in wrong.values():
        assert 'person 213 12, person 237 12, person 212' in line
    total = int(re.match(r'IDKL: (\d+)', wrong['IDKL'])[1])
    worst = sum(map(int, re.findall(r'person \d+ (\d+)', wrong['IDKL'])))
    assert f"make {worst} of IDKL's {total} mistakes" in prose
