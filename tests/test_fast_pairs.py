"Pairing on the device finds what the Hungarian method finds."

import itertools

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch.testing import assert_close

from idkl_nb.fast_pairs import TRY_ALL, all_ways, pair_on_device, try_all
from idkl_nb.mdr import pair_modalities

DEVICES = ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']


def batch(P=12, K=5, C=8, dtype=torch.float64):
    torch.manual_seed(K)
    order = torch.randperm(2 * P * K)
    ids = torch.arange(P).repeat(2 * K)[order]
    modality = torch.arange(2).repeat_interleave(P * K)[order]
    return torch.randn(2 * P * K, C, dtype=dtype), ids, modality


def total(costs, columns):
    return costs.gather(2, columns[..., None]).sum((1, 2))


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('K', range(1, 8))
def test_all_ways_and_the_hungarian_method_agree(K, device):
    costs = torch.rand(12, K, K, dtype=torch.float64, device=device)
    columns = [linear_sum_assignment(problem)[1].tolist() for problem in costs.cpu()]
    assert try_all(costs).tolist() == columns


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('K', range(1, TRY_ALL + 1))
def test_equal_costs_are_as_cheap_either_way(K, device):
    torch.manual_seed(0)
    costs = torch.randint(3, (12, K, K)).double()
    columns = torch.stack([torch.tensor(linear_sum_assignment(problem)[1]) for problem in costs])
    assert_close(total(costs, try_all(costs.to(device)).cpu()), total(costs, columns))


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize('K', [1, 4, 5, TRY_ALL])
def test_both_forms_give_the_same_rows_in_the_same_order(K, dtype, device):
    features, ids, modality = [x.to(device) for x in batch(K=K, dtype=dtype)]
    fast = pair_on_device(features, 100 * ids - 7, modality.int(), K)
    expected = pair_modalities(features, ids, modality)
    assert all(torch.equal(*both) for both in zip(fast, expected))
    assert [rows.device.type for rows in fast] == [device, device]


def test_equal_costs_are_decided_alike_in_every_order():
    corners = torch.tensor([[0.0, 0], [1, 1], [0, 1], [1, 0]])
    modality = torch.tensor([0, 0, 1, 1])
    pairings = set()
    for order in itertools.permutations(range(4)):
        order = torch.tensor(order)
        rows = pair_on_device(corners[order], torch.zeros(4, dtype=int), modality[order], 2)
        pairings.add(frozenset(zip(*[order[side].tolist() for side in rows])))
    assert len(pairings) == 1


def test_nothing_is_read_from_the_device():
    features, ids, modality = [x.to('meta') for x in batch()]
    visible, infrared = pair_on_device(features.requires_grad_(), ids, modality, 5)
    assert visible.shape == infrared.shape == (60,)
    assert not visible.requires_grad and not infrared.requires_grad
    with pytest.raises((NotImplementedError, RuntimeError)):
        pair_modalities(features, ids, modality)  # the plain form reads, and can't


def test_the_ways_travel_once():
    assert all_ways(4, torch.device('cpu')) is all_ways(4, torch.device('cpu'))
    assert len(all_ways(4, torch.device('cpu'))) == 24


def test_a_batch_that_is_no_table_is_refused():
    with pytest.raises(RuntimeError, match='shape'):
        pair_on_device(*[x[:-1] for x in batch()], 5)
