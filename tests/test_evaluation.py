"Scores and protocols against loops on small cases, and the published counts of SYSU-MM01."

import io
import json
import random
from contextlib import redirect_stdout
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from idkl_nb.common import INFRARED, VISIBLE
from idkl_nb.distances import Distances
from idkl_nb.evaluate import evaluate_main
from idkl_nb.feature_files import save_features
from idkl_nb.features import FeatureTable
from idkl_nb.layouts import TRIALS
from idkl_nb.metrics import retrieval_scores
from idkl_nb.protocol_scores import join_trials
from idkl_nb.protocols import LLCM, SYSU, RegDB
from idkl_nb.records import Records
from idkl_nb.scoring import PROTOCOLS
from idkl_nb.sysu_draws import read_sysu_draws
from idkl_nb.writers import _write_draws

bounded = settings(max_examples=60, deadline=None, derandomize=True, database=None)


# Scores


def by_hand(distances, query_ids, gallery_ids, ignore, unique_ids):
    "CMC, mAP, mINP and valid queries by their definitions, one query and image after another"
    gallery, firsts, precisions, penalties = range(len(gallery_ids)), [], [], []
    for row, person, leave in zip(distances, query_ids, ignore):
        listed = [
            gallery_ids[g] for _, g in sorted((float(row[g]), g) for g in gallery if not leave[g])
        ]
        if person not in listed:
            continue
        right = [place for place, identity in enumerate(listed, 1) if identity == person]
        precisions.append(sum(n / place for n, place in enumerate(right, 1)) / len(right))
        penalties.append(len(right) / right[-1])
        if unique_ids:
            listed = list(dict.fromkeys(listed))
        firsts.append(listed.index(person) + 1)
    valid, length = len(firsts), len(set(gallery_ids)) if unique_ids else len(gallery_ids)
    if valid == 0:
        return None
    return (
        [sum(first <= k for first in firsts) / valid for k in range(1, length + 1)],
        sum(precisions) / valid,
        sum(penalties) / valid,
        valid,
    )


class Lazy:
    "A table that gives some rows when asked, and remembers the most that it was asked for"

    def __init__(self, table):
        self.table, self.shape, self.most = table, table.shape, 0

    def __getitem__(self, rows):
        self.most = max(self.most, len(self.table[rows]))
        return self.table[rows]


@st.composite
def searches(draw):
    "Distances with and without ties, identities that may be missing, pairs to ignore"
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    Q, G, people = draw(st.integers(1, 9)), draw(st.integers(1, 14)), draw(st.integers(1, 6))
    dtype, levels = (
        draw(st.sampled_from([np.float16, np.float32, np.float64, np.int64])),
        draw(st.sampled_from([1, 3, 60_000])),
    )
    distances = rng.integers(-levels, levels + 1, (Q, G)).astype(dtype)
    if draw(st.booleans()):
        distances = (distances * rng.random((Q, G))).astype(dtype)
    if dtype == np.int64:
        distances += 2**25  # neighbours that single precision cannot tell apart
    names = draw(st.sampled_from([0, 5, -3]))  # the dataset's own numbers need not start at 0
    query_ids, gallery_ids = (
        names + 2 * rng.integers(0, people, Q),
        names + 2 * rng.integers(0, people, G),
    )
    return (
        distances,
        query_ids,
        gallery_ids,
        rng.random((Q, G)) < draw(st.sampled_from([0, 0.3, 0.9])),
    )


@bounded
@given(
    case=searches(),
    unique_ids=st.booleans(),
    chunk=st.integers(1, 10),
    form=st.sampled_from([torch.as_tensor, np.asarray, Lazy]),
)
def test_scores_are_the_definitions(case, unique_ids, chunk, form):
    distances, query_ids, gallery_ids, ignore = case
    expected = by_hand(distances, query_ids.tolist(), gallery_ids.tolist(), ignore, unique_ids)

    def found(**without):
        return retrieval_scores(
            form(distances),
            query_ids,
            gallery_ids,
            **without or dict(ignore=form(ignore)),
            unique_ids=unique_ids,
            chunk=chunk,
        )

    if expected is None:
        with pytest.raises(ValueError, match='none of the'):
            found()
        return
    scores = found()
    np.testing.assert_allclose(scores.cmc, expected[0], rtol=1e-12)
    np.testing.assert_allclose((scores.mAP, scores.mINP), expected[1:3], rtol=1e-12)
    assert (scores.valid, scores.queries) == (expected[3], len(query_ids))
    if not ignore.any():
        assert (
            torch.equal(found(ignore=None).cmc, scores.cmc) and found(ignore=None).mAP == scores.mAP
        )


@bounded
@given(case=searches(), unique_ids=st.booleans(), seed=st.integers(0, 1000))
def test_scores_do_not_depend_on_names_and_order(case, unique_ids, seed):
    distances, query_ids, gallery_ids, ignore = case
    if by_hand(distances, query_ids, gallery_ids, ignore, unique_ids) is None:
        return
    rng = np.random.default_rng(seed)
    same = lambda a, b: np.testing.assert_allclose(
        [*a.cmc, a.mAP, a.mINP, a.valid], [*b.cmc, b.mAP, b.mINP, b.valid], rtol=1e-12
    )
    reference = retrieval_scores(distances, query_ids, gallery_ids, ignore, unique_ids)
    order = rng.permutation(len(query_ids))
    same(
        retrieval_scores(
            distances[order], query_ids[order], gallery_ids, ignore[order], unique_ids
        ),
        reference,
    )
    names = dict(zip(np.unique([*query_ids, *gallery_ids]), rng.permutation(1000)))
    same(
        retrieval_scores(
            distances,
            np.array([names[i] for i in query_ids]),
            np.array([names[i] for i in gallery_ids]),
            ignore,
            unique_ids,
        ),
        reference,
    )
    untied = np.argsort(
        np.argsort(distances, axis=1, kind='stable'), axis=1
    )  # the places themselves: same ranking, no ties
    order = rng.permutation(len(gallery_ids))
    same(
        retrieval_scores(
            untied[:, order], query_ids, gallery_ids[order], ignore[:, order], unique_ids
        ),
        reference,
    )


@bounded
@given(case=searches())
def test_what_strangers_and_repeats_do(case):
    distances, query_ids, gallery_ids, ignore = case
    if by_hand(distances, query_ids, gallery_ids, ignore, False) is None:
        return
    plain, unique = [
        retrieval_scores(distances, query_ids, gallery_ids, ignore, u) for u in (False, True)
    ]
    assert (plain.cmc.diff() >= 0).all() and plain.cmc[-1] == 1 and plain.rank(1) == unique.rank(1)
    assert all(unique.rank(k) >= plain.rank(k) for k in range(1, len(gallery_ids) + 1))
    assert (plain.mAP, plain.mINP) == (unique.mAP, unique.mINP)

    def with_stranger(d):
        "One more image, of nobody, in double precision: half can't tell 42,080 from 42,079"
        d = d.astype(np.float64)
        column = np.full((len(d), 1), d.min() - 1 if near else d.max() + 1)
        return retrieval_scores(
            np.hstack([d, column]),
            query_ids,
            np.append(gallery_ids, 999),
            np.hstack([ignore, np.zeros_like(column, bool)]),
        )

    for near in (False, True):
        scores = with_stranger(distances)
        if near:
            assert scores.rank(1) == 0 and scores.mAP < plain.mAP and scores.mINP < plain.mINP
        else:
            assert (scores.rank(1), scores.mAP, scores.mINP) == (
                plain.rank(1),
                plain.mAP,
                plain.mINP,
            )


def test_never_more_rows_than_a_chunk():
    rng = np.random.default_rng(0)
    distances, ignore, ids = (
        Lazy(rng.random((300, 50))),
        Lazy(rng.random((300, 50)) < 0.1),
        rng.integers(0, 9, 350),
    )
    for chunk in (1, 32, 128):
        distances.most = ignore.most = 0
        retrieval_scores(distances, ids[:300], ids[300:], ignore, chunk=chunk)
        assert distances.most == ignore.most == chunk
    wide = Lazy(
        rng.random((40, 20_000))
    )  # by itself it takes few rows of a large gallery, and all of a small one
    retrieval_scores(wide, np.arange(40), np.arange(20_000))
    retrieval_scores(distances, ids[:300], ids[300:])
    assert (wide.most, distances.most) == (16, 300)


# Protocols


@st.composite
def sightings(draw, cameras):
    "Features and records of a few people: some images in each of some (modality, camera)"
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows, people, most = [], draw(st.integers(1, 5)), draw(st.integers(1, 4))
    for identity in rng.permutation(20)[:people] + 1:
        for modality, places in cameras.items():
            for camera in places:
                for n in range(rng.integers(0, most + 1)):
                    rows.append(
                        (
                            f'cam{camera}/{identity:04d}/{modality}_{n + 1:04d}.jpg',
                            identity,
                            camera,
                            modality,
                            'test',
                        )
                    )
    for modality, places in cameras.items():
        rows.append(
            (f'cam{places[0]}/0021/{modality}_0001.jpg', 21, places[0], modality, 'test')
        )  # so that there is a query and a match
    rows = [rows[n] for n in rng.permutation(len(rows))]  # in any order
    return rng.normal(size=(len(rows), 4)).astype(np.float32), Records.from_rows('nowhere', rows)


def scores_by_hand(protocol, features, records, asks, galleries, left_out):
    "The expected table. Galleries are rows of `records`, `left_out` is a function of two rows"
    distance = lambda a, b: float(
        1
        - features[a].astype(float)
        @ features[b]
        / np.linalg.norm(features[a].astype(float))
        / np.linalg.norm(features[b].astype(float))
    )
    identity, queries, table = (
        records.identity.tolist(),
        [n for n in range(len(records)) if records.modality[n] == asks],
        [],
    )
    for gallery in galleries:
        d, leave = (
            [[distance(q, g) for g in gallery] for q in queries],
            [[left_out(q, g) for g in gallery] for q in queries],
        )
        cmc, mAP, mINP, valid = by_hand(
            d,
            [identity[q] for q in queries],
            [identity[g] for g in gallery],
            leave,
            protocol.unique_ids,
        )
        table.append(
            [
                *(100 * cmc[min(k, len(cmc)) - 1] for k in (1, 5, 10, 20)),
                100 * mAP,
                100 * mINP,
                valid,
                len(queries),
                len(gallery),
            ]
        )
    return np.array(table)


def evaluated(protocol, features, records, asks):
    queries = records.modality == asks
    features = torch.as_tensor(features)
    sides = features[queries], records[queries], features[~queries], records[~queries]
    return protocol.evaluate(*sides)


def folders(records, modality, cameras):
    "(identity, camera): rows in the order of their files, identities outside, cameras inside"

    def place(row):
        return int(records.identity[row]), int(records.camera[row])

    groups = {}
    for row in sorted(range(len(records)), key=lambda row: (*place(row), records.path[row])):
        if records.modality[row] == modality and records.camera[row] in cameras:
            groups.setdefault(place(row), []).append(row)
    return groups


@bounded
@given(
    case=sightings({VISIBLE: (1, 2, 4, 5), INFRARED: (3, 6)}),
    mode=st.sampled_from(['all', 'indoor']),
    shots=st.sampled_from([1, 10]),
    draws=st.sampled_from(['official', 'seeded']),
    unique_ids=st.booleans(),
    camera_rule=st.booleans(),
)
def test_sysu_by_hand(tmp_path_factory, case, mode, shots, draws, unique_ids, camera_rule):
    features, records = case
    root = tmp_path_factory.mktemp('sysu')
    records = Records(
        root,
        *(getattr(records, name) for name in ('path', 'identity', 'camera', 'modality', 'split')),
    )
    counts = {
        (camera, identity): len(rows)
        for (identity, camera), rows in folders(records, VISIBLE, (1, 2, 4, 5)).items()
    }
    _write_draws(root / 'exp' / 'rand_perm_cam.mat', counts, seed=3)
    permutations, groups, galleries = (
        read_sysu_draws(root),
        folders(records, VISIBLE, (1, 2) if mode == 'indoor' else (1, 2, 4, 5)),
        [],
    )
    for trial in range(TRIALS):
        random.seed(trial)  # the module's own generator, as AGW and DEEN use it
        drawn = []
        for (identity, camera), rows in groups.items():
            if draws == 'official':
                drawn += [rows[n] for n in permutations[camera, identity][trial].tolist()[:shots]]
            else:
                drawn += (
                    [random.choice(rows)]
                    if shots == 1
                    else random.sample(rows, min(shots, len(rows)))
                )
        galleries.append(drawn)
    protocol = SYSU(
        mode=mode, shots=shots, draws=draws, unique_ids=unique_ids, camera_rule=camera_rule
    )
    left_out = lambda q, g: camera_rule and records.camera[q] == 3 and records.camera[g] == 2
    expected = (
        scores_by_hand(protocol, features, records, INFRARED, galleries, left_out)
        if camera_valid(records, groups, camera_rule)
        else None
    )
    if expected is None:
        with pytest.raises(ValueError, match='none of the'):
            evaluated(protocol, features, records, INFRARED)
    else:
        np.testing.assert_allclose(
            evaluated(protocol, features, records, INFRARED).trials, expected, rtol=1e-6
        )


def camera_valid(records, groups, camera_rule):
    "Is there any query with a match?"
    queries = records.where(modality=INFRARED)
    return any(
        i == identity and not (camera_rule and c == 3 and camera == 2)
        for i, c in zip(queries.identity, queries.camera)
        for identity, camera in groups
    )


@bounded
@given(
    case=sightings({VISIBLE: (1, 2, 3), INFRARED: (4, 1, 2, 3)}),
    asks=st.sampled_from([VISIBLE, INFRARED]),
    gallery=st.sampled_from(['draw', 'all']),
    unique_ids=st.booleans(),
    camera_rule=st.booleans(),
)
def test_llcm_by_hand(case, asks, gallery, unique_ids, camera_rule):
    features, records = case
    groups, galleries = folders(records, 1 - asks, range(1, 10)), []
    for trial in range(TRIALS):
        random.seed(trial)
        galleries.append([random.choice(rows) for rows in groups.values()])
    if gallery == 'all':
        galleries = [[n for n in range(len(records)) if records.modality[n] != asks]]
    protocol = LLCM(gallery=gallery, unique_ids=unique_ids, camera_rule=camera_rule)
    left_out = lambda q, g: (
        camera_rule
        and records.camera[q] == records.camera[g]
        and records.identity[q] == records.identity[g]
    )
    np.testing.assert_allclose(
        evaluated(protocol, features, records, asks).trials,
        scores_by_hand(protocol, features, records, asks, galleries, left_out),
        rtol=1e-6,
    )


@bounded
@given(
    case=sightings({VISIBLE: (1,), INFRARED: (2,)}),
    asks=st.sampled_from([VISIBLE, INFRARED]),
    unique_ids=st.booleans(),
)
def test_regdb_by_hand(case, asks, unique_ids):
    features, records = case
    protocol = RegDB(unique_ids=unique_ids)
    found = join_trials([evaluated(protocol, features, records, asks)] * 2).trials
    expected = scores_by_hand(
        protocol,
        features,
        records,
        asks,
        [[n for n in range(len(records)) if records.modality[n] != asks]] * 2,
        lambda q, g: False,
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    'protocol, identities_once',
    [
        (SYSU(draws='seeded'), True),
        (RegDB(), False),
        (LLCM(), True),
        (LLCM(gallery='all'), True),
        (PROTOCOLS['llcm'], True),
        (PROTOCOLS['llcm-whole'], True),
    ],
)
def test_cmc_counts_as_the_published_tables(protocol, identities_once, tmp_path):
    "Each identity once, but on RegDB every image as AGW; the command can count the other way"
    rng, rows = np.random.default_rng(0), []
    places = {SYSU: 'cam{camera}', RegDB: '{spectrum}', LLCM: '{short}'}[
        type(protocol)
    ]  # folders of the dataset's layout
    for identity in range(1, 13):
        for modality, cameras in {VISIBLE: (1, 2, 4, 5), INFRARED: (3, 6)}.items():
            names = dict(spectrum=('Visible', 'Thermal')[modality], short=('vis', 'nir')[modality])
            rows += [
                (
                    f'{places.format(camera=camera, **names)}/{identity:04d}/{camera}-{n:04d}.jpg',
                    identity,
                    camera,
                    modality,
                    'test',
                )
                for camera in cameras
                for n in range(3)
            ]
    records = Records.from_rows('nowhere', rows)
    features = torch.tensor(
        rng.normal(size=(13, 8))[records.identity] + 1.5 * rng.normal(size=(len(rows), 8))
    )

    def scores(counts):
        return evaluated(
            replace(protocol, unique_ids=counts == 'identities'), features, records, INFRARED
        )

    ways = {counts: scores(counts).trials for counts in ('identities', 'images')}
    usual, other = ('identities', 'images')[:: 1 if identities_once else -1]
    assert evaluated(protocol, features, records, INFRARED).trials.equals(ways[usual])
    assert (ways['identities']['rank-5'] > ways['images']['rank-5']).all()
    for same in ('rank-1', 'mAP', 'mINP'):
        assert ways['identities'][same].equals(ways['images'][same])
    save_features(FeatureTable(features, records), tmp_path / 'f.npz')
    name = {
        SYSU: ['sysu-all-single', '--draws', 'seeded'],
        RegDB: ['regdb'],
        LLCM: ['llcm' if getattr(protocol, 'gallery', '') == 'draw' else 'llcm-whole'],
    }[type(protocol)]
    for options, counts in (([], usual), (['--cmc', usual], usual), (['--cmc', other], other)):
        with redirect_stdout(io.StringIO()) as printed:
            evaluate_main(
                [
                    '--features',
                    str(tmp_path / 'f.npz'),
                    '--protocol',
                    *name,
                    *options,
                    '--json',
                    str(tmp_path / 's.json'),
                ]
            )
        assert json.loads((tmp_path / 's.json').read_text())['trials'] == ways[counts].to_dict(
            'records'
        )
        assert f'unique_ids {counts == "identities"}' in printed.getvalue()


def test_precision_of_the_features_is_kept():
    "Nearly parallel features, with noise of 1e-4, that single precision cannot tell apart"
    rng = np.random.default_rng(0)
    rows = [
        (f'{modality}/{identity:04d}/{n}.bmp', identity, modality + 1, modality, 'test')
        for identity in range(40)
        for modality in (VISIBLE, INFRARED)
        for n in range(2)
    ]
    records = Records.from_rows('nowhere', rows)
    features = torch.tensor(
        1
        + 1e-4 * rng.normal(size=(40, 32))[records.identity]
        + 1e-6 * rng.normal(size=(len(rows), 32))
    )
    for protocol in (
        RegDB(),
        RegDB(metric='euclidean'),
        RegDB(rerank='gallery'),
        RegDB(rerank='all'),
    ):
        assert evaluated(protocol, features, records, INFRARED).trials['rank-1'][0] == 100
    distances = Distances(features[:3], features, 'cosine')
    assert distances[:].dtype == torch.float64 and distances.among([1, 2])[:].dtype == torch.float64
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.int64):
        assert (
            Distances(features[:3].to(dtype), features.to(dtype), 'cosine')[:].dtype
            == torch.float32
        )
    assert Distances(features[:3].float(), features, 'cosine')[:].dtype == torch.float64


def test_llcm_with_deens_cameras():
    "Camera 3 has visible images only, and nobody is left out for it"
    rows = [
        (
            f'test_{name}/cam{camera}/{identity:04d}/{identity:04d}_c{camera:02d}_f{n}.jpg',
            identity,
            camera,
            modality,
            'test',
        )
        for identity in range(1, 6)
        for modality, name, cameras in (
            (VISIBLE, 'vis', range(1, 10)),
            (INFRARED, 'nir', (1, 2, *range(4, 10))),
        )
        for camera in cameras
        for n in range(2)
    ]
    records = Records.from_rows('nowhere', rows)
    features = np.random.default_rng(0).normal(size=(len(rows), 8)).astype(np.float32)
    left_out = lambda q, g: (
        records.camera[q] == records.camera[g] and records.identity[q] == records.identity[g]
    )
    for asks, images in ((VISIBLE, 5 * 8), (INFRARED, 5 * 9)):
        groups, galleries = folders(records, 1 - asks, range(1, 10)), []
        assert len(groups) == images
        for trial in range(TRIALS):
            random.seed(trial)
            galleries.append([random.choice(rows) for rows in groups.values()])
        scores = evaluated(LLCM(), features, records, asks)
        assert set(scores.trials.gallery) == {images} and set(scores.trials.valid) == set(
            scores.trials.queries
        )
        np.testing.assert_allclose(
            scores.trials,
            scores_by_hand(LLCM(), features, records, asks, galleries, left_out),
            rtol=1e-6,
        )


def test_protocols_ask_for_few_rows(monkeypatch):
    rows = [
        (f'{modality}/{n}.bmp', n % 40, modality + 1, modality, 'test')
        for modality, images in ((VISIBLE, 100), (INFRARED, 8000))
        for n in range(images)
    ]
    read, getitem = [], Distances.__getitem__

    def watched(self, rows):
        read.append(len(self.query[rows]))
        return getitem(self, rows)

    monkeypatch.setattr(Distances, '__getitem__', watched)
    evaluated(
        RegDB(),
        np.random.default_rng(0).normal(size=(8100, 4)),
        Records.from_rows('nowhere', rows),
        VISIBLE,
    )
    assert sum(read) == 100 and max(read) == 32


# SYSU-MM01's counts


def sysu_counts():
    """Images of each (camera, person) such that every published count of the test set comes out.

    Who is seen where is made up: 96 people;
    55 in camera 1, 57 in camera 2, 96 in camera 4, 93 in camera 5; 58 of them in camera 1 or 2."""
    counts = {}
    for person in range(96):
        seen = {1: person < 55, 2: 1 <= person < 58, 4: True, 5: person >= 3}
        counts |= {(camera, person): 12 for camera, visible in seen.items() if visible}
        counts[6, person] = 20  # 96*20 = 1,920
        counts[3, person] = (
            20 if person < 52 else {52: 4, 53: 2, 54: 2}.get(person, 21 if person < 70 else 20)
        )  # 1,048 of people in camera 1, 835 of others
    return counts


@pytest.fixture(scope='module')
def sysu_like(tmp_path_factory):
    "Records without files, features, and the one small file that the official draw needs"
    root, names = tmp_path_factory.mktemp('sysu_counts'), 6 + 3 * np.arange(96)
    counts = {(camera, int(names[person])): n for (camera, person), n in sysu_counts().items()}
    _write_draws(root / 'exp' / 'rand_perm_cam.mat', counts, seed=0)
    records = Records.from_rows(
        root,
        [
            (
                f'cam{camera}/{identity:04d}/{n + 1:04d}.jpg',
                identity,
                camera,
                INFRARED if camera in (3, 6) else VISIBLE,
                'test',
            )
            for (camera, identity), n_images in sorted(counts.items())
            for n in range(n_images)
        ],
    )
    rng = np.random.default_rng(0)
    person, place = rng.normal(size=(400, 32)), rng.normal(size=(7, 32))
    return (
        person[records.identity] + 0.5 * place[records.camera] + rng.normal(size=(len(records), 32))
    ).astype(np.float32), records


def test_sysu_like_has_the_published_counts(sysu_like):
    _, records = sysu_like
    assert len(np.unique(records.identity)) == 96
    assert [len(records.where(camera=camera)) for camera in (3, 6)] == [1883, 1920]
    assert len(records.where(modality=INFRARED)) == 3803


@pytest.mark.parametrize('draws', ['official', 'seeded'])
@pytest.mark.parametrize(
    'mode, shots, gallery, valid',
    [
        ('all', 1, 301, 3803),
        ('all', 10, 3010, 3803),
        ('indoor', 1, 112, 2208),
        ('indoor', 10, 1120, 2208),
    ],
)
def test_sysu_counts(sysu_like, draws, mode, shots, gallery, valid):
    features, records = sysu_like
    scores = evaluated(SYSU(mode=mode, shots=shots, draws=draws), features, records, INFRARED)
    assert len(scores.trials) == 10
    assert (
        set(scores.trials.queries) == {3803}
        and set(scores.trials.gallery) == {gallery}
        and set(scores.trials.valid) == {valid}
    )
    assert (
        scores.trials['rank-1'] > 100 * 2208 / 3803
    ).all()  # were the queries without a match misses, this would be the most that there is indoors
    drawn = records.where(modality=VISIBLE)[
        SYSU(mode=mode, shots=shots, draws=draws).galleries(records.where(modality=VISIBLE))[4]
    ]
    assert len(set(drawn.path)) == gallery and set(drawn.camera) == (
        {1, 2} if mode == 'indoor' else {1, 2, 4, 5}
    )
    _, times = np.unique(np.stack([drawn.identity, drawn.camera]), axis=1, return_counts=True)
    assert set(times) == {shots}


def test_camera_rule_decides_who_is_valid(sysu_like):
    features, records = sysu_like
    without = evaluated(
        SYSU(mode='indoor', draws='seeded', camera_rule=False), features, records, INFRARED
    )
    in_camera_2_only = records.where(camera=3, identity=6 + 3 * np.arange(55, 58))
    assert set(without.trials.valid) == {2208 + len(in_camera_2_only)}


# The file of gallery draws

CELLS = {
    1: 333,
    2: 333,
    3: 533,
    4: 533,
    5: 533,
    6: 333,
}  # identities that each camera has a cell for, in the published file


@pytest.mark.parametrize('packed', [False, True])
def test_draws_in_the_form_of_the_published_file(tmp_path, packed):
    "Cells of several lengths, 10 x 0 where nobody was seen, numbers of one byte"
    rng, counts = np.random.default_rng(0), {}
    cameras, expected = np.empty((6, 1), dtype=object), {}
    for camera, people in CELLS.items():
        cell = np.empty((people, 1), dtype=object)
        for identity in range(1, people + 1):
            n = int(rng.integers(1, 41)) if identity in (7, 200, 333, 533) else 0
            cell[identity - 1, 0] = np.stack(
                [rng.permutation(n) + 1 for _ in range(TRIALS)]
            ).astype(np.uint8)  # (10, n)
            if n:
                expected[camera, identity], counts[camera, identity] = cell[identity - 1, 0], n
        cameras[camera - 1, 0] = cell
    (tmp_path / 'exp').mkdir()
    savemat(
        tmp_path / 'exp' / 'rand_perm_cam.mat', dict(rand_perm_cam=cameras), do_compression=packed
    )

    draws = read_sysu_draws(tmp_path)
    assert set(draws) == set(expected) and {
        identity for camera, identity in draws if camera in (1, 2, 6)
    } == {7, 200, 333}
    for key, draw in draws.items():
        assert draw.dtype == np.int64
        np.testing.assert_array_equal(draw, expected[key].astype(int) - 1)

    rows = [
        (
            f'cam{camera}/{identity:04d}/{n + 1:04d}.jpg',
            identity,
            camera,
            INFRARED if camera in (3, 6) else VISIBLE,
            'test',
        )
        for (camera, identity), images in counts.items()
        for n in range(images)
    ]
    records = Records.from_rows(tmp_path, rows)
    visible = records.where(modality=VISIBLE)
    for trial, gallery in enumerate(SYSU().galleries(visible)):
        drawn = [
            f'cam{camera}/{identity:04d}/{expected[camera, identity][trial, 0]:04d}.jpg'
            for identity in (7, 200, 333, 533)
            for camera in (1, 2, 4, 5)
            if (camera, identity) in counts
        ]
        assert visible[gallery].path.tolist() == drawn
    scores = evaluated(
        SYSU(), np.random.default_rng(1).normal(size=(len(rows), 4)), records, INFRARED
    )
    assert set(scores.trials.gallery) == {4 * 3 + 2}
