"Class semantic alignment: shapes that do not fit, precision, devices and gradients."

import pytest
import torch
from jaxtyping import TypeCheckError
from torch.autograd import gradcheck
from torch.testing import assert_close

from idkl_nb.csa import csa_loss

DEVICES = ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']
HALVES = [torch.float16, torch.bfloat16]


@pytest.fixture
def logits():
    torch.manual_seed(0)
    return torch.randn(2, 24, 7).unbind()


@pytest.mark.parametrize(
    'call, words',
    [
        (lambda x, y: csa_loss(x, y[:-1]), r"'logits_specific'(.|\n)*f32\[23,7\]"),
        (lambda x, y: csa_loss(x[0], y[0]), r"'logits_shared'(.|\n)*f32\[7\]"),
        (lambda x, y: csa_loss(x, y.argmax(1)), r'i64\[24\]'),
        (lambda x, y: csa_loss(x, y, 'batchmean'), r"'batchmean'(.|\n)*'sum', 'mean'"),
    ],
)
def test_misfits_are_named(logits, call, words):
    with pytest.raises(TypeCheckError, match=words):
        call(*logits)


def test_the_divergence_is_that_of_the_shared_from_the_specific_predictions(logits):
    "KL(Z_sh, Z_sp), and not the other way round; torch's `kl_div` takes the second first"
    shared, specific = [z.double().log_softmax(1) for z in logits]
    expected = torch.nn.functional.kl_div(specific, shared, reduction='sum', log_target=True)
    assert_close(csa_loss(*logits).double(), expected)
    assert_close(csa_loss(*logits, 'mean').double(), expected / 24)

    # one half, one half from nine tenths, one tenth
    p, q = torch.tensor([[[0.5, 0.5]], [[0.9, 0.1]]]).log()
    assert csa_loss(p, q).item() == pytest.approx(0.5108, abs=1e-4)
    assert csa_loss(q, p).item() == pytest.approx(0.3681, abs=1e-4)


def test_orders_and_a_number_added_to_all_logits_do_not_matter(logits):
    shared, specific = logits
    images, people = torch.randperm(24), torch.randperm(7)
    close = dict(rtol=0, atol=1e-4)
    shuffled = csa_loss(shared[images][:, people], specific[images][:, people])
    assert_close(shuffled, csa_loss(*logits), **close)
    lifted = csa_loss(shared + torch.randn(24, 1), specific + torch.randn(24, 1))
    assert_close(lifted, csa_loss(*logits), **close)


def test_gradient_is_that_of_finite_differences():
    x, y = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True).unbind()
    assert gradcheck(csa_loss, (x, y))


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', [*HALVES, torch.float32])
def test_far_logits_keep_loss_and_gradient_finite(logits, device, dtype):
    x, y = [(1e3 * z).to(device, dtype).requires_grad_() for z in logits]
    loss = csa_loss(x, y)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite() and x.grad.isfinite().all() and y.grad.isfinite().all()
    assert csa_loss(x, x.clone()).item() == 0


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 1e-3), *((h, 0.3) for h in HALVES)])
def test_every_precision_gives_nearly_the_same_loss(logits, device, dtype, tolerance):
    x, y = [z.to(device, dtype) for z in logits]
    assert_close(csa_loss(x, y).cpu(), csa_loss(*logits), rtol=0, atol=tolerance)


def test_the_device_is_asked_nothing():
    x, y = torch.empty(2, 24, 7, device='meta', requires_grad=True).unbind()
    assert csa_loss(x, y).shape == ()
