"Modality discrepancy: shapes that do not fit, precision, and which images are paired."

import itertools

import pytest
import torch
from jaxtyping import TypeCheckError
from torch.autograd import gradcheck
from torch.testing import assert_close

from idkl_nb.mdr import mdr_loss, pair_modalities
from idkl_nb.tgsa import tgsa_loss

DEVICES = ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']
HALVES = [torch.float16, torch.bfloat16]


def batch(P=6, K=5, C=8):
    "Features, identities, modalities"
    torch.manual_seed(K)
    features = torch.randn(2 * P * K, C, dtype=torch.float64)
    return features, torch.arange(P).repeat(2 * K), torch.arange(2).repeat_interleave(P * K)


def as_set(rows):
    return frozenset(zip(rows[0].tolist(), rows[1].tolist()))


def shuffled_pairs(features, ids, modality, order):
    "Pairs of a shuffled batch, as rows of the batch in its order"
    order = torch.as_tensor(order)
    return as_set(
        [order[rows] for rows in pair_modalities(features[order], ids[order], modality[order])]
    )


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    return torch.randn(12, 5), torch.randn(12, 5), torch.randn(12, 4), torch.randn(12, 4)


@pytest.mark.parametrize(
    'call, words',
    [
        (lambda v, i, zv, zi: mdr_loss(v, i[:-1], zv, zi), r"'shared_infrared'(.|\n)*f32\[11,5\]"),
        (lambda v, i, zv, zi: mdr_loss(v, i, zv, zi[:-1]), r"'logits_infrared'(.|\n)*f32\[11,4\]"),
        (lambda v, i, zv, zi: mdr_loss(v, i, zv[:-1], zi[:-1]), r"'logits_visible'"),
        (lambda v, i, zv, zi: mdr_loss(v, i, zv[0], zi[0]), r'f32\[4\]'),
        (lambda v, i, zv, zi: mdr_loss(v, i, zv, zi, 'none'), "'none'(.|\n)*'sum', 'mean'"),
    ],
)
def test_misfits_are_named(inputs, call, words):
    with pytest.raises(TypeCheckError, match=words):
        call(*inputs)


def test_the_loss_is_alignment_of_features_and_divergence_of_predictions(inputs):
    "Eq. 20: the visible images come first in both; torch's `kl_div` takes the second first"
    v, i, zv, zi = inputs
    visible, infrared = zv.log_softmax(1), zi.log_softmax(1)
    predictions = torch.nn.functional.kl_div(infrared, visible, reduction='sum', log_target=True)
    assert_close(mdr_loss(*inputs), tgsa_loss(v, i) + predictions)
    assert_close(mdr_loss(*inputs, 'mean'), mdr_loss(*inputs) / 12)


def test_the_order_of_the_pairs_does_not_matter(inputs):
    order = torch.randperm(12)
    shuffled = mdr_loss(*[x[order] for x in inputs])
    assert_close(shuffled, mdr_loss(*inputs), rtol=0, atol=1e-3)


def test_gradient_is_that_of_finite_differences():
    parts = torch.randn(4, 4, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(mdr_loss, tuple(parts.unbind()))


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', [*HALVES, torch.float32])
def test_far_input_keeps_loss_and_gradient_finite(inputs, device, dtype):
    far = [(1e3 * x).to(device, dtype).requires_grad_() for x in inputs]
    loss = mdr_loss(*far)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite() and all(x.grad.isfinite().all() for x in far)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', HALVES)
def test_half_precision_gives_nearly_the_same_loss(inputs, device, dtype):
    half = mdr_loss(*[x.to(device, dtype) for x in inputs])
    assert_close(half.cpu(), mdr_loss(*inputs), rtol=0, atol=0.5)


def test_the_loss_asks_the_device_nothing():
    x = torch.empty(60, 8, device='meta', requires_grad=True)
    z = torch.empty(60, 6, device='meta', requires_grad=True)
    mdr_loss(x, 2 * x, z, 2 * z).backward()
    assert x.grad.shape == x.shape and z.grad.shape == z.shape


@pytest.mark.parametrize('K', [1, 3, 5])
def test_pairs_are_of_one_person_and_of_both_modalities(K):
    features, ids, modality = batch(K=K)
    visible, infrared = pair_modalities(features, ids, modality)
    assert torch.equal(ids[visible], ids[infrared])
    assert modality[visible].sum() == 0 and modality[infrared].sum() == 6 * K
    assert torch.equal(infrared.sort().values, (modality == 1).nonzero()[:, 0])
    assert torch.equal(
        visible, torch.cat([visible[ids[visible] == p].sort().values for p in range(6)])
    )


@pytest.mark.parametrize('K', [1, 3, 5])
def test_pairs_are_the_cheapest_of_all(K):
    features, ids, modality = batch(K=K)
    best = set()
    for person in range(6):
        visible, infrared = [
            ((ids == person) & (modality == label)).nonzero()[:, 0].tolist() for label in (0, 1)
        ]
        ways = [list(zip(visible, order)) for order in itertools.permutations(infrared)]
        costs = [sum((features[a] - features[b]).norm() for a, b in way) for way in ways]
        best |= set(ways[torch.stack(costs).argmin()])
    assert as_set(pair_modalities(features, ids, modality)) == best


@pytest.mark.parametrize('K', [1, 3, 5, 7])
def test_pairs_do_not_depend_on_the_order_of_the_batch(K):
    features, ids, modality = batch(K=K)
    expected = as_set(pair_modalities(features, ids, modality))
    for _ in range(5):
        assert shuffled_pairs(features, ids, modality, torch.randperm(12 * K)) == expected


def test_people_may_have_unlike_numbers_of_pairs():
    features, ids, modality = batch()
    expected = as_set(pair_modalities(features, ids, modality))
    more = [
        torch.cat([features, torch.randn(4, 8, dtype=torch.float64)]),
        torch.cat([ids, torch.full((4,), 6)]),
        torch.cat([modality, torch.tensor([0, 1, 1, 0])]),
    ]
    assert expected < as_set(pair_modalities(*more))


@pytest.mark.parametrize('ids', [[0, 0, 0, 0], [0, 0, 0, 0, 1, 1]])
def test_equal_costs_are_decided_alike_in_every_order(ids):
    # the corners of a square, visible on one diagonal, infrared on the other: both ways cost 2
    corners = torch.tensor([[0.0, 0], [1, 1], [0, 1], [1, 0], [9, 9], [9, 8]])[: len(ids)]
    modality = torch.tensor([0, 0, 1, 1, 0, 1])[: len(ids)]
    orders = itertools.permutations(range(len(ids)))
    labels = torch.tensor(ids)
    assert len({shuffled_pairs(corners, labels, modality, list(order)) for order in orders}) == 1


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', [*HALVES, torch.float32])
def test_pairs_lie_where_the_features_are(device, dtype):
    features, ids, modality = batch()
    x = features.to(device, dtype)
    pairs = pair_modalities(x, ids.to(device), modality.to(device))
    on_host = pair_modalities(x.cpu(), ids, modality)
    assert [rows.device.type for rows in pairs] == [device, device]
    assert all(torch.equal(*both) for both in zip([rows.cpu() for rows in pairs], on_host))
    if dtype == torch.float32:
        assert as_set(pairs) == as_set(pair_modalities(features, ids, modality))


def test_no_gradient_passes_through_a_choice():
    features, ids, modality = batch()
    pairs = pair_modalities(features.requires_grad_(), ids, modality)
    assert not any(rows.requires_grad for rows in pairs)


def test_identities_may_be_any_whole_numbers():
    features, ids, modality = batch()
    expected = pair_modalities(features, ids, modality)
    other = pair_modalities(features, 100 * ids - 7, modality.int())
    assert all(torch.equal(*both) for both in zip(other, expected))


def test_where_all_features_lie_does_not_matter():
    features, ids, modality = batch()
    expected = as_set(pair_modalities(features, ids, modality))
    assert as_set(pair_modalities(features + 1e7, ids, modality)) == expected


def test_an_empty_batch_has_no_pairs():
    features, ids, modality = batch()
    assert [len(rows) for rows in pair_modalities(features[:0], ids[:0], modality[:0])] == [0, 0]


@pytest.mark.parametrize(
    'change, words',
    [
        (lambda f, i, m: (f[1:], i[1:], m[1:]), 'identity 0 has 4 visible and 5 infrared images'),
        (lambda f, i, m: (f[:30], i[:30], m[:30]), 'identity 0 has 5 visible and 0 infrared'),
        (lambda f, i, m: (f, i, m + 1), 'identity 0 has 0 visible and 5 infrared'),
        (lambda f, i, m: (f, i // 6, m.repeat(2)[::2] * 2), 'as many of one as of the other'),
    ],
)
def test_a_person_out_of_balance_is_named(change, words):
    with pytest.raises(ValueError, match=words):
        pair_modalities(*change(*batch()))


@pytest.mark.parametrize(
    'change, words',
    [
        (lambda f, i, m: (f, i[1:], m), r"'ids'(.|\n)*i64\[59\]"),
        (lambda f, i, m: (f, i, m[1:]), r"'modality'(.|\n)*i64\[59\]"),
        (lambda f, i, m: (f[0], i, m), r"'features'(.|\n)*f64\[8\]"),
        (lambda f, i, m: (f, i.double(), m), r"'ids'(.|\n)*f64\[60\]"),
    ],
)
def test_labels_that_do_not_fit_are_named(change, words):
    with pytest.raises(TypeCheckError, match=words):
        pair_modalities(*change(*batch()))


def test_features_that_are_no_numbers_are_paired_and_make_the_loss_nan():
    features = torch.randn(8, 5)
    features[0] = torch.nan
    ids, modality = torch.arange(8) // 4, torch.arange(8) % 2
    visible, infrared = pair_modalities(features, ids, modality)
    assert sorted([*visible.tolist(), *infrared.tolist()]) == list(range(8))
    logits = features @ torch.randn(5, 3)
    assert mdr_loss(
        features[visible], features[infrared], logits[visible], logits[infrared]
    ).isnan()
