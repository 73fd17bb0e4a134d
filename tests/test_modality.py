"Gradient reversal, modality classifiers and cross-entropy: labels, dtypes, devices, wrong input."

import pytest
import torch
from jaxtyping import TypeCheckError
from torch.autograd import gradcheck
from torch.nn import functional as F
from torch.testing import assert_close

from idkl_nb.assembly import IDKLConfig
from idkl_nb.modality import ModalityHeads, cross_entropy, modality_loss, reverse_gradient

devices = ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']
dtypes = torch.float16, torch.bfloat16, torch.float32, torch.float64
logits = torch.tensor([[0.9, 0.1], [0.4, 0.6]]).log()
both = torch.tensor([0, 1])


@pytest.mark.parametrize('alpha', [-1.0, float('nan')])
def test_a_reversal_that_reverses_nothing_is_refused(alpha):
    with pytest.raises(ValueError, match='alpha must be a number of at least 0'):
        IDKLConfig(alpha=alpha)


def test_only_fractions_have_a_gradient_to_turn():
    with pytest.raises(TypeCheckError, match="'x'"):
        reverse_gradient(both)


@pytest.mark.parametrize('dtype', dtypes, ids=str)
@pytest.mark.parametrize('shape', [(), (3,), (2, 3, 4, 5)])
def test_any_shape_and_dtype_turns_round(dtype, shape):
    x = torch.rand(shape, dtype=dtype, requires_grad=True)
    reverse_gradient(x, 2).sum().backward()
    assert_close(x.grad, torch.full(shape, -2.0, dtype=dtype))


def test_turned_round_twice_is_not_turned_round():
    x = torch.rand(3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: reverse_gradient(reverse_gradient(x, 2.0), 0.5).square(), x)


def test_confusers_and_discriminators_differ_in_one_sign():
    maps = [torch.rand(4, c, 3, 2, requires_grad=True) for c in (8, 16)]
    heads = ModalityHeads((8, 16), reverse=True)

    def gradients(reverse):
        heads.reverse = reverse
        loss = modality_loss(heads(maps), torch.tensor([0, 1, 0, 1]))
        return torch.autograd.grad(loss, [heads.heads[0][0].weight, *maps])

    (confuser, *hidden), (discriminator, *shown) = gradients(True), gradients(False)
    assert torch.equal(confuser, discriminator)
    assert all(torch.equal(a, -b) and a.abs().max() > 0 for a, b in zip(hidden, shown))


def test_each_classifier_wants_its_map():
    heads = ModalityHeads((8, 16), reverse=True)
    maps = [torch.rand(4, channels, 3, 2) for channels in (8, 16)]
    with pytest.raises(ValueError, match='shorter'):
        heads(maps[:1])
    with pytest.raises(TypeCheckError, match="'maps'"):
        heads([x[0] for x in maps])
    with pytest.raises(TypeCheckError, match="'maps'"):
        heads(maps[0])


def test_smoothing_is_that_of_torch():
    expected = F.cross_entropy(logits, both, label_smoothing=0.2)
    assert_close(cross_entropy(logits, both, 0.2), expected)
    with pytest.raises(RuntimeError, match='between 0.0 and 1.0'):
        cross_entropy(logits, both, smoothing=2.0)


@pytest.mark.parametrize('label', [-100, -1, 2])
@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_a_label_without_a_class_is_refused(label, smoothing):
    "-100, too, which PyTorch leaves out of the mean. (A GPU says so later, and in its own words.)"
    with pytest.raises(IndexError, match=f'Target {label} is out of bounds'):
        cross_entropy(logits, torch.tensor([0, label]), smoothing)
    with pytest.raises(IndexError, match='out of bounds'):
        modality_loss([logits], torch.tensor([0, label]))


def test_an_empty_batch_has_no_mean():
    assert cross_entropy(logits[:0], both[:0]).isnan()


@pytest.mark.parametrize(
    'wrong, name',
    [
        ((logits, torch.tensor([0.0, 1.0])), 'labels'),
        ((logits, both.int()), 'labels'),
        ((logits, both[:1]), 'labels'),
        ((logits, both.tolist()), 'labels'),
        ((logits[0], both[:1]), 'logits'),
        ((logits.int(), both), 'logits'),
        ((logits, both, 'much'), 'smoothing'),
    ],
)
def test_what_is_no_pair_of_logits_and_labels_is_refused(wrong, name):
    with pytest.raises(TypeCheckError, match=f"parameter '{name}'"):
        cross_entropy(*wrong)


def test_modality_has_two_logits():
    with pytest.raises(TypeCheckError, match=r'f32\[2,3\]'):
        modality_loss([torch.zeros(2, 3)], both)
    with pytest.raises(TypeCheckError, match="'modality'"):
        modality_loss([logits], both[:1])


@pytest.mark.parametrize('device', devices)
@pytest.mark.parametrize('dtype', dtypes, ids=str)
def test_the_loss_is_float32_on_every_device(device, dtype):
    torch.manual_seed(0)
    heads = ModalityHeads((8, 16), reverse=False).to(device, dtype)
    maps = [torch.rand(4, channels, 3, 2, device=device, dtype=dtype) for channels in (8, 16)]
    labels = torch.tensor([0, 1, 0, 1])
    outputs = heads(maps)
    loss = modality_loss(outputs, labels.to(device))
    assert loss.dtype == torch.float32
    expected = sum(F.cross_entropy(z.float().cpu(), labels) for z in outputs)
    assert_close(loss.cpu(), expected)
