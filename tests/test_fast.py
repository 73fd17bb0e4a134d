"The poolings with a backward pass written by hand, against the plain lines."

import pytest
import torch
from jaxtyping import TypeCheckError
from torch.autograd import gradcheck
from torch.testing import assert_close

from idkl_nb.backbone import GeM, gem
from idkl_nb.fast import fast_gem, fast_pool_three
from idkl_nb.purifier import InformationPurifier, pool_three

devices = ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']
PAIRS = {'one': (fast_gem, gem), 'three': (fast_pool_three, pool_three)}
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.02}


def some_maps():
    torch.manual_seed(0)
    return torch.randn(9, 6, 5, 3).relu() * torch.rand(6, 1, 1) * 5


def dead(maps):
    "A channel without any activation"
    maps = maps.clone()
    maps[0, 0] = 0
    return maps


CHANGES = {
    'as they are': lambda maps: maps,
    'a dead channel': dead,
    'another layout': lambda maps: maps.contiguous(memory_format=torch.channels_last),
    'negative values': lambda maps: maps - 1,
    'large values': lambda maps: 200 * maps,
}


def with_slope(pool, maps, *settings, **portions):
    "Pooled vectors, and the gradient of a weighted sum of them"
    leaf = maps.detach().clone().requires_grad_()
    pooled = pool(leaf, *settings, **portions)
    pooled = torch.stack(pooled) if isinstance(pooled, tuple) else pooled
    weights = torch.linspace(-1, 1, pooled.numel(), dtype=pooled.dtype, device=maps.device)
    (pooled * weights.view_as(pooled)).sum().backward()
    return pooled.detach(), leaf.grad


@pytest.mark.parametrize('pair', PAIRS)
@pytest.mark.parametrize('change', CHANGES)
@pytest.mark.parametrize('device', devices)
def test_value_and_gradient_are_those_of_the_plain_form(pair, change, device):
    maps = CHANGES[change](some_maps()).to(device)
    fast, plain = PAIRS[pair]
    expected = with_slope(plain, maps)
    for chunk in (1, 4, 8, 100):
        for ours, theirs in zip(with_slope(fast, maps, chunk=chunk), expected):
            assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('pair', PAIRS)
@pytest.mark.parametrize('p', [1.5, 2.0, 3.0, 4.5])
def test_every_exponent(pair, p):
    fast, plain = PAIRS[pair]
    maps = some_maps() - 0.5
    for ours, theirs in zip(with_slope(fast, maps, p), with_slope(plain, maps, p)):
        assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    exact = torch.randn(3, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: fast(x, p, chunk=2), exact)


@pytest.mark.parametrize('pair', PAIRS)
@pytest.mark.parametrize('dtype', TOLERANCE, ids=str)
@pytest.mark.parametrize('device', devices)
def test_every_dtype(pair, dtype, device):
    fast, plain = PAIRS[pair]
    maps = some_maps().to(device, dtype)
    pooled, slope = with_slope(fast, maps)
    assert pooled.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert slope.dtype == dtype

    pooled_plain, slope_plain = with_slope(plain, maps)
    tolerance = dict(rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    assert_close(pooled, pooled_plain, **tolerance)
    assert_close(slope, slope_plain, **tolerance)


def kept_maps(pool, maps):
    "Storage that autograd holds besides the map itself, in maps"
    sizes = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        alive = pool(maps)
    sizes.pop(maps.untyped_storage().data_ptr(), None)
    del alive
    return sum(sizes.values()) / maps.untyped_storage().nbytes()


@pytest.mark.parametrize('pair', PAIRS)
def test_no_map_is_kept(pair):
    fast, plain = PAIRS[pair]
    maps = torch.rand(2, 64, 24, 9, requires_grad=True)
    assert kept_maps(fast, maps) < 0.1
    assert kept_maps(plain, maps) > 0.9


def test_the_purifier_keeps_no_map_in_training():
    maps = torch.rand(2, 64, 24, 9, requires_grad=True)
    purifier = InformationPurifier(64)
    assert kept_maps(purifier.pooled, maps) < 0.5 < kept_maps(purifier.eval().pooled, maps)


def test_layers_take_the_fast_form_in_training_alone():
    maps = some_maps().requires_grad_()
    assert GeM()(maps).grad_fn.name() == 'PoolOneBackward'
    assert GeM().eval()(maps).grad_fn.name() != 'PoolOneBackward'
    assert GeM(learn=True)(maps).grad_fn.name() != 'PoolOneBackward'
    assert GeM(p=1.0)(maps).grad_fn.name() != 'PoolOneBackward'
    purifier = InformationPurifier(6, 2)
    assert purifier.pooled(maps).specific.grad_fn.name() == 'PoolThreeBackward'
    assert purifier.eval().pooled(maps).specific.grad_fn.name() != 'PoolThreeBackward'


def test_what_they_cannot_treat_is_refused():
    maps = some_maps()
    with pytest.raises(ValueError, match='p must be above 1, got 1.0; backbone.gem'):
        fast_gem(maps, 1.0)
    with pytest.raises(ValueError, match='exponent above 1 .* got 1.0'):
        fast_pool_three(maps, p=1.0)
    with pytest.raises(ValueError, match=r'at least two places, got 3.0 and \(9, 6, 1, 1\)'):
        fast_pool_three(maps[..., :1, :1])
    with pytest.raises(RuntimeError, match='split_size'):
        fast_pool_three(maps, chunk=0)
    for fast in (fast_gem, fast_pool_three):
        with pytest.raises(TypeCheckError, match="'maps'"):
            fast(maps[0])
        with pytest.raises(TypeCheckError, match="'p'"):
            fast(maps, torch.tensor(3.0))


@pytest.mark.parametrize('pair', PAIRS)
def test_there_is_no_second_gradient(pair):
    "It is refused, not wrong"
    maps = some_maps().requires_grad_()
    pooled = PAIRS[pair][0](maps)
    total = torch.stack([*pooled]).square().sum()
    slope = torch.autograd.grad(total, maps, create_graph=True)[0]
    with pytest.raises(RuntimeError, match='once_differentiable'):
        slope.square().sum().backward()
