"Distances, the batch-hard triplet and the baseline: dtypes, devices, order, wrong input."

import pytest
import torch
from jaxtyping import TypeCheckError
from torch.autograd import gradcheck
from torch.nn import functional as F
from torch.testing import assert_close

from idkl_nb.assembly import IDKLConfig
from idkl_nb.identity import base_loss, batch_hard_triplet, hardest, pairwise_distances, reid_loss

devices = ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']
dtypes = torch.float16, torch.bfloat16, torch.float32, torch.float64
torch.manual_seed(0)
f, ids = torch.randn(24, 8), torch.arange(24) % 6
logits = torch.randn(24, 6)
modality = torch.arange(24) % 2


def test_distances_have_the_slope_of_finite_differences():
    a = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    b = torch.randn(4, 2, dtype=torch.float64)
    assert gradcheck(pairwise_distances, (a, b))


def test_points_that_coincide_have_no_slope():
    "Rather than an infinite one"
    same = torch.ones(2, 3, requires_grad=True)
    pairwise_distances(same, same).sum().backward()
    assert torch.equal(same.grad, torch.zeros(2, 3))


def test_squares_are_those_of_each_pair():
    a, b = torch.randn(4, 3), torch.randn(5, 3)
    by_rows = torch.stack([(row - b).square().sum(1) for row in a])
    assert_close(pairwise_distances(a, b, squared=True), by_rows, rtol=0, atol=1e-4)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('device', devices)
def test_squares_of_half_precision_do_not_overflow(dtype, device):
    large = (300 * f).to(device, dtype)
    d = pairwise_distances(large, large)
    assert d.dtype == torch.float32
    assert torch.isfinite(d).all()


@pytest.mark.parametrize('device', devices)
def test_autocast_does_not_reach_the_distances(device):
    x = f.to(device)
    with torch.autocast(device, torch.bfloat16):
        d = pairwise_distances(x, x)
    assert torch.equal(d, pairwise_distances(x, x))


def test_distances_want_rows_of_one_length():
    with pytest.raises(TypeCheckError, match="parameter 'b'"):
        pairwise_distances(f, f.T)
    with pytest.raises(TypeCheckError, match="parameter 'a'"):
        pairwise_distances(f[0], f)


@pytest.mark.parametrize('device', devices)
@pytest.mark.parametrize('dtype', dtypes, ids=str)
@pytest.mark.parametrize('id_dtype', [torch.int64, torch.int32], ids=str)
def test_the_triplet_of_every_dtype_and_device(device, dtype, id_dtype):
    loss = batch_hard_triplet(f.to(device, dtype), ids.to(device, id_dtype), 0.3)
    assert_close(loss.cpu().float(), batch_hard_triplet(f, ids, 0.3), rtol=0, atol=0.05)


@pytest.mark.parametrize('margin', [0.1, 0.3, 1.3])
def test_the_triplet_is_that_of_one_anchor_at_a_time(margin):
    losses = []
    for anchor, identity in zip(f, ids):
        d = (f - anchor).norm(dim=1)
        losses.append(F.relu(margin + d[ids == identity].max() - d[ids != identity].min()))
    assert_close(batch_hard_triplet(f, ids, margin), torch.stack(losses).mean())


def test_the_triplet_has_the_slope_of_finite_differences():
    x = f.double().requires_grad_()
    assert gradcheck(lambda x: batch_hard_triplet(x, ids, 0.3), x)


def test_people_far_apart_cost_nothing():
    far_apart = f + 1e3 * torch.eye(24)[ids][:, :8]
    assert batch_hard_triplet(far_apart, ids, 0.3) == 0


def test_the_smallest_number_of_partners():
    "One other image of the identity, and one of another"
    counted = hardest(torch.randn(5, 2), torch.tensor([0, 0, 1, 2, 2])).counted
    assert counted.tolist() == [True, True, False, True, True]


@pytest.mark.parametrize('lonely', [torch.zeros(24, dtype=torch.int64), torch.arange(24)])
def test_a_batch_without_a_triplet_gives_no_number(lonely):
    "Which the training refuses at its next look at the losses"
    assert not hardest(f, lonely).counted.any()
    assert batch_hard_triplet(f, lonely, 0.3).isnan()
    assert batch_hard_triplet(f[:1], lonely[:1], 0.3).isnan()


def test_an_anchor_that_does_not_count_gets_no_gradient_as_anchor():
    x = torch.tensor([[0.0], [1.0], [1.5]], requires_grad=True)
    batch_hard_triplet(x, torch.tensor([0, 0, 1]), 1.0).backward()
    assert torch.isfinite(x.grad).all()
    # two anchors at 0 and 1, each pulled by the other and pushed by the third
    assert_close(x.grad.flatten(), torch.tensor([-0.5, 1.5, -1.0]))


@pytest.mark.parametrize('margin', [-0.1, float('nan')])
def test_a_margin_below_zero_is_refused(margin):
    with pytest.raises(ValueError, match='margin must be a number of at least 0'):
        IDKLConfig(margin=margin)


def test_features_and_labels_must_fit():
    with pytest.raises(TypeCheckError, match=r"(?s)parameter 'ids'.*i64\[23\].*B=24"):
        batch_hard_triplet(f, ids[:-1], 0.3)
    with pytest.raises(TypeCheckError, match="parameter 'ids'"):
        batch_hard_triplet(f, ids.tolist(), 0.3)
    with pytest.raises(TypeCheckError, match="parameter 'ids'"):
        batch_hard_triplet(f, ids.float(), 0.3)
    with pytest.raises(TypeCheckError, match="parameter 'margin'"):
        batch_hard_triplet(f, ids, '0.3')


def test_smoothing_reaches_the_cross_entropy():
    expected = F.cross_entropy(logits, ids, label_smoothing=0.1)
    assert torch.equal(reid_loss(f, logits, ids, smoothing=0.1)[0], expected)


def test_a_class_that_the_classifier_lacks():
    with pytest.raises(IndexError, match='Target 6 is out of bounds'):
        reid_loss(f, logits, ids + 1)


def test_the_order_of_a_batch_changes_no_term():
    guesses = [torch.randn(24, 2) for _ in range(3)]
    order = torch.randperm(24)

    def terms(rows):
        g = [z[rows] for z in guesses]
        shared = f[rows], logits[rows], g
        specific = 2 * f[rows], 2 * logits[rows], g
        return base_loss(shared, specific, ids[rows], modality[rows])

    expected = terms(torch.arange(24))
    for name, term in terms(order).items():
        assert_close(term, expected[name], rtol=1e-4, atol=1e-4)


def test_settings_reach_both_branches():
    branch = f, logits, []
    terms = base_loss(branch, branch, ids, modality, margin=0.7, smoothing=0.1)
    ce, triplet = reid_loss(f, logits, ids, 0.7, 0.1)
    assert torch.equal(terms['ce_sh'], ce) and torch.equal(terms['ce_sp'], ce)
    assert torch.equal(terms['triplet_sh'], triplet) and torch.equal(terms['triplet_sp'], triplet)


def test_a_branch_without_modality_classifiers_has_no_such_term():
    branch, guesses = (f, logits, []), [torch.randn(24, 2)]
    terms = base_loss(branch, (f, logits, guesses), ids, modality)
    assert list(terms) == ['ce_sh', 'triplet_sh', 'ce_sp', 'triplet_sp', 'D']


def test_the_branches_must_be_of_one_batch():
    with pytest.raises(TypeCheckError, match="parameter 'specific'"):
        base_loss((f, logits, []), (f[1:], logits[1:], []), ids, modality)
