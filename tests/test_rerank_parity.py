"Re-ranking against numbers that the released code printed, which computes in float16 inside."

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from idkl_nb.identity import pairwise_distances
from idkl_nb.metrics import retrieval_scores
from idkl_nb.rerank import k_reciprocal

reference = np.load(Path(__file__).with_name('reference.npz'), allow_pickle=False)


def tensor(name):
    return torch.tensor(reference[f'regdb/{name}'])


@pytest.fixture(params=['ir2vis', 'vis2ir'])
def case(request):
    q, g = ('q', 'g') if request.param == 'ir2vis' else ('g', 'q')
    printed = [
        reference[f'regdb/official/{request.param}_rerank{on}/mAP_r1_r5_r10_r20'] for on in (0, 1)
    ]
    return (
        tensor(f'{q}_feat'),
        tensor(f'{g}_feat'),
        (tensor(f'{q}_ids'), tensor(f'{g}_ids')),
        printed,
    )


def percent(distances, ids):
    scores = retrieval_scores(distances, *ids, unique_ids=True)
    return 100 * np.array([scores.mAP, *[scores.rank(k) for k in (1, 5, 10, 20)]])


def test_without(case):
    query, gallery, ids, (printed, _) = case
    np.testing.assert_allclose(
        percent(pairwise_distances(query, gallery, squared=True), ids), printed, atol=1e-4
    )


def test_with_all_queries(case):
    query, gallery, ids, (_, printed) = case
    distances = k_reciprocal(query, gallery, k1=20, k2=6, lambda_value=0.3, scope='all')
    computed = percent(distances, ids)
    assert abs(computed[0] - printed[0]) < 0.1  # mAP
    np.testing.assert_allclose(
        computed[1:], printed[1:], atol=0.5001
    )  # ranks: one of 200 queries may differ


def test_lambda_one_is_without(case):
    query, gallery, ids, (printed, _) = case
    for scope in ('all', 'gallery'):
        np.testing.assert_allclose(
            percent(k_reciprocal(query, gallery, lambda_value=1.0, scope=scope), ids),
            printed,
            atol=1e-4,
        )


def test_one_query_has_no_others(case):
    query, gallery, _, _ = case
    alone = torch.cat([k_reciprocal(one, gallery, scope='all') for one in query[:5].split(1)])
    assert torch.allclose(
        k_reciprocal(query[:5], gallery, scope='gallery'), alone, rtol=0, atol=1e-6
    )
    assert not torch.allclose(
        k_reciprocal(query, gallery, scope='all')[:5], alone, rtol=0, atol=1e-3
    )


# Each query by itself: blocks of queries against one query after another


def one_after_another(query, gallery, **settings):
    "Brute force: alone, neighbours among all queries are those among the gallery and this one"
    return torch.cat(
        [k_reciprocal(one, gallery, scope='all', **settings) for one in query.split(1)]
    )


def dense(query, gallery, k1, k2, lambda_value):
    "The definition of re-ranking, for one query, with tables of all points and Python sets"
    points = torch.cat([query, gallery])
    d = (points[:, None] - points).square().sum(2)
    scaled = d / d.amax(1, keepdim=True)
    ranks = d.fill_diagonal_(-1).argsort(dim=1, stable=True).tolist()
    everybody = range(len(points))
    full, half = [
        [{j for j in ranks[p][: k + 1] if p in ranks[j][: k + 1]} for p in everybody]
        for k in (k1, round(k1 / 2))
    ]
    V = torch.zeros_like(d)
    for p in everybody:
        members = sorted(
            full[p].union(
                *[half[q] for q in full[p] if 3 * len(full[p] & half[q]) > 2 * len(half[q])]
            )
        )
        V[p, members] = (-scaled[p, members]).softmax(0)
    V = torch.stack([V[ranks[p][:k2]].mean(0) for p in everybody])
    s = torch.minimum(V[0], V[1:]).sum(1)
    return (1 - lambda_value) * (1 - s / (2 - s)) + lambda_value * scaled[0, 1:]


def people(images, queries, gap, crowd=0.0, C=16, seed=0):
    "Features of 30 people; the queries lie `gap` aside, a crowd of images in the middle of all"
    g = torch.Generator().manual_seed(seed)
    centre, aside = (
        torch.randn(30, C, generator=g, dtype=torch.float64),
        torch.randn(C, generator=g, dtype=torch.float64),
    )
    gallery, query = [
        centre.repeat(n, 1) + 0.6 * torch.randn(30 * n, C, generator=g, dtype=torch.float64)
        for n in (images, queries)
    ]
    gallery[len(gallery) - round(crowd * len(gallery)) :] *= 0.2
    return query + gap * aside, gallery


@pytest.mark.parametrize(
    'images, gap, crowd',
    [(1, 0.0, 0.0), (3, 0.0, 0.0), (3, 0.3, 0.0), (3, 3.0, 0.0), (6, 0.3, 0.2), (12, 0.1, 0.0)],
)
def test_a_block_of_queries_is_one_after_another(images, gap, crowd):
    query, gallery = people(images, 2, gap, crowd)
    expected = one_after_another(query, gallery)
    np.testing.assert_allclose(k_reciprocal(query, gallery), expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(
        k_reciprocal(query.float(), gallery.float()), expected, rtol=0, atol=1e-6
    )
    np.testing.assert_allclose(
        torch.stack([dense(one, gallery, 20, 6, 0.3) for one in query[:5].split(1)]),
        expected[:5],
        rtol=0,
        atol=1e-9,
    )


@pytest.mark.parametrize('seed', range(40))
def test_any_sizes_and_settings(seed, monkeypatch):
    "Galleries hardly larger than the lists, lists of one, no query expansion; blocks of any size"
    rng = np.random.default_rng(seed)
    k1 = int(rng.choice([1, 2, 3, 4, 5, 6, 9, 20]))
    k2 = int(rng.integers(1, k1 + 1))
    G, Q = k1 + int(rng.choice([0, 1, 2, 10, 40])), int(rng.integers(1, 12))
    gallery, query = (
        torch.tensor(rng.normal(size=(G, 3))),
        torch.tensor(rng.normal(size=(Q, 3)) + rng.choice([0, 1, 9])),
    )
    monkeypatch.setattr('idkl_nb.rerank_gallery.PAIRS', G * int(rng.integers(1, 6)))
    settings = dict(
        k1=k1, k2=k2, lambda_value=float(rng.random()), chunk=int(rng.choice([1, 7, 512]))
    )
    expected = torch.stack(
        [dense(one, gallery, k1, k2, settings['lambda_value']) for one in query.split(1)]
    )
    np.testing.assert_allclose(
        k_reciprocal(query, gallery, **settings), expected, rtol=0, atol=1e-9
    )
    np.testing.assert_allclose(
        one_after_another(query, gallery, **settings), expected, rtol=0, atol=1e-9
    )


def test_images_that_are_there_twice():
    "A query that is in the gallery, and gallery images that are the same"
    query, gallery = people(3, 1, 0.0)
    gallery = torch.cat([gallery, gallery[:5], query[:3]])
    by_itself = k_reciprocal(query, gallery)
    assert by_itself.isfinite().all() and 0 <= by_itself.min() and by_itself.max() <= 1
    assert (
        by_itself[torch.arange(3), len(gallery) - 3 + torch.arange(3)]
        < 1e-6 + by_itself[:3].amin(1)
    ).all()
    same = torch.ones(30, 4, dtype=torch.float64)
    assert torch.equal(k_reciprocal(same[:3], same), k_reciprocal(same[:1], same).expand(3, -1))


def test_a_gallery_is_looked_at_once():
    "Four hundred queries take far less than four hundred times one"
    query, gallery = people(6, 14, 0.3, C=64)

    def seconds(rerank):
        start = time.perf_counter()
        rerank()
        return time.perf_counter() - start

    blocks = min(seconds(lambda: k_reciprocal(query, gallery)) for _ in range(2)) / len(query)
    assert 5 * blocks < min(seconds(lambda: k_reciprocal(query[:1], gallery)) for _ in range(5))
