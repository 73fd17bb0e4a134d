"Distances, the gallery draws of SYSU-MM01, and what protocols refuse."

import json
import os
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from scipy.io import savemat
from torch.nn import functional as F

from idkl_nb.common import INFRARED, VISIBLE, DataError
from idkl_nb.distances import Distances, retrieval_distances
from idkl_nb.layouts import TRIALS
from idkl_nb.protocol_scores import SCORE_NAMES, join_trials
from idkl_nb.protocols import LLCM, SYSU, RegDB
from idkl_nb.readers import read_llcm, read_regdb, read_sysu
from idkl_nb.records import Records
from idkl_nb.rerank import k_reciprocal
from idkl_nb.sysu_draws import LARGEST_MAT, read_sysu_draws
from idkl_nb.world import World
from idkl_nb.writers import write_llcm, write_regdb, write_sysu

# Distances

generator = torch.Generator().manual_seed(0)
q = torch.randn(6, 5, generator=generator)
g = torch.randn(30, 5, generator=generator)


@pytest.mark.parametrize('metric', ['cosine', 'euclidean'])
def test_some_rows_and_some_images_are_those_of_the_whole_table(metric):
    d = retrieval_distances(q, g, metric)
    assert d.shape == (6, 30) and d.device.type == 'cpu'
    torch.testing.assert_close(d[2:5], d[:][2:5])
    torch.testing.assert_close(d.among([4, 0])[:], d[:][:, [4, 0]])


@pytest.mark.parametrize(
    'dtype, computed',
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.int64, torch.float32),
    ],
)
def test_double_precision_is_kept(dtype, computed):
    assert retrieval_distances(q.to(dtype), g.to(dtype))[:].dtype == computed
    assert retrieval_distances(q.to(dtype), g.double())[:].dtype == torch.float64


def test_reranked_distances_are_those_of_normalised_features():
    expected = k_reciprocal(F.normalize(q), F.normalize(g), scope='all')
    assert torch.equal(retrieval_distances(q, g, rerank='all'), expected)


@pytest.mark.parametrize(
    'gallery, options, exception, message',
    [
        (g, dict(metric='manhattan'), TypeCheckError, "(?s)'manhattan'.*'cosine', 'euclidean'"),
        (g, dict(rerank='some'), TypeCheckError, "(?s)parameter 'rerank'.*'some'"),
        (g[:, :3], {}, TypeCheckError, r"(?s)parameter 'gallery'.*f32\[30,3\].*G C"),
        (g[:12], dict(rerank='gallery'), ValueError, '20 images; .* a query are 13'),
    ],
)
def test_distances_that_cannot_be_computed(gallery, options, exception, message):
    with pytest.raises(exception, match=message):
        retrieval_distances(q, gallery, **options)


def test_an_unknown_metric_of_a_table():
    with pytest.raises(TypeCheckError, match="(?s)parameter 'metric'.*'manhattan'"):
        Distances(q, g, 'manhattan')


# The gallery draws of SYSU-MM01


def cells(draw):
    "This draw for the second of two people, in each of six cameras"
    cameras = np.empty((6, 1), dtype=object)
    for camera in range(6):
        cameras[camera, 0] = np.empty((2, 1), dtype=object)
        cameras[camera, 0][:, 0] = np.empty((10, 0)), draw
    return cameras


@pytest.fixture
def file(tmp_path):
    "Where the draws lie below `tmp_path`"
    (tmp_path / 'exp').mkdir()
    return tmp_path / 'exp' / 'rand_perm_cam.mat'


rng = np.random.default_rng(0)
order = np.stack([rng.permutation(3) + 1 for _ in range(TRIALS)])  # (10, 3), from 1


@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float64])
def test_draws_are_read(file, tmp_path, dtype, packed):
    "Whatever else the file holds, and whichever numbers it holds them in"
    others = dict(other=np.arange(3), words='words')
    savemat(file, others | dict(rand_perm_cam=cells(order.astype(dtype))), do_compression=packed)
    draws = read_sysu_draws(tmp_path)
    assert set(draws) == {(camera, 2) for camera in range(1, 7)}
    assert draws[3, 2].dtype == np.int64
    np.testing.assert_array_equal(draws[3, 2], order - 1)


@pytest.mark.parametrize(
    'draw, message',
    [
        (order[:9], r'shape \(9, 3\)'),
        (order + 1, 'camera 1, identity 2'),
        (order.astype(complex), 'found complex128'),
        (cells(order), 'found object of shape'),
        (np.array(['words']), 'expected 10 permutations'),
        (dict(a=1), r'rand_perm_cam, .* without structs; of that kind it has \[\]'),
    ],
)
def test_draws_that_are_none(file, tmp_path, draw, message):
    savemat(file, dict(rand_perm_cam=cells(draw)))
    with pytest.raises(DataError, match=message):
        read_sysu_draws(tmp_path)


def test_another_variable_is_named(file, tmp_path):
    savemat(file, dict(cell=cells(order), other=np.arange(3)))
    with pytest.raises(
        DataError, match=r"variable rand_perm_cam, .* of that kind it has \['cell', 'other'\]"
    ):
        read_sysu_draws(tmp_path)


def test_structs_for_cells(file, tmp_path):
    savemat(file, dict(rand_perm_cam=dict(a=1)))
    with pytest.raises(DataError, match=r'without structs; of that kind it has \[\]'):
        read_sysu_draws(tmp_path)


MODERN = b'MATLAB 7.3 MAT-file'.ljust(124) + b'\0\2IM' + bytes(400)


@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize('damage', ['empty', 'page', 100, 200, 'half', 'modern'])
def test_damage_is_one_sentence(file, tmp_path, damage, packed):
    savemat(file, dict(rand_perm_cam=cells(order)), do_compression=packed)
    whole = file.read_bytes()
    contents = dict(empty=b'', page=b'<html>' * 99, half=whole[: len(whole) // 2], modern=MODERN)
    file.write_bytes(whole[:damage] if isinstance(damage, int) else contents[damage])
    with pytest.raises(DataError, match='not a readable .mat file .*save it with -v7'):
        read_sysu_draws(tmp_path)


def test_a_file_that_is_far_too_large_is_not_read(file, tmp_path):
    savemat(file, dict(rand_perm_cam=cells(order)))
    os.truncate(file, LARGEST_MAT + 1)
    with pytest.raises(DataError, match='134,217,729 bytes'):
        read_sysu_draws(tmp_path)


def test_no_file_says_where_there_is_one(tmp_path):
    with pytest.raises(DataError, match='missing. .*evaluation/data_split'):
        read_sysu_draws(tmp_path)


# Protocols


def features_of(records, seed=0):
    "Noise around each person's own vector, with a camera's own shift"
    generator = torch.Generator().manual_seed(seed)
    person = torch.randn(100, 16, generator=generator)
    place = torch.randn(10, 16, generator=generator)
    noise = 1.6 * torch.randn(len(records), 16, generator=generator)
    where = np.where(records.camera == 3, 2, records.camera)
    return person[records.identity] + 0.8 * place[where] + noise


def sides_of(records, query=INFRARED):
    "What `evaluate` takes, with queries of this modality"
    asks = records.modality == query
    features = features_of(records)
    return features[asks], records[asks], features[~asks], records[~asks]


@pytest.fixture(scope='module')
def roots(tmp_path_factory):
    folder, world = tmp_path_factory.mktemp('data'), World(height=32, width=16)
    return dict(
        sysu=write_sysu(world, folder / 'sysu', [1], [2], range(3, 23), images=48),
        regdb=write_regdb(world, folder / 'regdb', range(1, 13), images=4),
        llcm=write_llcm(world, folder / 'llcm', [1], range(2, 12), images=18),
    )


@pytest.fixture(scope='module')
def sysu(roots):
    return sides_of(read_sysu(roots['sysu']).where(split='test'))


@pytest.mark.parametrize(
    'options, gallery',
    [({}, 20 * 4), (dict(shots=10), 20 * 4 * 10), (dict(mode='indoor'), 20 * 2)],
)
def test_sizes_of_the_draws(sysu, options, gallery):
    trials = SYSU(**options).evaluate(*sysu).trials
    assert trials.gallery.tolist() == [gallery] * 10
    assert trials['rank-1'].std() > 0


def test_the_official_draw_by_hand(sysu, roots):
    permutations, records = read_sysu_draws(roots['sysu']), sysu[3]
    for trial, drawn in enumerate(SYSU().galleries(records)):
        paths = records[drawn].where(identity=7, camera=4).path
        assert paths.tolist() == [f'cam4/0007/{permutations[4, 7][trial, 0] + 1:04d}.jpg']


@pytest.mark.parametrize('trial', range(TRIALS))
def test_the_seeded_draw_is_that_of_agw(sysu, roots, trial):
    random.seed(trial)
    places = [(identity, camera) for identity in range(3, 23) for camera in (1, 2, 4, 5)]
    folders = [roots['sysu'] / f'cam{camera}' / f'{identity:04d}' for identity, camera in places]
    files = [random.choice(sorted(folder.glob('*.jpg'))) for folder in folders]
    drawn = SYSU(draws='seeded').galleries(sysu[3])[trial]
    expected = [file.relative_to(roots['sysu']).as_posix() for file in files]
    assert sysu[3].path[drawn].tolist() == expected


def test_queries_without_a_match_are_counted(sysu):
    Q, Qr, G, Gr = sysu
    seen = ~((Gr.identity < 8) & (Gr.camera == 1))
    trials = SYSU(mode='indoor', draws='seeded').evaluate(Q, Qr, G[seen], Gr[seen]).trials
    without_match = Qr.where(identity=range(3, 8), camera=3)
    assert trials.queries[0] - trials.valid[0] == len(without_match) > 0

    six = Qr.camera == 6  # stands elsewhere
    trials = SYSU(mode='indoor', draws='seeded').evaluate(Q[six], Qr[six], G[seen], Gr[seen]).trials
    assert (trials.valid == trials.queries).all()


def test_the_order_handed_over_does_not_matter(sysu):
    Q, Qr, G, Gr = sysu
    shuffle = torch.randperm(len(Gr), generator=torch.Generator().manual_seed(0))
    usual = SYSU().evaluate(*sysu).trials
    shuffled = SYSU().evaluate(Q, Qr, G[shuffle], Gr[shuffle.numpy()]).trials
    assert shuffled.gallery.tolist() == usual.gallery.tolist()
    measures = [*SCORE_NAMES]
    np.testing.assert_allclose(shuffled[measures], usual[measures], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    'change, exception, message',
    [
        (lambda Q, Qr, G, Gr: (G, Gr, Q, Qr), ValueError, 'asks from infrared to visible'),
        (lambda Q, Qr, G, Gr: (Q, Qr, G[:-1], Gr), ValueError, 'gallery: .*one row a record'),
        (lambda Q, Qr, G, Gr: (Q, Qr, Q, Qr), ValueError, 'both infrared'),
        (lambda Q, Qr, G, Gr: (Q, Qr, G[1:], Gr[1:]), ValueError, 'all visible test images'),
        (lambda Q, Qr, G, Gr: (Q[:0], Qr[:0], G, Gr), ValueError, 'query: no images'),
        (
            lambda Q, Qr, G, Gr: (Q[:, :3], Qr, G, Gr),
            TypeCheckError,
            r"(?s)'gallery_features'.*f32\[960,16\].*C=3",
        ),
        (
            lambda Q, Qr, G, Gr: (Q, Qr, G.tolist(), Gr),
            TypeCheckError,
            "parameter 'gallery_features'",
        ),
    ],
)
def test_sides_that_do_not_fit(sysu, change, exception, message):
    with pytest.raises(exception, match=message):
        SYSU().evaluate(*change(*sysu))


def test_both_modalities_on_one_side(sysu, roots):
    records = read_sysu(roots['sysu']).where(split='test')
    with pytest.raises(ValueError, match='query: both modalities'):
        SYSU().evaluate(features_of(records), records, *sysu[2:])


@pytest.mark.parametrize(
    'make, exception, message',
    [
        (lambda: SYSU(mode='outdoor'), TypeCheckError, "(?s)'outdoor'.*'all', 'indoor'"),
        (lambda: SYSU(shots=2), TypeCheckError, r"(?s)parameter 'shots'.*2.*\[1, 10\]"),
        (lambda: SYSU(draws='own'), TypeCheckError, "(?s)'own'.*'official', 'seeded'"),
        (lambda: SYSU(metric='l2'), TypeCheckError, "(?s)'l2'.*'cosine', 'euclidean'"),
        (lambda: replace(SYSU(), rerank='some'), TypeCheckError, "(?s)'some'.*'gallery', 'all'"),
        (lambda: LLCM(gallery='some'), TypeCheckError, "(?s)'some'.*'draw', 'all'"),
        (lambda: RegDB(trial=11), ValueError, 'trials 1 to 10'),
        (lambda: RegDB(trial='1'), TypeCheckError, "(?s)parameter 'trial'.*'1'"),
        (lambda: join_trials([]), ValueError, 'no scores'),
    ],
)
def test_settings_that_there_are_not(make, exception, message):
    with pytest.raises(exception, match=message):
        make()


def regdb_scores(roots, trial, query=VISIBLE):
    records = read_regdb(roots['regdb'], trial).where(split='test')
    return RegDB(trial=trial).evaluate(*sides_of(records, query))


def test_trials_of_regdb_are_joined(roots):
    ten = join_trials([regdb_scores(roots, trial) for trial in range(1, 11)])
    assert len(ten.trials) == 10 and ten.about['trials'] == list(range(1, 11))
    assert ten.about['direction'] == 'visible to infrared'
    other = regdb_scores(roots, 2, INFRARED)
    assert other.about['direction'] == 'infrared to visible'
    with pytest.raises(ValueError, match='different protocols'):
        join_trials([regdb_scores(roots, 1), other])


def test_training_images_are_not_tested_on(roots):
    with pytest.raises(ValueError, match='people it has seen'):
        RegDB().evaluate(*sides_of(read_regdb(roots['regdb'], 1), VISIBLE))


def test_galleries_of_llcm(roots):
    sides = sides_of(read_llcm(roots['llcm']).where(split='test'), VISIBLE)
    drawn, whole = LLCM().evaluate(*sides), LLCM(gallery='all').evaluate(*sides)
    assert drawn.trials.gallery.tolist() == [10 * 9] * 10
    assert whole.trials.gallery.tolist() == [10 * 18] and len(whole.table()) == 1
    easy = LLCM(gallery='all', camera_rule=False).evaluate(*sides)
    assert easy.trials['rank-1'][0] > whole.trials['rank-1'][0]


def test_scores_say_what_they_measure(sysu):
    scores = SYSU(version='synthetic').evaluate(*sysu)
    written = json.loads(json.dumps(scores.to_dict()))
    assert written['about']['rerank'] is None
    assert set(written['trials'][0]) >= set(SCORE_NAMES) | {'valid', 'queries', 'gallery'}
    for words in ('infrared to visible', 'rerank None', 'version synthetic', '10 trials'):
        assert words in str(scores)


def test_one_trial_has_no_spread(roots):
    records = read_regdb(roots['regdb'], 1).where(split='test')
    scores = RegDB().evaluate(*sides_of(records))
    assert scores.table().index.tolist() == ['mean'] and '1 trial,' in str(scores)
    assert isinstance(records, Records)
