"The fast form of the scores gives the numbers of the plain one."

import numpy as np
import pytest
import torch

from idkl_nb.fast_scores import (
    ByIdentity,
    identities_before,
    ranking_keys,
    read_rows,
    score_queries,
    sort_rows,
)
from idkl_nb.metrics import rank_and_score, retrieval_scores

DEVICES = ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
ZOO = [0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, torch.inf, 1.0, -3e38, 3e38, 1 + 2**-23, 0.5]


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', DTYPES)
def test_keys_are_in_the_order_of_a_stable_sort(dtype, device):
    distances = torch.tensor([ZOO], device=device).to(dtype)
    keys = ranking_keys(distances)
    assert torch.equal(keys.argsort(1), distances.argsort(dim=1, stable=True))
    assert keys.unique().numel() == distances.numel()


@pytest.mark.parametrize('device', DEVICES)
def test_rows_are_sorted_one_by_one(device):
    keys = torch.randint(-(2**62), 2**62, (5, 300), device=device)
    before = keys.clone()
    assert torch.equal(sort_rows(keys), keys.sort(dim=1).values)
    assert torch.equal(keys, before)


@pytest.mark.parametrize('device', DEVICES)
def test_right_images_of_identities_with_many_few_and_none(device):
    gallery = ByIdentity.sort(torch.tensor([2, 0, 2, 0, 0], device=device), identities=4)
    right, real = gallery.right_images(torch.tensor([2, 0, 3], device=device))
    rows = [row[mask].tolist() for row, mask in zip(right, real)]
    assert rows == [[0, 2], [1, 3, 4], []]


def test_identities_before_the_first_right_image():
    keys = torch.tensor([[3, 7, 4, 9], [0, 1, 2, 3]])
    first, gallery_ids = torch.tensor([9, 0]), torch.tensor([0, 1, 1, 2])
    assert identities_before(keys, first, gallery_ids, 3).tolist() == [2, 0]


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('values', [3, 10**6])  # many ties, next to none
@pytest.mark.parametrize('masked', [0.0, 0.3, 0.95])
@pytest.mark.parametrize('unique_ids', [False, True])
@pytest.mark.parametrize('chunk', [1, 7, None])
def test_fast_and_plain_form_are_equal(dtype, device, values, masked, unique_ids, chunk):
    generator = torch.Generator().manual_seed(0)
    distances = torch.randint(-values, values, (30, 50), generator=generator) / values
    distances = distances.to(device, dtype)
    query_ids = torch.randint(9, (30,), generator=generator).to(device)
    gallery_ids = torch.randint(7, (50,), generator=generator).to(device)  # two are strangers
    ignore = (torch.rand(30, 50, generator=generator) < masked).to(device)

    case = distances, query_ids, gallery_ids, ignore if masked else None, unique_ids
    fast, expected = retrieval_scores(*case, chunk=chunk), rank_and_score(*case)
    torch.testing.assert_close(fast.cmc, expected.cmc, rtol=0, atol=1e-9)
    assert (fast.mAP, fast.mINP) == pytest.approx((expected.mAP, expected.mINP), abs=1e-9)
    assert (fast.valid, fast.queries) == (expected.valid, expected.queries) and fast.valid < 30


def test_a_query_without_a_right_image_has_no_score():
    distances, ids = torch.rand(3, 4), torch.tensor([0, 1, 1, 2])
    ignore = torch.zeros(3, 4, dtype=torch.bool)
    ignore[2, 3] = True
    scores = score_queries(distances, torch.tensor([0, 5, 2]), ids, ignore)
    assert scores[:, 0].isnan().tolist() == [False, True, True]


@pytest.mark.parametrize('number', [np.nan, np.inf, -np.inf])
def test_rows_with_what_is_no_number_are_refused(number):
    table = np.zeros((9, 4))
    table[7, 2] = number
    with pytest.raises(ValueError, match='query 7 and gallery image 2 is NaN or infinite'):
        read_rows(table, None, slice(5, 9), torch.device('cpu'))


def test_a_mask_of_numbers_is_refused():
    table = torch.zeros(9, 4)
    with pytest.raises(ValueError, match='boolean mask, got torch.float32'):
        read_rows(table, table, slice(0, 9), torch.device('cpu'))


def test_whole_numbers_become_floats_and_ignored_pairs_infinite():
    table, mask = np.array([[1, 2]]), np.array([[False, True]])
    assert read_rows(table, mask, slice(0, 1), torch.device('cpu')).tolist() == [[1, torch.inf]]
