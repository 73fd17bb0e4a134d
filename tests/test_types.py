"Checked signatures where a function goes further: compiled, exported, pickled, in another process."

import copy
import pickle

import pytest
import torch
from jaxtyping import Float, TypeCheckError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from idkl_nb.assembly import IDKLConfig
from idkl_nb.backbone import GeM, gem
from idkl_nb.common import typed
from idkl_nb.csa import csa_loss
from idkl_nb.identity import batch_hard_triplet
from idkl_nb.model import IDKL, IDKLObjective

config = IDKLConfig(backbone='narrow')
ids = torch.arange(4).repeat_interleave(4)
modality = torch.tensor([0, 0, 1, 1] * 4)


def network():
    torch.manual_seed(0)
    return IDKL(config, 4)


def images():
    return torch.rand(16, 3, 64, 32, generator=torch.Generator().manual_seed(0))


def total(model):
    return IDKLObjective(config)(model(images()), ids, modality).total


def test_a_compiled_network_gives_the_same_losses():
    expected = total(network())
    compiled = torch.compile(network(), backend='eager')
    torch.testing.assert_close(total(compiled), expected)
    total(compiled).backward()


def test_a_compiled_loss_is_one_graph():
    features = torch.rand(16, 8)
    compiled = torch.compile(batch_hard_triplet, backend='eager', fullgraph=True)
    expected = batch_hard_triplet(features, ids, 0.3)
    torch.testing.assert_close(compiled(features, ids, 0.3), expected)


@pytest.mark.parametrize('strict', [True, False])
def test_an_embedder_exports(strict):
    embedder = network().embedder()
    batch = torch.export.Dim('batch', min=2)
    exported = torch.export.export(
        embedder, (images(),), dynamic_shapes={'images': {0: batch}}, strict=strict
    )
    few = images()[:5]
    torch.testing.assert_close(exported.module()(few), embedder(few))


def test_autocast_goes_through():
    with torch.autocast('cpu', torch.bfloat16):
        features = network()(images())
    losses = IDKLObjective(config)(features, ids, modality)
    assert features.shared.logits.dtype == torch.bfloat16
    assert all(term.dtype == torch.float32 for term in losses.terms.values())
    losses.total.backward()


def test_networks_and_functions_are_pickled_and_copied():
    model = network().eval()
    expected = model.embedder()(images())
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert torch.equal(other.embedder()(images()), expected)
    assert pickle.loads(pickle.dumps(gem)) is gem
    assert pickle.loads(pickle.dumps(csa_loss)) is csa_loss


class Pooled(Dataset):
    "Maps that a worker pools"

    def __len__(self):
        return 4

    def __getitem__(self, n):
        maps = torch.full((2, 3, 4, 5), float(n + 1))
        return gem(maps[0] if n == 3 else maps)


@pytest.mark.parametrize('context', ['fork', 'spawn'])
def test_a_worker_checks_and_says_so(context):
    loader = DataLoader(Pooled(), batch_size=1, num_workers=1, multiprocessing_context=context)
    rows = iter(loader)
    for n in range(3):
        torch.testing.assert_close(next(rows), torch.full((1, 2, 3), float(n + 1)))
    with pytest.raises(Exception, match=r'f32\[3,4,5\]'):
        next(rows)
    rows._shutdown_workers()  # left to the garbage collector, it may wait for five seconds


@typed
def inner(a: Float[Tensor, ' N']) -> Float[Tensor, ' N']:
    return a


@typed
def outer(a: Float[Tensor, ' N'], share: float = 1.0) -> Float[Tensor, ' N']:
    inner('no tensor')  # a mistake of this function, not of its caller
    return a * share


def test_only_the_outer_call_is_checked():
    row = torch.ones(3)
    assert torch.equal(outer(row), row)
    for wrong in (row[None], row.int(), 'row'):
        with pytest.raises(TypeCheckError, match="parameter 'a'"):
            outer(wrong)
        with pytest.raises(TypeCheckError, match="parameter 'a'"):
            inner(wrong)  # after a refusal, too, an outer call is one


def test_a_whole_number_may_stand_where_a_fraction_is_meant():
    row = torch.ones(3)
    assert torch.equal(outer(row, 2), 2 * row)
    with pytest.raises(TypeCheckError, match="parameter 'share'"):
        outer(row, '2')


def test_a_result_is_checked_too():
    @typed
    def wrong(a: Float[Tensor, ' N']) -> Float[Tensor, '']:
        return a

    with pytest.raises(TypeCheckError, match='return'):
        wrong(torch.ones(3))


def test_a_typed_method_keeps_its_name_and_words():
    assert gem.__name__ == 'gem'
    assert gem.__doc__.startswith('Generalised mean pooling')
    assert isinstance(repr(GeM()), str)
