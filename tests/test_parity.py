"Against numbers that the released code and AGW's evaluator printed for seeded random inputs."

from pathlib import Path

import numpy as np
import pytest
import torch

from idkl_nb.backbone import gem
from idkl_nb.fast import fast_gem
from idkl_nb.identity import batch_hard_triplet, hardest, pairwise_distances
from idkl_nb.metrics import rank_and_score, retrieval_scores

reference = np.load(Path(__file__).with_name('reference.npz'), allow_pickle=False)


def tensor(name):
    return torch.tensor(reference[name])


def close(ours, name, tolerance=1e-6):
    ours = ours.detach() if isinstance(ours, torch.Tensor) else ours
    np.testing.assert_allclose(np.asarray(ours), reference[name], rtol=tolerance, atol=tolerance)


def test_gem():
    for pool in (gem, fast_gem):
        close(pool(tensor('gem/x'), p=3.0)[..., None, None], 'gem/y')
        close(pool(tensor('gem/x'), p=2.0)[..., None, None], 'gem/y_p2')
        close(pool(tensor('gem/x')), 'gem/gem_p')


def test_distances():
    close(
        pairwise_distances(tensor('pairwise/x'), tensor('pairwise/y'), squared=True),
        'pairwise/official_squared',
    )
    close(
        pairwise_distances(tensor('pairwise/x'), tensor('pairwise/y')),
        'pairwise/baseline_pairwise_dist',
    )


@pytest.mark.parametrize('margin', [0.3, 1.3])
def test_triplet(margin):
    features = tensor('b60/feat').requires_grad_()
    loss = batch_hard_triplet(features, tensor('b60/labels'), margin)
    loss.backward()
    close(loss, f'b60/triplet_m{margin}/loss')
    close(features.grad.float(), f'b60/triplet_m{margin}/grad')
    close(hardest(features, tensor('b60/labels')).positive, 'b60/triplet/d_ap')
    close(hardest(features, tensor('b60/labels')).negative, 'b60/triplet/d_an')


@pytest.mark.parametrize('direction', ['ir2vis', 'vis2ir'])
def test_scores_on_regdb(direction):
    q, g = ('q', 'g') if direction == 'ir2vis' else ('g', 'q')
    distances = pairwise_distances(
        tensor(f'regdb/{q}_feat'), tensor(f'regdb/{g}_feat'), squared=True
    )
    close(distances[:20], f'regdb/{direction}/dist_first20q', 1e-4)
    ids = tensor(f'regdb/{q}_ids'), tensor(f'regdb/{g}_ids')
    for score in (retrieval_scores, rank_and_score):
        every_image = score(distances, *ids)
        close(every_image.mAP, f'regdb/{direction}/official_mAP')
        close(every_image.mAP, f'regdb/{direction}/agw_mAP')
        close(every_image.mINP, f'regdb/{direction}/agw_mINP')
        close(every_image.cmc[:20], f'regdb/{direction}/agw_cmc')
        each_identity = score(distances, *ids, unique_ids=True)
        close(each_identity.cmc, f'regdb/{direction}/official_cmc')
