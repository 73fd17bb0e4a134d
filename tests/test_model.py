"The network and its objective: settings, input, what is switched off, precision, compiling."

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from jaxtyping import TypeCheckError
from torch.testing import assert_close

from idkl_nb.assembly import BASELINE, IDKLConfig
from idkl_nb.backbone import BNNeck
from idkl_nb.fast_pairs import TRY_ALL
from idkl_nb.model import IDKL, Features, IDKLObjective, borrow

CONFIG = IDKLConfig(backbone='narrow')
DEVICES = ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']
CHANGES = {
    'the baseline': BASELINE,
    'the paper': {},
    'a mean and a teacher that stays': dict(reduction='mean', stop_gradient=True),
    'a purified teacher': dict(teacher='purified'),
    'all that can be chosen': dict(
        teacher='purified', stop_gradient=True, smoothing=0.1, gem_learn=True, taps=1
    ),
}


def batch(K=2, height=64):
    torch.manual_seed(0)
    images = torch.rand(12 * K, 3, height, height // 2)
    return images, torch.arange(12 * K) % 6, torch.arange(12 * K) // 6 % 2


def network(config=CONFIG, identities=6):
    torch.manual_seed(0)
    return IDKL(config, identities)


@pytest.mark.parametrize(
    'wrong, words',
    [
        (dict(taps=4), r'taps must be one of \(1, 2, 3\), got 4'),
        (dict(last_stride=3), r'last_stride must be one of \(1, 2\), got 3'),
        (dict(reduction='max'), r"reduction must be one of \('sum', 'mean'\), got 'max'"),
        (dict(teacher='shared'), r"teacher must be one of .*, got 'shared'"),
        (dict(ratio=0), 'ratio must be positive, got 0'),
        (dict(gem_p=float('nan')), 'gem_p must be positive, got nan'),
        (dict(modality_hidden=-1), 'modality_hidden must be positive'),
        (dict(smoothing=2), 'smoothing must be between 0 and 1, got 2'),
        (dict(margin=-0.1), 'margin must be a number of at least 0'),
        (dict(lambda_csa=-1.0), 'lambda_csa must be a number of at least 0, got -1.0'),
        (dict(lambda_csa=float('nan')), 'lambda_csa must be a number of at least 0, got nan'),
        (dict(teacher='purified', **BASELINE), 'where lambda_ip is 0: no purifier is trained'),
    ],
)
def test_settings_that_cannot_be_are_named(wrong, words):
    with pytest.raises(ValueError, match=words):
        IDKLConfig(**wrong)


@pytest.mark.parametrize(
    'wrong, words',
    [
        (dict(taps='3'), "taps = '3': expected int, not str"),
        (dict(taps=True), 'taps = True: expected int, not bool'),
        (dict(weights=3), 'weights = 3'),
        (dict(lambda_ip=None), 'lambda_ip = None: expected float'),
    ],
)
def test_settings_of_another_type_are_named(wrong, words):
    with pytest.raises(TypeError, match=words):
        IDKLConfig(**wrong)


def test_a_whole_number_is_a_number():
    assert IDKLConfig(lambda_mdr=1).lambda_mdr == 1


def test_one_identity_is_no_task():
    with pytest.raises(ValueError, match='1 training identities: a classifier needs at least 2'):
        network(identities=1)


@pytest.mark.parametrize(
    'change, words',
    [
        (lambda x: x[:, :1], r'f32\[24,1,64,32\]'),
        (lambda x: x[0], r'f32\[3,64,32\]'),
        (lambda x: (255 * x).byte(), r'u8\[24,3,64,32\]'),
    ],
)
def test_what_is_no_batch_of_normalised_images_is_named(change, words):
    model, images = network(), batch()[0]
    for reads in (model, model.embedder()):
        with pytest.raises(TypeCheckError, match=f"'images'(.|\n)*{words}"):
            reads(change(images))


@pytest.mark.parametrize('device', DEVICES)
def test_devices_agree(device):
    model, images = network().eval(), batch()[0]
    expected = model(images).shared.necked
    found = model.to(device)(images.to(device)).shared.necked
    assert_close(found.cpu(), expected, rtol=0, atol=1e-3)


def test_the_purifier_pools_the_specific_feature_itself():
    model, images = network(), batch()[0]
    features = model(images)
    assert torch.equal(features.specific.pooled, features.purified.pooled.specific)
    assert features.purified.logits_purified.shape == (24, 6)
    assert model.necks['specific'].norm.num_batches_tracked == 1  # the enhanced one leaves no trace
    assert [z.shape for z in features.specific.modality] == [(24, 2)] * 3


def test_the_embedder_shares_weights_and_leaves_the_mode_alone():
    model = network()
    embedder = model.embedder()
    assert not any(part.training for part in embedder.modules())
    assert all(part.training for part in model.modules())
    ours, theirs = embedder.theta.parameters(), model.backbone.theta.parameters()
    assert [id(parameter) for parameter in ours] == [id(parameter) for parameter in theirs]


def test_a_borrowed_neck_does_what_the_neck_does():
    torch.manual_seed(0)
    neck, x = BNNeck(5), torch.randn(9, 5)
    before = copy.deepcopy(neck.state_dict())
    borrowed = borrow(neck, x)
    for name, value in neck.state_dict().items():
        assert torch.equal(value, before[name])
    assert_close(borrowed, neck(x))


def test_what_is_off_is_not_built():
    model = network(replace(CONFIG, **BASELINE, lambda_c=0.0))
    assert model.purifier is None and list(model.modality) == ['specific']
    assert 'purified' not in model.necks
    features = model(batch()[0])
    assert features.purified is None and features.shared.modality == []


@pytest.mark.parametrize('changes', CHANGES.values(), ids=CHANGES)
def test_every_parameter_has_a_gradient_and_every_weight_a_term(changes):
    config = replace(CONFIG, **changes)
    model, (images, ids, modality) = network(config), batch()
    objective = IDKLObjective(config, K=2)
    losses = objective(model(images), ids, modality)
    losses.total.backward()
    assert list(losses.terms) == list(objective.weights)
    assert all(parameter.grad is not None for parameter in model.parameters())


WEIGHTS = dict(lambda_ip=0.1, lambda_tgsa=0.6, lambda_csa=0.8, lambda_mdr=1.0)
TABLE_4 = ['', 'tgsa', 'ip tgsa', 'ip csa', 'ip mdr', 'ip tgsa csa mdr']
TERMS = {
    'lambda_c': ['C'],
    'lambda_d': ['D'],
    'lambda_ip': ['enhance', 'reduce', 'ce_ip', 'triplet_ip'],
    'lambda_tgsa': ['tgsa'],
    'lambda_csa': ['csa'],
    'lambda_mdr': ['mdr'],
}


def terms_that_move_all(config):
    "Names of the terms, of a network in which each parameter gets a gradient other than 0"
    model, (images, ids, modality) = network(config), batch()
    losses = IDKLObjective(config)(model(images), ids, modality)
    losses.total.backward()
    assert all(parameter.grad.any() for parameter in model.parameters())
    return list(losses.terms)


@pytest.mark.parametrize('row', TABLE_4)
def test_the_rows_of_table_4_can_be_had(row):
    on = {f'lambda_{name}': WEIGHTS[f'lambda_{name}'] for name in row.split()}
    config = replace(CONFIG, **BASELINE | on)
    expected = ['ce_sh', 'triplet_sh', 'C', 'ce_sp', 'triplet_sp', 'D']
    expected += [term for name in on for term in TERMS[name]]
    assert terms_that_move_all(config) == expected


@pytest.mark.parametrize('weight', TERMS)
def test_a_weight_of_0_switches_its_terms_off_and_no_other(weight):
    all_terms = list(IDKLObjective(CONFIG).weights)
    expected = [name for name in all_terms if name not in TERMS[weight]]
    assert terms_that_move_all(replace(CONFIG, **{weight: 0.0})) == expected


@pytest.mark.parametrize(
    'changes', [{}, dict(reduction='mean', stop_gradient=True, teacher='purified')]
)
def test_the_order_of_a_batch_changes_no_loss(changes):
    "In evaluation mode, for batch statistics would add up in another order"
    config = replace(CONFIG, **changes)
    rows, order = batch(), torch.randperm(24)
    values = []
    for images, ids, modality in (rows, [column[order] for column in rows]):
        losses = IDKLObjective(config)(network(config).eval()(images), ids, modality)
        values.append({name: term.item() for name, term in losses.terms.items()})
    for name, value in values[0].items():
        assert values[1][name] == pytest.approx(value, abs=1e-3 * max(1, value))


def first_gradient(alpha, term, branch):
    "Of a modality term at the first weights of a branch"
    config = replace(CONFIG, alpha=alpha)
    model, (images, ids, modality) = network(config), batch()
    terms = IDKLObjective(config)(model(images), ids, modality).terms
    return torch.autograd.grad(terms[term], next(getattr(model.backbone, branch).parameters()))[0]


@pytest.mark.parametrize('term, branch, times', [('C', 'phi', 2), ('D', 'psi', 1)])
def test_the_reversal_stands_between_confusers_and_branch_alone(term, branch, times):
    expected = times * first_gradient(1.0, term, branch)
    assert expected.abs().max() > 1e-4
    assert_close(first_gradient(2.0, term, branch), expected, rtol=0, atol=1e-5)


def test_labels_are_as_good_on_every_device():
    images, ids, modality = batch()
    expected = IDKLObjective(CONFIG)(network().eval()(images), ids, modality)
    for device in DEVICES:
        features = network().eval().to(device)(images.to(device))
        losses = IDKLObjective(CONFIG)(features, ids.to(device), modality.to(device))
        for name, term in losses.terms.items():
            close = 1e-3 * max(1, term.item())
            assert term.item() == pytest.approx(expected.terms[name].item(), abs=close)


@pytest.mark.parametrize('K', [1, 2, TRY_ALL + 1])
def test_pairs_are_the_same_whether_K_is_known_or_not(K):
    images, ids, modality = batch(K, height=16)
    pooled = torch.randn(len(ids), 8)
    known = IDKLObjective(CONFIG, K).pairs(pooled, ids, modality)
    unknown = IDKLObjective(CONFIG).pairs(pooled, ids, modality)
    assert all(torch.equal(*both) for both in zip(known, unknown))


def on_meta(x):
    "The same tree of tensors on the device without values, where reading one raises"
    if isinstance(x, torch.Tensor):
        return x.detach().to('meta').requires_grad_(x.is_floating_point())
    if isinstance(x, list):
        return [on_meta(part) for part in x]
    return x if x is None else type(x)(*[on_meta(part) for part in x])


@pytest.mark.parametrize('changes', CHANGES.values(), ids=CHANGES)
def test_the_alignments_ask_the_device_nothing(changes):
    config = replace(CONFIG, **changes)
    images, ids, modality = batch()
    features = on_meta(network(config)(images))
    assert isinstance(features, Features)
    terms = IDKLObjective(config, K=2).alignments(features, ids.to('meta'), modality.to('meta'))
    sum(terms.values(), features.shared.pooled.sum()).backward()
    assert features.shared.pooled.grad.device.type == 'meta'


@pytest.mark.parametrize('changes', CHANGES.values(), ids=CHANGES)
def test_the_objective_asks_the_device_nothing(changes):
    config = replace(CONFIG, **changes)
    images, ids, modality = batch()
    features = on_meta(network(config)(images))
    losses = IDKLObjective(config, K=2)(features, ids.to('meta'), modality.to('meta'))
    losses.total.backward()


def test_reading_a_value_from_meta_raises():
    z = torch.empty(24, 6, device='meta', requires_grad=True)
    modality = batch()[2].to('meta')
    for reads in (lambda: z[modality == 0], lambda: z.sum().item()):
        with pytest.raises((NotImplementedError, RuntimeError)):
            reads()


def test_an_empty_batch_is_refused():
    images, ids, modality = batch()
    features = network()(images)
    empty = Features(*[branch._replace(pooled=branch.pooled[:0]) for branch in features[:2]], None)
    with pytest.raises(ValueError, match='the batch is empty'):
        IDKLObjective(CONFIG)(empty, ids[:0], modality[:0])


@pytest.mark.parametrize(
    'change, words',
    [
        (lambda ids, modality: (ids[1:], modality), r'i64\[2[34]\]'),
        (lambda ids, modality: (ids.float(), modality), r"'ids'(.|\n)*f32\[24\]"),
        (lambda ids, modality: (ids, modality > 0), r"'modality'(.|\n)*bool\[24\]"),
    ],
)
def test_labels_that_do_not_fit_are_named(change, words):
    images, ids, modality = batch()
    with pytest.raises(TypeCheckError, match=words):
        IDKLObjective(CONFIG)(network()(images), *change(ids, modality))


@pytest.mark.parametrize('name', ['the baseline', 'all that can be chosen'])
def test_the_compiled_network_says_the_same(name):
    config = replace(CONFIG, **CHANGES[name])
    images = batch()[0]
    expected = network(config)(images)
    torch.compiler.reset()
    found = torch.compile(network(config), backend='eager')(images)
    assert_close(found.shared, expected.shared)
    assert_close(found.specific.logits, expected.specific.logits)
    if expected.purified is not None:
        assert_close(found.purified.logits_purified, expected.purified.logits_purified)


def test_nothing_but_the_purifier_breaks_the_graph():
    config = replace(CONFIG, **BASELINE)
    images = batch()[0]
    found = torch.compile(network(config), backend='eager', fullgraph=True)(images)
    assert_close(found.shared, network(config)(images).shared)


@pytest.mark.parametrize('device', DEVICES)
def test_half_precision_gives_nearly_the_same_losses(device):
    images, ids, modality = [x.to(device) for x in batch()]
    model, objective = network().to(device), IDKLObjective(CONFIG, K=2)
    expected = objective(model(images), ids, modality)
    with torch.autocast(device, torch.bfloat16):
        features = model(images)
    losses = objective(features, ids, modality)
    losses.total.backward()
    for name, term in losses.terms.items():
        assert term.isfinite() and term.dtype == torch.float32
        assert term.item() == pytest.approx(expected.terms[name].item(), rel=0.2, abs=0.2)


def test_networks_can_be_copied_and_pickled():
    model, images = network().eval(), batch()[0]
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(images).shared.necked, model(images).shared.necked)
