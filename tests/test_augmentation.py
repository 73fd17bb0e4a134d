"Augmenting a whole batch: obeyed to the last bit, drawn from the right distributions."

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from scipy.stats import binom
from torchvision.transforms import v2

from idkl_nb.augmentation import ATTEMPTS, BatchAugment, normalise, step_generator
from idkl_nb.images import IMAGENET_MEAN, IMAGENET_STD

devices = ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']
HEIGHT, WIDTH = 64, 32


@pytest.fixture(scope='module')
def images():
    generator = torch.Generator().manual_seed(0)
    shape = (48, 3, HEIGHT, WIDTH)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


def naive(image, numbers, shift):
    "One image for itself, with torchvision's functions"
    mirrored, top, left, channel, row, column, h, w = numbers
    if mirrored:
        image = v2.functional.horizontal_flip(image)
    image = v2.functional.crop(v2.functional.pad(image, shift), top, left, *image.shape[1:])
    if channel == 3:
        image = v2.functional.rgb_to_grayscale(image).expand(3, -1, -1)
    elif channel >= 0:
        image = image[channel : channel + 1].expand(3, -1, -1)
    image = v2.functional.to_dtype(image, torch.float32, scale=True)
    image = v2.functional.normalize(image, IMAGENET_MEAN, IMAGENET_STD)
    return v2.functional.erase(image, row, column, h, w, torch.zeros(1)) if h else image


@pytest.mark.parametrize(
    'augment',
    [
        BatchAugment(channel=0.5),
        BatchAugment(shift=3, flip=1.0, erasing=1.0),
        BatchAugment(shift=0, channel=1.0),
    ],
)
def test_a_plan_is_obeyed_as_by_a_naive_loop(augment, images):
    before = images.clone()
    plan = augment.draw(len(images), HEIGHT, WIDTH, step_generator(0, 0))
    shift = augment.reach(WIDTH)
    expected = [naive(image, numbers, shift) for image, numbers in zip(images, plan.T.tolist())]
    expected = torch.stack(expected)
    assert torch.equal(augment.obey(images, plan), expected)
    assert torch.equal(augment(images, step_generator(0, 0)), expected)
    assert torch.equal(images, before)

    order = torch.randperm(len(images))  # an image does not know its neighbours
    assert torch.equal(augment.obey(images[order], plan[:, order]), expected[order])


def test_with_everything_off_the_images_are_normalised(images):
    off = BatchAugment(shift=0, flip=0.0, erasing=0.0)
    assert torch.equal(off(images), normalise(images))
    assert list(off.state_dict()) == []


def test_seed_and_step_decide(images):
    augment = BatchAugment(channel=0.5)
    first = augment(images, step_generator(3, 9))
    assert torch.equal(first, augment(images, step_generator(3, 9)))
    assert not torch.equal(first, augment(images, step_generator(3, 10)))


def test_seed_step_and_process_give_generators_of_their_own():
    places = ((0, 7), (0, 8), (7, 0), (0, 7, 1))
    numbers = [torch.rand(1, generator=step_generator(*place)).item() for place in places]
    assert len(set(numbers)) == 4
    again = [torch.rand(1, generator=step_generator(*place)).item() for place in places]
    assert numbers == again


def test_plans_are_those_of_older_runs():
    "A run that was begun before must go on with the same random numbers"
    plan = BatchAugment(channel=0.5).draw(4, 256, 128, step_generator(3, 9))
    assert plan.tolist() == PLAN


PLAN = [
    [1, 1, 1, 0],
    [8, 13, 9, 16],
    [6, 11, 2, 2],
    [0, 0, 0, 3],
    [48, 6, 155, 9],
    [13, 36, 35, 16],
    [0, 151, 30, 71],
    [0, 56, 88, 75],
]


def test_the_memory_layout_changes_no_value(images):
    augment = BatchAugment(channel=0.5)
    lasting = BatchAugment(channel=0.5, channels_last=True)
    x = lasting(images, step_generator(3, 9))
    assert torch.equal(x, augment(images, step_generator(3, 9)))
    assert x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    'wrong',
    [
        torch.rand(2, 3, 4, 4),  # normalised before
        torch.zeros(2, 1, 4, 4, dtype=torch.uint8),
        torch.zeros(3, 4, 4, dtype=torch.uint8),
    ],
)
def test_only_raw_images_are_normalised(wrong):
    with pytest.raises(TypeCheckError, match='images'):
        normalise(wrong)


def test_nothing_is_augmented_twice(images):
    with pytest.raises(TypeCheckError, match=r'f32\[48,3,64,32\]'):
        BatchAugment(channel=0.5)(normalise(images))


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(flip=1.1), 'flip = 1.1 is no probability'),
        (dict(erasing=-1.0), 'erasing = -1.0 is no probability'),
        (dict(channel=float('nan')), 'channel = nan is no probability'),
        (dict(shift=-3), 'expected 0 or more pixels'),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        BatchAugment(**settings)


@pytest.mark.parametrize('device', devices)
def test_every_device_augments_alike(device, images):
    "Grey may differ by one level of 256 in a pixel here and there: sums are rounded otherwise"
    coloured = BatchAugment()
    x = coloured(images.to(device), step_generator(3, 9)).cpu()
    torch.testing.assert_close(x, coloured(images, step_generator(3, 9)), atol=1e-5, rtol=0)

    augment = BatchAugment(channel=0.5)
    x = augment(images.to(device), step_generator(3, 9)).cpu()
    change = (x - augment(images, step_generator(3, 9))).abs()
    assert change.max() < 1.01 / 255 / min(IMAGENET_STD)
    assert (change > 1e-5).float().mean() < 0.001


@pytest.mark.skipif('cuda' not in devices, reason='no GPU')
def test_the_host_never_waits_for_the_gpu(images):
    on_gpu = images.cuda()
    augment = BatchAugment(channel=0.5)
    augment(on_gpu)  # the first call makes constants
    torch.cuda.set_sync_debug_mode('error')
    try:
        augment(on_gpu)
        normalise(on_gpu)
    finally:
        torch.cuda.set_sync_debug_mode('default')


# Distributions: where a binomial lies in all but one of 10,000 experiments

COUNT = 20_000


def assert_frequency(hits, p):
    low, high = binom.ppf([0.5e-4, 1 - 0.5e-4], COUNT, p)
    assert low <= hits.sum() <= high, (hits.sum() / COUNT, p)


@pytest.fixture(scope='module')
def plan():
    augment = BatchAugment(flip=0.3, erasing=0.6, channel=0.4)
    return augment.draw(COUNT, 64, 32, step_generator(1, 0))


def test_frequencies_of_mirroring_colours_and_erasing(plan):
    mirrored, _, _, channel, *_, height, _ = plan
    assert_frequency(mirrored == 1, 0.3)
    assert_frequency(channel >= 0, 0.4)
    assert_frequency(height > 0, 0.6)
    for choice in range(4):
        assert_frequency(channel == choice, 0.1)
    together = (mirrored == 1) & (channel >= 0) & (height > 0)
    assert_frequency(together, 0.3 * 0.4 * 0.6)  # independent of each other


def test_a_shift_of_2_pixels_in_all_directions(plan):
    _, top, left, *_ = plan
    for place in range(5):
        assert_frequency(top == place, 1 / 5)
        assert_frequency(left == place, 1 / 5)
    assert [top.min(), top.max(), left.min(), left.max()] == [0, 4, 0, 4]


def test_rectangles_lie_in_the_image(plan):
    row, column, height, width = plan[4:]
    assert (row + height).max() <= 64
    assert (column + width).max() <= 32
    assert min(row.min(), column.min()) >= 0


def test_a_flat_strip_often_stays_whole():
    "Torchvision erases nothing when no attempt fits"
    plan = BatchAugment(erasing=1.0).draw(4000, 12, 200, step_generator(2, 12))
    ours = (plan[6] == 0).float().mean().item()
    torch.manual_seed(0)
    erase = v2.RandomErasing(1.0)
    theirs = np.mean([bool(erase(torch.ones(1, 12, 200)).all()) for _ in range(1000)])
    assert ATTEMPTS == 10
    assert ours == pytest.approx(theirs, abs=0.06)
