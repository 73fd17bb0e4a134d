"Lists, sets and encodings as sparse matrices, and what a query changes in them."

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from idkl_nb.encodings import (
    encode,
    expanded_sets,
    jaccard_distances,
    neighbour_lists,
    pair_distances,
    reciprocal,
)
from idkl_nb.identity import pairwise_distances
from idkl_nb.query_changes import changed_sets, reciprocal_changes
from idkl_nb.rerank_gallery import Slots, lay_out, overlap_distances

k1 = 6
gallery = torch.tensor([8.0, 13, 14, 17, 19, 22, 28, 29])[:, None]
query = torch.tensor([[1.0]])
points = torch.cat([gallery, query])  # (9, 1)


def test_each_point_heads_its_own_list():
    lists = neighbour_lists(points, k1 + 1, chunk=4)
    distances = pairwise_distances(points, points, squared=True)
    assert torch.equal(lists.index[:, 0], torch.arange(9))
    assert torch.equal(lists.farthest, distances.amax(1))
    assert torch.equal(lists.index, distances.fill_diagonal_(-1).argsort(1)[:, : k1 + 1])


def test_each_point_heads_its_own_list_even_among_twins():
    twins = neighbour_lists(torch.ones(5, 2), 3, chunk=2)
    assert torch.equal(twins.index[:, 0], torch.arange(5))


def test_a_point_without_a_list_stands_alone():
    index = neighbour_lists(points, k1 + 1, chunk=4).index.numpy()
    nine, ten = expanded_sets(index, k1, 9).expanded, expanded_sets(index, k1, 10).expanded
    np.testing.assert_array_equal(ten.toarray()[:9, :9], nine.toarray())
    assert ten[[9]].nnz == 0


def test_weights_of_a_set_sum_to_one():
    encodings = encode(points, k1, 2, chunk=5)
    np.testing.assert_allclose(encodings.single.sum(1), np.ones(9))
    np.testing.assert_allclose(encodings.mixed.sum(1), np.ones(9))


@pytest.mark.parametrize('chunk', [1, 4, 512])
def test_jaccard_distances_are_those_of_dense_tables(chunk):
    rng = np.random.default_rng(0)
    V = rng.random((30, 30)) * (rng.random((30, 30)) < 0.3)
    V /= V.sum(1, keepdims=True)
    overlap = np.minimum(V[20:, None], V[:20]).sum(2)
    distances = jaccard_distances(csr_array(V), 20, chunk)
    np.testing.assert_allclose(distances, 1 - overlap / (2 - overlap), rtol=0, atol=1e-9)


@pytest.mark.parametrize('chunk', [1, 2, 512])
def test_a_distance_of_zero_is_written_as_minus_one(chunk):
    first, second = np.array([0, 1, 1]), np.array([2, 2, 1])
    distances = pair_distances(torch.tensor([[1.0], [3], [1]]), first, second, chunk)
    assert distances.tolist() == [-1, 4, -1]


# What a query changes


def changes_by_query():
    "The gallery alone, and the changes of R and H by the query at 1"
    alone = encode(gallery, k1, 2, 4, spare=1)
    d = pairwise_distances(query, gallery, squared=True)  # (1, 8)
    place = torch.searchsorted(alone.lists.distance, d.T.contiguous(), right=True).T.numpy()
    nearest = d.topk(k1, largest=False).indices.numpy()
    lengths = k1 + 1, round(k1 / 2) + 1
    r, h = [reciprocal_changes(alone.index, place, nearest[:, : k - 1], k) for k in lengths]
    return alone, lengths, r, h


def test_reciprocal_changes_lead_to_the_sets_of_all_points():
    alone, lengths, *changes = changes_by_query()
    index = neighbour_lists(points, k1 + 1, chunk=4).index.numpy()
    for k, change in zip(lengths, changes):
        changed = reciprocal(alone.index[:, :k], 9) + change
        np.testing.assert_array_equal(changed.toarray(), reciprocal(index[:, :k], 9).toarray())


def test_changed_sets_are_those_of_all_points():
    alone, _, r, h = changes_by_query()
    owners, sets = changed_sets(alone.sets, r, h)
    expanded = alone.sets.expanded.toarray()
    expanded[owners] = sets.toarray()
    together = encode(points, k1, 2, chunk=4).sets.expanded.toarray()
    np.testing.assert_array_equal(expanded, together)


@pytest.mark.parametrize('chunk', [1, 512])
def test_overlaps_are_those_of_dense_tables(chunk):
    rng = np.random.default_rng(0)
    changes = rng.random((2 * 3, 4)) * (rng.random((2 * 3, 4)) < 0.5)
    weight, point = rng.random((2, 3)), np.array([[0, 2, 4], [3, 1, 0]])
    columns = rng.random((5, 4)) * 0.2
    table = columns[point] + changes.reshape(2, 3, 4)
    overlap = np.minimum(weight[..., None], table).sum(1)

    slots = Slots(weight, point, np.arange(0))
    found = overlap_distances(csr_array(columns), csr_array(changes), slots, np.float64, chunk)
    np.testing.assert_allclose(found, 1 - overlap / (2 - overlap), rtol=0, atol=1e-9)


def test_slots_hold_the_entries_of_each_row_and_select_columns():
    V = np.array([[0, 0.4, 0.6], [1, 0, 0]])
    slots = lay_out(csr_array(V))
    again = np.zeros((2, 3))
    np.add.at(again, (np.arange(2)[:, None], slots.point), slots.weight)
    np.testing.assert_array_equal(again, V)
    X = np.arange(18.0).reshape(6, 3)
    selected = slots.select(csr_array(X)).toarray()
    np.testing.assert_array_equal(selected[:3], [X[:3, 1], X[:3, 2], X[3:, 0]])
