"Re-ranking: dtypes, gradients, memory, scopes, and what cannot be ranked."

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from idkl_nb import encodings, rerank, rerank_gallery
from idkl_nb.identity import pairwise_distances
from idkl_nb.rerank import k_reciprocal, rerank_among_all

SCOPES = ('gallery', 'all')
DEVICES = ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']


def clusters(people=12, images=9, queries=4, C=8, seed=0):
    "Each person a point, each image noise around it, queries with a shift of their own"
    rng = torch.Generator().manual_seed(seed)
    centre = torch.randn(people, C, generator=rng)
    q = centre.repeat(queries, 1) + 0.8 * torch.randn(people * queries, C, generator=rng)
    q = q + 0.5 * torch.randn(C, generator=rng)
    g = centre.repeat(images, 1) + 0.8 * torch.randn(people * images, C, generator=rng)
    return q, g


def dense(query, gallery, k1, k2, lambda_value):
    "The definition, with tables of all points and Python sets; neighbours among all queries"
    points, Q = torch.cat([query, gallery]).double(), len(query)
    d = (points[:, None] - points).square().sum(2)
    scaled = d / d.amax(1, keepdim=True)
    ranks = d.fill_diagonal_(-1).argsort(dim=1, stable=True)

    def reciprocal(k):
        near = [set(row.tolist()) for row in ranks[:, : k + 1]]
        return [{j for j in near[p] if p in near[j]} for p in range(len(points))]

    halves = reciprocal(round(k1 / 2))
    V = torch.zeros_like(d)
    for p, members in enumerate(reciprocal(k1)):
        joining = [halves[q] for q in members]
        joining = [half for half in joining if 3 * len(members & half) > 2 * len(half)]
        expanded = sorted(members.union(*joining))
        V[p, expanded] = (-scaled[p, expanded]).softmax(0)
    V = torch.stack([V[ranks[p, :k2]].mean(0) for p in range(len(points))])
    s = torch.stack([torch.minimum(V[i], V[Q:]).sum(1) for i in range(Q)])
    return (1 - lambda_value) * (1 - s / (2 - s)) + lambda_value * scaled[:Q, Q:]


q, g = clusters()
q = q[:10]


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize(
    'settings', [(20, 6, 0.3), (7, 1, 0.0), (10, 10, 0.5), (1, 1, 0.3), (6, 3, 1.0)]
)
def test_both_scopes_against_the_dense_form(settings, device):
    Q, G = q.to(device), g.to(device)
    everybody = dense(q, g, *settings).float()
    alone = torch.cat([dense(one, g, *settings) for one in q[:6].split(1)]).float()
    among_all = k_reciprocal(Q, G, *settings, scope='all').cpu()
    by_itself = k_reciprocal(Q[:6], G, *settings).cpu()
    torch.testing.assert_close(among_all, everybody, rtol=0, atol=1e-5)
    torch.testing.assert_close(by_itself, alone, rtol=0, atol=1e-5)


def test_others_change_a_result_in_scope_all_alone():
    everybody, _ = clusters()
    for scope, most in dict(gallery=1e-6, all=9).items():
        change = k_reciprocal(everybody[:5], g, scope=scope)
        change = change - k_reciprocal(everybody, g, scope=scope)[:5]
        assert change.abs().max() < most
        assert scope == 'gallery' or change.abs().max() > 0.1


def test_a_query_without_others_is_the_same_in_both_scopes():
    by_itself = k_reciprocal(q, g)
    for row, one in zip(by_itself, q.split(1)):
        alone = k_reciprocal(one, g, scope='all')[0]
        torch.testing.assert_close(row, alone, rtol=0, atol=1e-6)


def test_lambda_one_gives_the_original_order():
    squared = pairwise_distances(q, g, squared=True)
    everyone = torch.cat([squared, pairwise_distances(q, q, squared=True)], 1)
    for scope, farthest in dict(gallery=squared, all=everyone).items():
        distances = k_reciprocal(q, g, lambda_value=1.0, scope=scope)
        torch.testing.assert_close(distances, squared / farthest.amax(1, keepdim=True))
        assert torch.equal(distances.argsort(1), squared.argsort(1))


@pytest.mark.parametrize('scope', SCOPES)
def test_nothing_but_the_features_matters(scope):
    "Neither the order of the gallery, nor moving, rotating, scaling, nor the slices"
    generator = torch.Generator().manual_seed(1)
    order = torch.randperm(len(g), generator=generator)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=generator))[0]
    copies = q.clone(), g.clone()
    reference = k_reciprocal(q, g, scope=scope)
    assert 0 <= reference.min() and reference.max() <= 1
    assert torch.equal(reference, k_reciprocal(q, g, scope=scope))

    same = dict(rtol=0, atol=1e-5)
    torch.testing.assert_close(k_reciprocal(q, g[order], scope=scope), reference[:, order], **same)
    moved = k_reciprocal(3 * q @ turn + 1, 3 * g @ turn + 1, scope=scope)
    torch.testing.assert_close(moved, reference, rtol=0, atol=1e-4)
    for chunk in (1, 7, 10**6):
        distances = k_reciprocal(q, g, scope=scope, chunk=chunk)
        torch.testing.assert_close(distances, reference, **same)
    assert torch.equal(q, copies[0]) and torch.equal(g, copies[1])


def test_dtypes_and_gradients():
    assert k_reciprocal(q.half(), g.half()).dtype == torch.float32
    assert k_reciprocal(q.double(), g.double()).dtype == torch.float64
    single = k_reciprocal(q.half().float(), g.half().float())
    torch.testing.assert_close(k_reciprocal(q.half(), g.half()), single)
    assert not k_reciprocal(q.clone().requires_grad_(), g).requires_grad
    whole = k_reciprocal(q, g, np.int64(20), np.int64(6), lambda_value=1)
    assert torch.equal(whole, k_reciprocal(q, g, 20, 6, lambda_value=1.0))


def test_identical_images():
    assert k_reciprocal(torch.ones(3, 4), torch.ones(30, 4)).isfinite().all()


def test_a_list_may_be_longer_than_the_gallery():
    assert k_reciprocal(q, g[:10], k1=19, scope='all').shape == (10, 10)


@pytest.mark.parametrize('scope', SCOPES)
def test_there_is_no_table_of_everybody_against_everybody(scope, monkeypatch):
    sizes = []

    def watched(a, b, **options):
        sizes.append(len(a) * len(b))
        return pairwise_distances(a, b, **options)

    for module in (encodings, rerank, rerank_gallery):
        monkeypatch.setattr(module, 'pairwise_distances', watched)
    big_q, big_g = clusters(people=100, images=20, queries=1)
    k_reciprocal(big_q[: 50 if scope == 'all' else 3], big_g, scope=scope, chunk=100)
    assert 0 < max(sizes) <= 100 * 2050


@pytest.mark.parametrize(
    'query, gallery, settings, exception, message',
    [
        (q, g[:, :5], {}, TypeCheckError, r"(?s)parameter 'gallery'.*f32\[108,5\].*G C"),
        (q, g[0], {}, TypeCheckError, r"(?s)parameter 'gallery'.*f32\[8\].*G C"),
        (q.long(), g.long(), {}, TypeCheckError, r"(?s)parameter 'query'.*i64\[10,8\].*Float"),
        (q.tolist(), g, {}, TypeCheckError, "parameter 'query'"),
        (q, g, dict(k1=20.0), TypeCheckError, r"(?s)parameter 'k1'.*20\.0"),
        (q, g, dict(k2='6'), TypeCheckError, "(?s)parameter 'k2'.*'6'"),
        (q, g, dict(chunk=None), TypeCheckError, "(?s)parameter 'chunk'.*None"),
        (q, g, dict(scope='queries'), TypeCheckError, "(?s)'queries'.*'gallery', 'all'"),
        (q[:0], g, {}, ValueError, 'nothing to rank'),
        (q.double(), g, {}, ValueError, 'one floating type'),
        (q, g.log(), {}, ValueError, 'gallery features are NaN'),
        (q, g, dict(k1=5, k2=6), ValueError, 'k2 <= k1'),
        (q, g, dict(k2=0), ValueError, '1 <= k2'),
        (q, g[:20], dict(k1=21), ValueError, 'there are 21 points'),
        (q, g[:10], dict(k1=20, scope='all'), ValueError, 'there are 20 points'),
        (q, g, dict(lambda_value=1.1), ValueError, 'between 0 and 1'),
        (q, g, dict(chunk=0), ValueError, 'chunk must be positive'),
    ],
)
def test_what_cannot_be_ranked(query, gallery, settings, exception, message):
    with pytest.raises(exception, match=message):
        k_reciprocal(query, gallery, **settings)


def test_scope_all_on_a_line():
    "One query has no others: both scopes, and the steps by themselves"
    gallery = torch.tensor([8.0, 13, 14, 17, 19, 22, 28, 29])[:, None]
    query = torch.tensor([[1.0]])
    jaccard, scaled = rerank_among_all(query, gallery, 6, 2, 4)
    blended = (0.7 * jaccard + 0.3 * scaled).float()
    for scope in SCOPES:
        torch.testing.assert_close(k_reciprocal(query, gallery, 6, 2, scope=scope), blended)
    several = torch.cat([query, query + 9.3, query + 30.4])
    for row, one in zip(k_reciprocal(several, gallery, 6, 2), several.split(1)):
        torch.testing.assert_close(row, k_reciprocal(one, gallery, 6, 2, scope='all')[0])
