"Graph alignment: shapes that do not fit, precision, devices and gradients."

import math

import pytest
import torch
from jaxtyping import TypeCheckError
from torch.autograd import gradcheck
from torch.testing import assert_close

from idkl_nb.tgsa import (
    affinity,
    distillation_loss,
    kl_rows,
    log_affinity,
    log_rows,
    reduce_rows,
    tgsa_loss,
)

DEVICES = ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']
HALVES = [torch.float16, torch.bfloat16]


@pytest.fixture
def groups():
    torch.manual_seed(0)
    return torch.randn(2, 12, 5).unbind()


@pytest.fixture
def branches():
    torch.manual_seed(0)
    shared, specific = torch.randn(2, 24, 8).unbind()
    return dict(shared=shared, specific=specific, modality=torch.arange(24) % 2)


def rows_of_affinity(a, b):
    "Eq. 15 in plain numbers: the softmax of the distances from each row to all rows"
    for x in a.tolist():
        weights = [math.exp(math.dist(x, y)) for y in b.tolist()]
        yield [weight / sum(weights) for weight in weights]


def divergence(P, Q):
    "Sum of p log(p/q) over all rows"
    pairs = ((p, q) for row, other in zip(P, Q, strict=True) for p, q in zip(row, other))
    return sum(p * math.log(p / q) for p, q in pairs)


def triplet_of_graphs(a, b):
    "Eq. 16 in plain numbers; the order of each pair counts"
    aa, ab, bb = [list(rows_of_affinity(*pair)) for pair in ((a, a), (a, b), (b, b))]
    return divergence(aa, bb) + divergence(aa, ab) + divergence(ab, bb)


def test_the_loss_is_that_of_plain_numbers(groups):
    a, b = [x.double() for x in groups]
    assert tgsa_loss(a, b).item() == pytest.approx(triplet_of_graphs(a, b), rel=1e-6)
    assert tgsa_loss(a, b, 'mean').item() == pytest.approx(tgsa_loss(a, b).item() / 12)
    assert abs(triplet_of_graphs(a, b) - triplet_of_graphs(b, a)) > 1e-3


def test_the_specific_branch_comes_first_within_each_modality(branches):
    "Eq. 17: a is the specific, b the shared branch; visible and infrared images stay apart"
    shared, specific = branches['shared'].double(), branches['specific'].double()
    halves = [branches['modality'] == modality for modality in (0, 1)]
    expected = sum(triplet_of_graphs(specific[half], shared[half]) for half in halves)
    loss = distillation_loss(shared=shared, specific=specific, modality=branches['modality'])
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_affinity_that_is_rounded_to_zero_has_a_finite_logarithm(groups):
    far = 1e3 * groups[0]
    assert (affinity(far, far) == 0).any() and log_affinity(far, far).isfinite().all()


@pytest.mark.parametrize('dtype', HALVES)
def test_rows_of_half_precision_come_out_in_float32(groups, dtype):
    scores = groups[0].to(dtype)
    assert log_rows(scores).dtype == torch.float32
    assert torch.equal(log_rows(scores), log_rows(scores.float()))


def test_kl_of_equal_rows_is_exactly_zero(groups):
    log_p = log_rows(groups[0])
    assert torch.equal(kl_rows(log_p, log_p), torch.zeros(12))


def test_gradient_of_kl_is_that_of_finite_differences():
    x, y = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True).unbind()
    assert gradcheck(lambda x, y: kl_rows(log_rows(x), log_rows(y)), (x, y))


def test_gradient_of_the_loss_is_that_of_finite_differences():
    double = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(tgsa_loss, tuple(double.unbind()))


def test_neither_a_common_order_nor_a_common_movement_matters(groups):
    a, b = groups
    order, shift = torch.randperm(12), torch.randn(5)
    turn = torch.linalg.qr(torch.randn(5, 5))[0]
    close = dict(rtol=0, atol=1e-3)
    assert_close(tgsa_loss(a[order], b[order]), tgsa_loss(a, b), **close)
    assert_close(tgsa_loss(a @ turn + shift, b @ turn + shift), tgsa_loss(a, b), **close)
    assert (tgsa_loss(a[order], b) - tgsa_loss(a, b)).abs() > 0.1


@pytest.mark.parametrize(
    'call, words',
    [
        (lambda a, b: affinity(a, b[:, :3]), "parameter 'b'"),
        (lambda a, b: kl_rows(log_rows(a), log_rows(b)[:1]), "parameter 'log_q'"),
        (lambda a, b: tgsa_loss(a, b[:-1]), r'f32\[11,5\]'),
        (lambda a, b: tgsa_loss(a, b[:, :3]), r'f32\[12,3\]'),
        (lambda a, b: tgsa_loss(a[0], b[0]), r'f32\[5\]'),
        (lambda a, b: tgsa_loss(a.long(), b), r'i64\[12,5\]'),
        (lambda a, b: tgsa_loss(a, b, 'max'), r"'max'(.|\n)*'sum', 'mean'"),
        (lambda a, b: reduce_rows(a[0], 'none'), r"'none'(.|\n)*'sum', 'mean'"),
    ],
)
def test_misfits_are_named(groups, call, words):
    with pytest.raises(TypeCheckError, match=words):
        call(*groups)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', [*HALVES, torch.float32])
def test_far_features_keep_loss_and_gradient_finite(groups, device, dtype):
    x, y = [(1e3 * group).to(device, dtype).requires_grad_() for group in groups]
    loss = tgsa_loss(x, y)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite() and x.grad.isfinite().all() and y.grad.isfinite().all()
    assert tgsa_loss(x, x.clone()).item() == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', HALVES)
def test_half_precision_gives_nearly_the_same_loss(groups, device, dtype):
    a, b = groups
    assert tgsa_loss(a, b) > 0
    close = dict(rtol=0, atol=0.3)
    assert_close(
        tgsa_loss(a.to(device, dtype), b.to(device, dtype)).cpu(), tgsa_loss(a, b), **close
    )


@pytest.mark.parametrize('device', DEVICES)
def test_autocast_leaves_the_loss_in_float32(groups, device):
    a, b = groups
    with torch.autocast(device, torch.bfloat16):
        loss = tgsa_loss(a.to(device), b.to(device))
    assert loss.dtype == torch.float32
    assert_close(loss.cpu(), tgsa_loss(a, b), rtol=0, atol=1e-3)


def test_float64_is_kept(groups):
    a, b = groups
    loss = tgsa_loss(a.double(), b.double())
    assert loss.dtype == torch.float64
    assert_close(loss, tgsa_loss(a, b).double(), rtol=0, atol=1e-3)


def test_gradients_reach_both_groups_unless_one_is_detached(groups):
    a, b = [group.requires_grad_() for group in groups]
    both = torch.autograd.grad(tgsa_loss(a, b), (a, b))
    assert all(gradient.abs().sum() > 0 for gradient in both)

    only_b = torch.autograd.grad(tgsa_loss(a.detach(), b), (a, b), allow_unused=True)
    assert only_b[0] is None and torch.equal(only_b[1], both[1])


def test_rounding_pretends_no_difference_and_leaves_the_gradient():
    torch.manual_seed(0)
    crowd = torch.randn(12, 1, 2048) + 0.7 * torch.randn(12, 5, 2048)
    crowd = 30 * crowd.flatten(0, 1) / crowd.norm(dim=2).mean()
    x = crowd.clone().requires_grad_()
    y = (crowd + 0.2 * torch.randn(60, 2048)).requires_grad_()

    single = torch.autograd.grad(tgsa_loss(x, y), (x, y))
    double = torch.autograd.grad(tgsa_loss(x.double(), y.double()), (x, y))
    for g32, g64 in zip(single, double):
        assert (g32 - g64).norm() < 1e-3 * g64.norm()
    assert tgsa_loss(x, x.clone()).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    'changes, words',
    [
        (lambda b: dict(shared=b['shared'][:-1]), r'f32\[23,8\]'),
        (lambda b: dict(modality=b['modality'][:-1]), r'i64\[23\]'),
        (lambda b: dict(modality=b['modality'] > 0), r'bool\[24\]'),
        (lambda b: dict(reduction='none'), "'none'"),
    ],
)
def test_distillation_names_what_does_not_fit(branches, changes, words):
    with pytest.raises(TypeCheckError, match=words):
        distillation_loss(**branches | changes(branches))


def test_the_order_of_a_batch_does_not_matter(branches):
    order = torch.randperm(24)
    shuffled = {name: values[order] for name, values in branches.items()}
    assert_close(distillation_loss(**shuffled), distillation_loss(**branches), rtol=0, atol=1e-4)
    mean = distillation_loss(**shuffled, reduction='mean')
    assert_close(24 * mean, distillation_loss(**branches), rtol=0, atol=1e-4)


def test_visible_images_do_not_feel_infrared_ones(branches):
    infrared = branches['modality'] == 1

    def visible_gradient(change):
        x = branches['shared'].clone().requires_grad_()
        changed = branches | dict(shared=x + change * infrared[:, None])
        return torch.autograd.grad(distillation_loss(**changed), x)[0][~infrared]

    assert_close(visible_gradient(0.0), visible_gradient(5.0), rtol=0, atol=1e-6)


def test_distillation_wants_names():
    with pytest.raises(TypeError, match='too many positional arguments'):
        distillation_loss(torch.ones(2, 3), torch.ones(2, 3), torch.tensor([0, 1]))


def test_distillation_asks_the_device_nothing():
    x = torch.empty(24, 8, device='meta', requires_grad=True)
    modality = torch.empty(24, dtype=torch.int64, device='meta')
    distillation_loss(shared=2 * x, specific=x, modality=modality).backward()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize('dtype', [torch.int32, torch.int64])
def test_any_whole_numbers_may_name_the_modality(branches, dtype):
    expected = distillation_loss(**branches)
    branches['modality'] = branches['modality'].to(dtype)
    assert torch.equal(distillation_loss(**branches), expected)
