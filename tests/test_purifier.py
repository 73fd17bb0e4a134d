"Instance normalisation, masks and their losses: both roads, dtypes, devices, wrong input."

import itertools

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import nn
from torch.autograd import gradcheck
from torch.nn import functional as F
from torch.testing import assert_close

from idkl_nb.backbone import gem
from idkl_nb.common import INFRARED, VISIBLE
from idkl_nb.identity import pairwise_distances, reid_loss
from idkl_nb.normalisation import instance_norm
from idkl_nb.purifier import (
    InformationPurifier,
    centre_distances,
    enhancing_loss,
    entropy,
    pool_three,
    purifier_loss,
    reducing_loss,
    squeeze,
)

devices = ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']
dtypes = torch.float16, torch.bfloat16, torch.float32
torch.manual_seed(0)
maps = torch.randn(4, 6, 5, 3).relu() * torch.rand(6, 1, 1) * 5
f, mask = torch.randn(20, 8), torch.rand(20, 8)
ids = torch.tensor([3, 9, 11, 40])[torch.arange(20) % 4]
modality = torch.tensor([0, 1, 1, 0, 0])[torch.arange(20) // 4]


def test_normalisation_is_a_layer_norm_of_each_channel():
    assert_close(instance_norm(maps), F.layer_norm(maps, maps.shape[-2:]), rtol=0, atol=1e-4)


def naive_norm(maps, eps=1e-5):
    "One image and one channel at a time"
    normalised = torch.empty_like(maps)
    for n, image in enumerate(maps):
        for c, channel in enumerate(image):
            deviation = (channel.var(unbiased=False) + eps).sqrt()
            normalised[n, c] = (channel - channel.mean()) / deviation
    return normalised


def test_normalisation_is_that_of_one_channel_at_a_time():
    assert_close(instance_norm(maps), naive_norm(maps), rtol=0, atol=1e-4)
    assert_close(instance_norm(maps * 3 + 7), naive_norm(maps), rtol=0, atol=1e-3)


def test_normalisation_has_the_slopes_of_finite_differences():
    x = torch.randn(2, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(instance_norm, x)


def test_a_mask_of_averages_would_see_and_learn_nothing():
    "The average of a normalised channel is 0, so every mask is one half"
    layers = squeeze(6, 2)
    values = layers(instance_norm(maps).mean((2, 3))).sigmoid()
    values.square().sum().backward()
    assert_close(values.detach(), torch.full((4, 6), 0.5), rtol=0, atol=1e-6)
    assert all(w.grad.abs().max() < 1e-5 for w in layers.parameters())


def test_masks_commute_with_the_pooling():
    "But for the clamp of `gem` at 1e-6"
    factor, normalised = torch.rand(4, 6), instance_norm(maps)
    for m in (maps, normalised, maps + normalised):
        assert (gem(factor[..., None, None] * m) - factor * gem(m)).abs().max() < 2e-6


def test_a_constant_channel_becomes_zero():
    assert_close(instance_norm(torch.full((1, 1, 2, 2), 3.0)), torch.zeros(1, 1, 2, 2))


def test_a_single_place_has_no_variance():
    with pytest.raises(ValueError, match=r'at least two places.* got \(4, 6, 1, 1\)'):
        instance_norm(maps[..., :1, :1])
    with pytest.raises(ValueError, match='at least two places'):
        pool_three(maps[..., :1, :1])
    for purifier in (InformationPurifier(6, 2), InformationPurifier(6, 2).eval()):
        with pytest.raises(ValueError, match='at least two places'):
            purifier.pooled(maps[..., :1, :1])


@pytest.mark.parametrize('eps', [0.0, -1.0, float('nan')])
def test_eps_must_be_positive(eps):
    with pytest.raises(ValueError, match='eps above 0'):
        instance_norm(maps, eps)


def test_maps_have_four_axes():
    for function in (instance_norm, pool_three, InformationPurifier(6, 2).pooled):
        with pytest.raises(TypeCheckError, match=r'f32\[6,5,3\]'):
            function(maps[0])


@pytest.mark.parametrize(
    'channels, reduction', [(256, 5), (256, 0), (256, 512), (100, 16), (8, 16)]
)
def test_a_reduction_that_does_not_divide_is_refused(channels, reduction):
    message = f'reduction {reduction} does not divide {channels} channels'
    with pytest.raises(ValueError, match=message):
        squeeze(channels, reduction)
    with pytest.raises(ValueError, match=message):
        InformationPurifier(channels, reduction)


def naive_purifier(maps, W1, W2, W3, W4):
    "The purified map, one image, channel and place at a time"
    normalised, purified = naive_norm(maps), torch.empty_like(maps)

    def mask(channels, V, W):
        pooled = [channel.clamp(min=1e-6).pow(3).mean().pow(1 / 3) for channel in channels]
        hidden = (V @ torch.stack(pooled)).clamp(min=0)
        return 1 / (1 + (-(W @ hidden)).exp())

    for n, (image, normal) in enumerate(zip(maps, normalised)):
        m_e, m_r = mask(image, W1, W2), mask(normal, W3, W4)
        for c, h, w in itertools.product(*map(range, image.shape)):
            reduced, enhanced = m_r[c] * normal[c, h, w], m_e[c] * image[c, h, w]
            purified[n, c, h, w] = m_e[c] * reduced + m_r[c] * enhanced
    return purified


@pytest.mark.parametrize('device', devices)
def test_the_purified_map_is_that_of_one_place_at_a_time(device):
    purifier = InformationPurifier(6, reduction=2)
    with torch.no_grad():
        expected = naive_purifier(maps, *purifier.parameters())
        purified = purifier.to(device)(maps.to(device)).purified
    assert_close(purified.cpu(), expected, rtol=0, atol=1e-4)


def long_road(purifier, x):
    "Pooled vectors by way of every map"
    out = purifier(x)
    return [gem(x, purifier.p), *[gem(m, purifier.p) for m in out[:4]], *out[4:]]


def slopes(rows, variables):
    return torch.autograd.grad(
        sum((n + 1) * row.square().mean() for n, row in enumerate(rows)), variables
    )


@pytest.mark.parametrize('device', devices)
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('change', ['as they are', 'a dead channel', 'large values'])
def test_both_roads_lead_to_the_same_place(device, training, change):
    "In values, and in gradients of every parameter and of the map"
    x = maps.clone()
    if change == 'a dead channel':
        x[0, 0] = 0
    if change == 'large values':
        x *= 200
    x = x.to(device).requires_grad_()
    purifier = InformationPurifier(6, reduction=2).to(device).train(training)
    variables = [x, *purifier.parameters()]

    long, short = long_road(purifier, x), purifier.pooled(x)
    for a, b in zip(short, long):
        assert_close(a, b, rtol=0, atol=1e-3)
    for a, b in zip(slopes(short, variables), slopes(long, variables)):
        assert_close(a, b, rtol=0, atol=1e-3 * (1 + b.abs().max().item()))


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('p', [1.0, 2.0])
def test_every_setting_reaches_both_roads(training, p):
    other = InformationPurifier(6, 2, p=p, eps=0.5).train(training)
    for a, b in zip(other.pooled(maps), long_road(other, maps)):
        assert_close(a, b, rtol=0, atol=1e-4)
    assert not torch.allclose(other(maps).normalised, instance_norm(maps), atol=0.01)


def test_the_maps_have_the_slopes_of_finite_differences():
    exact = torch.rand(2, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    purifier = InformationPurifier(4, reduction=2).double()
    assert gradcheck(lambda x: purifier(x)[:4], exact)


def test_every_image_is_treated_for_itself():
    purifier, order = InformationPurifier(6, 2), torch.randperm(4)
    for road in (purifier, purifier.pooled):
        for whole, part in zip(road(maps), road(maps[order])):
            assert_close(whole[order], part, rtol=0, atol=1e-5)


def test_masks_lie_between_0_and_1():
    out = InformationPurifier(6, 2)(maps)
    assert torch.equal(out.normalised, instance_norm(maps))
    for values in (out.mask_e, out.mask_r):
        assert 0 < values.min() and values.max() < 1


@pytest.mark.parametrize('dtype', dtypes, ids=str)
@pytest.mark.parametrize('device', devices)
def test_purified_features_are_float32(dtype, device):
    purifier = InformationPurifier(6, 2).to(device)
    for training in (True, False):
        purifier.train(training)
        for values in (*purifier(maps.to(device, dtype)), *purifier.pooled(maps.to(device, dtype))):
            assert torch.isfinite(values).all()
            assert values.dtype == torch.float32


def test_the_enhancing_loss_far_above_zero_is_the_difference_itself():
    unsure, sure = torch.zeros(2, 10**6), 1e4 * torch.eye(2, 10**6)
    log_classes = torch.tensor(10.0**6).log()
    assert_close(enhancing_loss(unsure, sure), log_classes, rtol=0, atol=1e-4)


@pytest.mark.parametrize('dtype', dtypes, ids=str)
@pytest.mark.parametrize('device', devices)
def test_the_enhancing_loss_of_every_dtype(dtype, device):
    a, b = 2 * torch.randn(12, 5), torch.randn(12, 5)
    loss = enhancing_loss(a.to(device, dtype), b.to(device, dtype)).cpu()
    difference = [torch.distributions.Categorical(logits=z).entropy() for z in (a, b)]
    expected = (1 + (difference[0] - difference[1]).exp()).log().mean()
    assert_close(loss, expected, rtol=0, atol=1e-5 if dtype == torch.float32 else 0.02)
    assert entropy(a.to(dtype)).dtype == torch.float32

    order = torch.randperm(12)
    assert_close(enhancing_loss(a[order], b[order]), enhancing_loss(a, b))
    inputs = a[:4].double().requires_grad_(), b[:4].double().requires_grad_()
    assert gradcheck(enhancing_loss, inputs)


def test_logits_must_be_of_one_shape():
    with pytest.raises(TypeCheckError, match="parameter 'logits'"):
        enhancing_loss(torch.zeros(1, 2), torch.zeros(2, 2))


def naive_reducing(reduced, normalised):
    losses = []
    for identity in ids.unique():
        visible, infrared = [(ids == identity) & (modality == m) for m in (VISIBLE, INFRARED)]
        a, b = [(x[visible].mean(0) - x[infrared].mean(0)).norm() for x in (reduced, normalised)]
        losses.append((1 + (a - b).exp()).log())
    return torch.stack(losses).mean()


@pytest.mark.parametrize('dtype', dtypes, ids=str)
@pytest.mark.parametrize('device', devices)
def test_the_reducing_loss_of_every_dtype(dtype, device):
    reduced, normalised = (mask * f).to(device, dtype), f.to(device, dtype)
    loss = reducing_loss(reduced, normalised, ids.to(device), modality.to(device)).cpu()
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    assert_close(loss, naive_reducing(mask * f, f), rtol=0, atol=tolerance)


def test_the_mean_is_over_identities_not_over_images():
    "An identity with many images counts as one"
    x, who = torch.tensor([[0.0], [1.0], [0.0], [0.0], [3.0], [3.0]]), [0, 0, 1, 1, 1, 1]
    light = torch.tensor([0, 1, 0, 0, 1, 1])
    expected = F.softplus(torch.tensor([-0.5, -1.5])).mean()  # half of the distances 1 and 3
    assert_close(reducing_loss(x / 2, x, torch.tensor(who), light), expected)
    for order in (torch.randperm(6) for _ in range(3)):
        shuffled = x[order], torch.tensor(who)[order], light[order]
        assert_close(reducing_loss(shuffled[0] / 2, *shuffled), expected)


def test_far_from_zero_the_reducing_loss_is_the_difference_or_nothing():
    line, one = torch.tensor([[0.0], [2.0], [5.0]]), torch.tensor([7, 7, 7])
    light = torch.tensor([0, 0, 1])
    farther = line + 50 * light[:, None]
    assert_close(reducing_loss(farther, line, one, light), torch.tensor(50.0), rtol=0, atol=1e-4)
    assert reducing_loss(line, farther, one, light) < 1e-20


def test_centres_are_the_diagonal_of_all_distances():
    visible, infrared = [
        torch.stack([f[(ids == who) & (modality == m)].mean(0) for who in ids.unique()])
        for m in (VISIBLE, INFRARED)
    ]
    by_identity = pairwise_distances(visible, infrared).diagonal()
    row = torch.searchsorted(ids.unique(), ids)
    assert_close(centre_distances(f, ids, modality), by_identity[row], rtol=0, atol=1e-4)


def test_centres_have_the_slope_of_finite_differences():
    inputs = (mask * f).double().requires_grad_(), f.double().requires_grad_()
    assert gradcheck(lambda a, b: reducing_loss(a, b, ids, modality), inputs)


def test_squares_of_half_precision_do_not_overflow():
    large = centre_distances(300 * f.half(), ids, modality)
    assert large.dtype == torch.float32
    assert_close(large, 300 * centre_distances(f, ids, modality), rtol=0, atol=1.0)


def test_moving_all_or_exchanging_the_modalities_changes_nothing():
    loss = reducing_loss(mask * f, f, ids, modality)
    assert_close(reducing_loss(mask * f, f, ids, 1 - modality), loss)
    assert_close(reducing_loss(mask * f + 5, f - 3, ids, modality), loss, rtol=0, atol=1e-5)


def test_centres_that_coincide_have_no_slope():
    x = torch.ones(2, 3, requires_grad=True)
    reducing_loss(x, x, torch.tensor([0, 0]), torch.tensor([0, 1])).backward()
    assert torch.equal(x.grad, torch.zeros(2, 3))


def reducing_of_two(a, b):
    return reducing_loss(a, b, torch.arange(4) // 2, torch.arange(4) % 2)


@pytest.mark.parametrize('function', [enhancing_loss, reducing_of_two])
def test_the_reference_is_moved_as_far_as_the_masked_feature(function):
    "Where both are equal: nothing in Eq. 10 and 11 holds the reference still"
    z = torch.randn(4, 3)
    inputs = z.clone().requires_grad_(), z.clone().requires_grad_()
    toward, reference = torch.autograd.grad(function(*inputs), inputs)
    assert_close(toward, -reference, rtol=0, atol=1e-6)
    assert toward.abs().max() > 0


def test_an_identity_in_one_modality_gives_no_number():
    "Batches hold both; should one not, the training refuses the loss at its next look"
    only_visible = torch.where(ids == 9, VISIBLE, modality)
    assert torch.equal(centre_distances(f, ids, only_visible).isnan(), ids == 9)
    assert reducing_loss(f, f, ids, only_visible).isnan()
    assert centre_distances(f, ids, modality * 0).isnan().all()


def test_features_and_labels_must_fit():
    with pytest.raises(TypeCheckError, match=r'(?s)i64\[20\].*B=20|i64\[19\].*B=20'):
        reducing_loss(f, f, ids[1:], modality)
    with pytest.raises(TypeCheckError, match="parameter 'normalised'"):
        reducing_loss(f, f[:, 1:], ids, modality)
    with pytest.raises(TypeCheckError, match="parameter 'modality'"):
        centre_distances(f, ids, modality.bool())


def terms_of(x, who, light, **settings):
    torch.manual_seed(1)
    purifier, C, C_ip = InformationPurifier(16, reduction=4), nn.Linear(16, 5), nn.Linear(16, 5)
    pooled = purifier.pooled(x)
    logits = C(pooled.specific), C(pooled.enhanced), C_ip(pooled.purified)
    return pooled, logits, purifier_loss(pooled, *logits, who, light, **settings)


def test_settings_reach_the_terms_and_the_order_does_not():
    x, who, light = torch.rand(20, 16, 4, 2), torch.arange(20) % 5, torch.arange(20) // 5 % 2
    pooled, logits, terms = terms_of(x, who, light)
    changed = terms_of(x, who, light, margin=0.7, smoothing=0.1)[2]
    ce, triplet = reid_loss(pooled.purified, logits[2], who, 0.7, 0.1)
    assert torch.equal(changed['ce_ip'], ce)
    assert torch.equal(changed['triplet_ip'], triplet)
    assert not torch.equal(ce, terms['ce_ip'])

    order = torch.randperm(20)
    for name, term in terms_of(x[order], who[order], light[order])[2].items():
        assert_close(term, terms[name], rtol=0, atol=1e-5)
