"""AGW, CAJ and DEEN: their losses against loops, and a few steps of each in the real training"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from idkl_nb.assembly import IDKLConfig
from idkl_nb.augmentation import step_generator
from idkl_nb.common import VISIBLE
from idkl_nb.config import PRESETS
from idkl_nb.devices import make_accelerator
from idkl_nb.features import embed
from idkl_nb.readers import read_sysu
from idkl_nb.records import Batch
from idkl_nb.rival_agw import NonLocal, Output, weighted_triplet
from idkl_nb.rival_caj import joint_batch, squared_triplet
from idkl_nb.rival_deen import RIVALS, DEENObjective, overlap, pair_mining
from idkl_nb.training import fit
from idkl_nb.world import World
from idkl_nb.writers import write_sysu

config = replace(PRESETS['smoke'], epochs=3, batches=1, milestones=(2,), precision='no')
small = IDKLConfig(backbone='narrow')


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'world'
    groups = range(1, 6), [6], range(7, 10)
    return read_sysu(write_sysu(World(height=64, width=32), root, *groups, images=4))


@pytest.fixture(scope='module', params=RIVALS)
def trained(request, world, tmp_path_factory):
    "A rival after three steps: its name, its network and its log"
    people = world.where(split=('train', 'val'))
    folder = tmp_path_factory.mktemp('runs') / request.param
    network, log = fit(config, people, folder, progress=False, method=RIVALS[request.param])
    return request.param, network, log


def batch_of(P=4, K=3, C=5, seed=0):
    "Features, identities and modalities as the sampler orders them"
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2 * P * K, C, generator=generator, dtype=torch.float64)
    ids = torch.arange(P).repeat_interleave(2 * K)
    modality = torch.arange(2).repeat_interleave(K).repeat(P)
    return features, ids, modality


def differences(features, ids):
    "Weighted far positives minus weighted near negatives of each anchor, without masks"
    d = torch.cdist(features, features).numpy()
    rows = []
    for i in range(len(ids)):
        positive = [d[i, j] for j in range(len(ids)) if ids[j] == ids[i] and j != i]
        negative = [d[i, j] for j in range(len(ids)) if ids[j] != ids[i]]
        far = np.average(positive, weights=np.exp(positive))
        rows.append(far - np.average(negative, weights=np.exp(-np.array(negative))))
    return rows


@pytest.mark.parametrize('scale', [0.1, 1, 30])
def test_the_weighted_triplets_are_those_of_a_loop(scale):
    features, ids, _ = batch_of()
    x = differences(scale * features, ids)
    plain = np.logaddexp(0, x).mean()
    squared = np.logaddexp(0, [math.copysign(value**2, value) for value in x]).mean()
    assert weighted_triplet(scale * features, ids).item() == pytest.approx(plain, rel=1e-6)
    assert squared_triplet(scale * features, ids).item() == pytest.approx(squared, rel=1e-6)


@pytest.mark.parametrize('loss', [weighted_triplet, squared_triplet])
def test_the_triplets_have_the_gradient_of_small_differences(loss):
    features, ids, _ = batch_of(P=3, K=1)
    assert torch.autograd.gradcheck(lambda x: loss(x, ids), features.requires_grad_())


@pytest.mark.parametrize('loss', [weighted_triplet, squared_triplet])
def test_descent_on_a_triplet_sorts_by_person(loss):
    "Points that lie sorted by modality at first"
    features, ids, modality = batch_of(C=3)
    points = (features + 2 * modality[:, None]).requires_grad_()
    optimiser = torch.optim.SGD([points], lr=0.3)
    for _ in range(300):
        optimiser.zero_grad()
        (len(ids) * loss(points, ids) / 4).backward()
        optimiser.step()
    d = torch.cdist(points, points).detach().fill_diagonal_(torch.inf)
    assert (ids[d.argmin(1)] == ids).all()


@pytest.mark.parametrize('loss', [weighted_triplet, squared_triplet])
def test_equal_features_give_finite_gradients(loss):
    points = torch.ones(8, 4, requires_grad=True)
    value = loss(points, torch.arange(4).repeat(2))
    value.backward()
    assert value.item() == pytest.approx(math.log(2))
    assert points.grad.isfinite().all()


def test_pair_mining_leaves_the_origin_alone():
    "Its gradient is that of small differences where the distance to the origin is held fixed"
    original, ids, modality = batch_of(C=3)
    new = batch_of(C=3, seed=1)[0].requires_grad_()
    (gradient,) = torch.autograd.grad(pair_mining(original, new, ids, modality, 5.0), new)

    # the hinges are all open at this margin, so home adds a constant
    def centre(features, m):
        return torch.stack([features[(ids == n) & (modality == m)].mean(0) for n in range(4)])

    total = 0
    for m in (0, 1):
        made, own = centre(new, m), centre(original, m)
        across = (made - centre(original, 1 - m)).norm(dim=1)
        apart = torch.cdist(made, made) + torch.diag(torch.full((4,), torch.inf))
        own_apart = torch.cdist(own, own) + torch.diag(torch.full((4,), torch.inf))
        open_ones = across - 0.5 * apart.amin(1) - 0.5 * own_apart.amin(1) + across
        total = total + open_ones.mean() / 2
    (expected,) = torch.autograd.grad(total, new)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


def test_pair_mining_is_nothing_where_new_features_are_of_the_other_modality():
    _, ids, modality = batch_of()
    original = torch.stack([10.0 * ids, 1.0 * modality], 1)
    new = torch.stack([10.0 * ids, 1.0 - modality], 1)
    assert pair_mining(original, new, ids, modality).item() == 0
    assert pair_mining(original, original, ids, modality).item() == pytest.approx(1.2, rel=1e-4)


def test_overlap_counts_each_pair_of_branches_once():
    pooled = torch.randn(5, 3, 4)
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = sum((pooled[:, a] * pooled[:, b]).sum(1).mean() for a, b in pairs)
    torch.testing.assert_close(overlap(pooled), expected)


def test_the_joint_batch_adds_the_visible_images_in_one_channel():
    _, ids, modality = batch_of()
    images = torch.randint(256, (24, 3, 8, 4), dtype=torch.uint8)
    batch = Batch(images, ids, modality, torch.arange(24))
    joint = joint_batch(batch, step_generator(0, 0))

    assert torch.equal(joint.images[:24], images)
    visible = (modality == VISIBLE).nonzero()[:, 0]
    assert joint.camera[24:].tolist() == visible.tolist()
    assert torch.equal(joint.ids[24:], ids[visible]) and not joint.modality[24:].any()

    chosen = set()
    for row, added in zip(visible, joint.images[24:]):
        equal = [c for c in range(3) if torch.equal(added, images[row, c].expand(3, -1, -1))]
        assert len(equal) == 1
        chosen |= set(equal)
    assert chosen == {0, 1, 2}
    again = joint_batch(batch, step_generator(0, 0))
    assert torch.equal(joint.images, again.images)


def test_caj_trains_on_its_own_augmentation():
    trainer = RIVALS['caj'](replace(config, channel=0.5), 6, make_accelerator('no'))
    assert trainer.augment.channel == 0
    with pytest.raises(ValueError, match='gather = True: CAJ'):
        RIVALS['caj'](replace(config, gather=True), 6, make_accelerator('no'))


@pytest.mark.parametrize('name', RIVALS)
def test_a_rival_begins_with_the_weights_of_the_settings(name):
    "The blocks that are added begin as the identity"
    network = RIVALS[name].network(replace(small, weights='WORLD_V1'), 6).eval()
    plain = RIVALS[name].network(replace(small, weights='WORLD_V1'), 6).eval()
    for layers in (plain.early[5], plain.early[6]):
        assert isinstance(layers[-1][1], NonLocal)
        layers[-1] = layers[-1][0]
    images = torch.randn(2, 3, 64, 32)
    torch.testing.assert_close(network.early(images), plain.early(images))
    other = RIVALS[name].network(small, 6).eval()
    assert not torch.allclose(other.early(images), plain.early(images))


@pytest.mark.parametrize('name', RIVALS)
def test_a_rival_takes_the_large_backbone(name):
    network = RIVALS[name].network(IDKLConfig(), 6)
    assert network(torch.randn(2, 3, 32, 32)).logits.shape[-1] == 6
    assert sum(isinstance(module, NonLocal) for module in network.modules()) == 5


@pytest.mark.parametrize('name', RIVALS)
def test_what_is_said_of_an_image_is_its_own(name):
    network = RIVALS[name].network(replace(small, weights='WORLD_V1'), 6).eval()
    images = torch.randn(3, 3, 64, 32)
    for whole, one in zip(network(images), network(images[1:2])):
        torch.testing.assert_close(whole[1:2], one)
    embedder = network.embedder()
    torch.testing.assert_close(embedder(images)[1:2], embedder(images[1:2]))


def test_deen_teaches_all_embeddings_of_an_image_its_identity():
    "Three embeddings that are right cost nothing, and cost much under the labels of others"
    _, ids, modality = batch_of()
    logits = 100 * torch.eye(4)[ids][:, None].expand(-1, 3, -1)
    pooled = torch.stack([100.0 * ids, 100.0 * ids**2], 1)[:, None].expand(-1, 3, -1)
    objective = DEENObjective(small)
    terms = objective(Output(pooled, logits), ids, modality).terms
    assert terms['ce'].item() == pytest.approx(0) and terms['triplet'].item() == 0
    terms = objective(Output(pooled, logits), ids.roll(3), modality).terms
    assert terms['ce'].item() == pytest.approx(50) and terms['triplet'] > 50


def test_deen_adds_up_its_branches_and_leaves_the_original_out_of_the_overlap():
    _, ids, modality = batch_of()
    pooled, logits = torch.randn(24, 3, 5), torch.randn(24, 3, 4)
    losses = DEENObjective(small)(Output(pooled, logits), ids, modality)

    original, one, other = pooled.unbind(1)
    cpm = pair_mining(original, one, ids, modality) + pair_mining(original, other, ids, modality)
    torch.testing.assert_close(losses.terms['cpm'], cpm)
    torch.testing.assert_close(losses.terms['ort'], (one * other).sum(1).mean())
    terms = losses.terms
    total = terms['ce'] + terms['triplet'] + 0.8 * cpm + 0.01 * terms['ort']
    torch.testing.assert_close(losses.total, total)


@pytest.mark.parametrize('name', RIVALS)
def test_losses_ask_the_device_for_nothing(name):
    "On tensors that have no values, every question for one fails"
    _, ids, modality = batch_of()
    images = torch.empty(24, 3, 8, 4, dtype=torch.uint8, device='meta')
    joint = joint_batch(Batch(images, ids, modality, ids), step_generator(0, 0))
    assert joint.images.is_meta and len(joint.images) == 36

    copies = (3,) if name == 'deen' else ()
    features = Output(*(torch.empty(24, *copies, n, device='meta') for n in (5, 4)))
    objective = RIVALS[name].objective_of(small)
    assert objective(features, ids.to('meta'), modality.to('meta')).total.is_meta


def test_a_rival_trains(trained):
    "Three steps of the real training: losses are finite, and every weight has moved"
    name, network, log = trained
    assert len(log) == 3
    assert np.isfinite(log.select_dtypes('number')).all(axis=None)
    torch.manual_seed(config.seed)
    before = RIVALS[name].network(config.model, 6)
    weights = dict(network.named_parameters())
    still = {k for k, value in before.named_parameters() if torch.equal(value, weights[k])}
    assert not still


def test_a_rival_embeds(trained, world):
    name, network, _ = trained
    test = world.where(split='test')
    mode = [module.training for module in network.modules()]
    features = embed(network.embedder(), test, 64, 32, progress=False).features
    assert features.shape == (len(test), 768 if name == 'deen' else 256)
    assert features.isfinite().all() and features.std(0).min() > 0
    assert [module.training for module in network.modules()] == mode
