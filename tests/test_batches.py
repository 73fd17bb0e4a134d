"The sampler under bad luck: holes in the data, impossible settings, repeats."

import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from idkl_nb.batches import PKSampler, eval_loader, train_loader
from idkl_nb.common import INFRARED, VISIBLE
from idkl_nb.images import eval_transform
from idkl_nb.readers import read_sysu
from idkl_nb.records import Batch, Records
from idkl_nb.world import World
from idkl_nb.writers import write_sysu


def table(counts):
    "Records of identities with so many visible and infrared images"
    rows = [
        (f'{identity}_{modality}_{n}.jpg', identity, 1, modality, 'train')
        for identity, numbers in counts.items()
        for modality, number in zip((VISIBLE, INFRARED), numbers)
        for n in range(number)
    ]
    return Records.from_rows('nowhere', rows)


@pytest.fixture
def four():
    return table({identity: (12, 12) for identity in (1, 2, 3, 4)})


def counts_of(records, rows):
    return Counter(zip(records.identity[rows].tolist(), records.modality[rows].tolist()))


@pytest.mark.parametrize('P, K', [(2, 1), (3, 4), (4, 12), (4, 20)])
def test_every_batch_has_k_images_of_each_modality_of_p_identities(four, P, K):
    for rows in PKSampler(four, P, K, batches=9):
        counts = counts_of(four, rows)
        assert set(counts.values()) == {K}
        assert len(counts) == 2 * P


def test_images_repeat_only_when_there_are_too_few(four):
    for rows in PKSampler(four, P=4, K=12, batches=5):
        assert len(set(rows)) == len(rows)
    for rows in PKSampler(four, P=4, K=20, batches=5):
        assert set(Counter(rows).values()) == {1, 2}


def test_the_plan_belongs_to_seed_and_epoch(four):
    sampler = PKSampler(four, P=3, K=4, batches=5)
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert list(PKSampler(four, 3, 4, 5, seed=1)) != first


def test_the_plan_is_the_one_that_old_runs_were_made_with(four):
    "A resumed run must go on with its own plan"
    sampler = PKSampler(four, P=2, K=2, batches=3, seed=5)
    sampler.set_epoch(2)
    assert list(sampler) == PLAN


PLAN = [
    [4, 8, 17, 13, 35, 30, 41, 38],
    [81, 82, 86, 94, 50, 51, 64, 60],
    [75, 73, 85, 90, 27, 32, 37, 47],
]


@pytest.mark.parametrize('P, K, expected', [(2, 3, 8), (4, 12, 1), (4, 13, 1), (2, 2, 12)])
def test_an_epoch_shows_each_image_once_on_average(four, P, K, expected):
    assert len(PKSampler(four, P, K)) == expected


def test_the_larger_modality_decides_the_length_of_an_epoch():
    records = table({1: (3, 8), 2: (3, 9), 3: (50, 0)})
    with pytest.warns(UserWarning, match='one modality only'):
        assert len(PKSampler(records, 2, 2)) == 5  # 17 infrared images of 1 and 2, 4 in a batch


@pytest.mark.parametrize('missing', [(12, 0), (0, 12)])
def test_identities_with_one_modality_are_left_out_with_a_warning(missing):
    records = table({1: (12, 2), 2: missing, 3: (12, 12), 4: (12, 12)})
    with pytest.warns(UserWarning, match=r'1 identities have images in one .*for example \[2\]'):
        sampler = PKSampler(records, 3, 5, batches=20)
    assert sampler.left_out == [2]
    assert sampler.identities == [1, 3, 4]
    for rows in sampler:
        batch = records[np.array(rows)]
        assert set(counts_of(records, rows).values()) == {5}
        few = batch.where(identity=1, modality=INFRARED)
        assert sorted(Counter(few.path.tolist()).values()) == [2, 3]  # both images, in turn


def test_too_few_identities_with_both_modalities_are_refused():
    with warnings.catch_warnings(), pytest.raises(ValueError, match='only 1 identities'):
        warnings.simplefilter('ignore')
        PKSampler(table({1: (3, 3), 2: (3, 0), 3: (0, 3)}), 2, 2)


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(P=5), 'only 4 identities'),
        (dict(P=1), 'at least 2 identities'),
        (dict(K=0), '1 image of each'),
        (dict(batches=0), 'at least 1 batch'),
        (dict(seed=-1), 'seeds count from 0'),
    ],
)
def test_impossible_settings(four, settings, message):
    with pytest.raises(ValueError, match=message):
        PKSampler(four, **dict(P=2, K=2) | settings)


@pytest.mark.parametrize('name', ['P', 'K', 'batches', 'seed'])
@pytest.mark.parametrize('value', [2.0, '2', float('nan')])
def test_settings_that_are_no_whole_numbers(four, name, value):
    with pytest.raises(TypeCheckError, match=name):
        PKSampler(four, **dict(P=2, K=2) | {name: value})


def test_a_sampler_wants_records(four):
    with pytest.raises(TypeCheckError, match='records'):
        PKSampler(four.frame(), 2, 2)


def test_people_are_dealt_and_not_drawn():
    records = table({identity: (4, 4) for identity in range(60)})
    drawn = Counter()
    for rows in PKSampler(records, 8, 4, batches=200):
        drawn.update(set(records.identity[rows].tolist()))
    assert max(drawn.values()) - min(drawn.values()) <= 2


@pytest.fixture(scope='module')
def training(tmp_path_factory):
    root = write_sysu(
        World(height=32, width=16),
        tmp_path_factory.mktemp('data') / 'sysu',
        train=[1, 2],
        val=[5],
        test=[6],
        images=4,
    )
    return read_sysu(root).where(split=('train', 'val'))


@pytest.mark.parametrize('workers', [0, 2])
def test_loaders_give_batches_in_the_order_of_plan_and_table(training, workers):
    transform = eval_transform(32, 16)
    loader = train_loader(training, transform, P=2, K=3, batches=3, seed=5, workers=workers)
    for rows, batch in zip(loader.batch_sampler, loader, strict=True):
        assert isinstance(batch, Batch)
        assert batch.modality.tolist() == training.modality[rows].tolist()
        assert batch.camera.tolist() == training.camera[rows].tolist()
        assert batch.ids.tolist() == np.searchsorted([1, 2, 5], training.identity[rows]).tolist()

    loader = eval_loader(training, transform, batch_size=7, workers=workers)
    cameras = torch.cat([batch.camera for batch in loader])
    assert cameras.tolist() == training.camera.tolist()
