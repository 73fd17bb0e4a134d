"Scores: against a slow form in plain Python, what may come in, and what is refused."

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from sklearn.metrics import average_precision_score

from idkl_nb.metrics import rank_and_score, retrieval_scores, score_rankings

DEVICES = ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']


def slow_scores(distances, query_ids, gallery_ids, ignore, unique_ids):
    "One query after the other, with the list in hand: CMC, mAP, mINP, valid"
    length = len(np.unique(gallery_ids)) if unique_ids else len(gallery_ids)
    cmc, aps, inps = [], [], []
    for row, query, leave_out in zip(distances, query_ids, ignore):
        order = [image for image in np.argsort(row, kind='stable') if not leave_out[image]]
        listed = [gallery_ids[image] for image in order]
        right = np.array([identity == query for identity in listed])
        if not right.any():
            continue
        aps.append(average_precision_score(right, -np.arange(len(right))))
        inps.append(right.sum() / (np.flatnonzero(right).max() + 1))
        if unique_ids:
            listed = list(dict.fromkeys(listed))
        cmc.append(np.arange(length) >= listed.index(query))
    return np.mean(cmc, 0), np.mean(aps), np.mean(inps), len(aps)


@pytest.fixture
def search():
    "Arrays: distances, identities of 40 queries and 60 images, a mask; two are strangers"
    rng = np.random.default_rng(0)
    distances = rng.random((40, 60))
    query_ids = rng.integers(0, 12, 40)
    gallery_ids = rng.integers(0, 10, 60)
    return distances, query_ids, gallery_ids, rng.random((40, 60)) < 0.3


def same(scores, expected):
    cmc, mAP, mINP, valid = expected
    np.testing.assert_allclose(scores.cmc, cmc, atol=1e-12)
    assert (scores.mAP, scores.mINP) == pytest.approx((mAP, mINP), abs=1e-12)
    assert scores.valid == valid < scores.queries == 40


@pytest.mark.parametrize('unique_ids', [False, True])
@pytest.mark.parametrize('device', DEVICES)
def test_both_forms_give_the_scores_of_the_slow_form(search, device, unique_ids):
    expected = slow_scores(*search, unique_ids)
    tensors = [torch.tensor(x, device=device) for x in search]
    same(rank_and_score(*tensors, unique_ids), expected)
    same(retrieval_scores(*tensors, unique_ids, chunk=7), expected)


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize('unique_ids', [False, True])
def test_ties_and_negative_distances_keep_the_order_of_the_gallery(search, dtype, unique_ids):
    coarse = (6 * search[0]).round() / 6 - 0.4  # 7 values
    expected = slow_scores(coarse, *search[1:], unique_ids)
    tensors = [torch.tensor(coarse, dtype=dtype), *map(torch.tensor, search[1:])]
    same(rank_and_score(*tensors, unique_ids), expected)
    same(retrieval_scores(*tensors, unique_ids), expected)


@pytest.mark.parametrize('chunk', [1, 39, 4000])
def test_how_many_queries_go_together_changes_nothing(search, chunk):
    expected = retrieval_scores(*search)
    scores = retrieval_scores(*search, chunk=chunk)
    assert torch.equal(scores.cmc, expected.cmc)
    assert (scores.mAP, scores.mINP) == (expected.mAP, expected.mINP)


def test_only_the_order_of_the_distances_matters(search):
    distances, *rest = search
    assert retrieval_scores(np.exp(distances) * 100, *rest).mAP == retrieval_scores(*search).mAP


def test_a_perfect_ranking_gets_one_everywhere(search):
    _, query_ids, gallery_ids, _ = search
    perfect = retrieval_scores(query_ids[:, None] != gallery_ids, query_ids, gallery_ids)
    assert (perfect.rank(1), perfect.mAP, perfect.mINP) == (1, 1, 1)
    assert perfect.rank(10**6) == 1


@pytest.mark.parametrize('score', [rank_and_score, retrieval_scores])
def test_what_is_handed_over_stays_as_it_was(search, score):
    tensors = [torch.tensor(x) for x in search]
    copies = [x.clone() for x in tensors]
    score(*tensors, True)
    assert all(torch.equal(*both) for both in zip(tensors, copies))


@pytest.mark.parametrize('dtype', [np.uint8, np.int16, np.int32, np.int64])
def test_identities_may_be_any_whole_numbers(search, dtype):
    distances, query_ids, gallery_ids, ignore = search
    scores = retrieval_scores(
        distances, query_ids.astype(dtype), torch.tensor(gallery_ids.astype(dtype)), ignore
    )
    assert scores.mAP == retrieval_scores(*search).mAP


class OnRequest:
    "Makes its rows when asked, and knows the most it was asked for"

    def __init__(self, table):
        self.table, self.shape, self.most = table, table.shape, 0

    def __getitem__(self, rows):
        self.most = max(self.most, len(self.table[rows]))
        return self.table[rows]


def test_rows_on_request_are_as_good_as_a_table(search):
    distances, query_ids, gallery_ids, ignore = search
    distances, ignore = OnRequest(distances), OnRequest(ignore)
    scores = retrieval_scores(distances, query_ids, gallery_ids, ignore, chunk=7)
    assert torch.equal(scores.cmc, retrieval_scores(*search).cmc)
    assert distances.most == ignore.most == 7


def test_a_ranking_by_hand():
    first, ap, inp = score_rankings(torch.tensor([[0, 1, 0, 1, 0, 1], [1, 0, 0, 0, 0, 0]]).bool())
    assert first.tolist() == [2, 1]
    assert ap.tolist() == pytest.approx([(1 / 2 + 2 / 4 + 3 / 6) / 3, 1])
    assert inp.tolist() == pytest.approx([3 / 6, 1])


def with_nan(d, *rest):
    d = d.copy()
    d[30, 2] = np.nan
    return d, *rest


@pytest.mark.parametrize(
    'call, words',
    [
        (lambda d, q, g, m: retrieval_scores(d.T, q, g), 'one row a query'),
        (
            lambda d, q, g, m: retrieval_scores(*with_nan(d, q, g), chunk=7),
            'query 30 and gallery image 2 is NaN',
        ),
        (lambda d, q, g, m: retrieval_scores(d, q, g, d), 'boolean mask, got torch.float64'),
        (lambda d, q, g, m: retrieval_scores(d, q, g, m.T), r'boolean mask of shape \(40, 60\)'),
        (lambda d, q, g, m: retrieval_scores(d, q, g, chunk=0), 'chunk must be positive'),
        (lambda d, q, g, m: retrieval_scores(d, q, g, np.ones_like(m)), 'leaves out every one'),
        (lambda d, q, g, m: retrieval_scores(d, q + 99, g), 'numbered alike'),
        (lambda d, q, g, m: retrieval_scores(d[:0], q[:0], g), 'nothing to rank'),
        (lambda d, q, g, m: retrieval_scores(d, q, g).rank(0), 'count from 1'),
    ],
)
def test_what_cannot_be_scored_is_refused(search, call, words):
    with pytest.raises(ValueError, match=words):
        call(*search)


@pytest.mark.parametrize(
    'call, words',
    [
        (lambda d, q, g, m: retrieval_scores(d.tolist(), q, g), "'distances'(.|\n)*Table"),
        (lambda d, q, g, m: retrieval_scores(d, q[:, None], g), r"'query_ids'(.|\n)*i64\[40,1\]"),
        (lambda d, q, g, m: retrieval_scores(d, q, 'gallery'), "'gallery_ids'"),
        (lambda d, q, g, m: retrieval_scores(d, q, g / 2), r'f64\[60\]'),
        (lambda d, q, g, m: rank_and_score(*map(torch.tensor, (d.T, q, g))), r'f64\[60,40\]|i64'),
        (lambda d, q, g, m: score_rankings(torch.tensor(d)), r"'right'(.|\n)*f64\[40,60\]"),
    ],
)
def test_misfits_are_named(search, call, words):
    with pytest.raises(TypeCheckError, match=words):
        call(*search)
