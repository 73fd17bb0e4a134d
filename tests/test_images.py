"Images as they come from other people's disks, and the transforms that make tensors of them."

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from PIL import Image

from idkl_nb.common import INFRARED, VISIBLE, DataError
from idkl_nb.images import ChannelAugment, Images, eval_transform, resize_transform, train_transform
from idkl_nb.readers import read_sysu
from idkl_nb.reading_images import read_image
from idkl_nb.world import World
from idkl_nb.writers import write_sysu


@pytest.fixture
def training(tmp_path):
    root = write_sysu(World(height=64, width=32), tmp_path / 'sysu', [1, 2], [3], [4], images=8)
    return read_sysu(root).where(split=('train', 'val'))


@pytest.fixture
def picture():
    return World(height=64, width=32).draw(1, VISIBLE, 1, 0)


# Files


@pytest.mark.parametrize('suffix', ['png', 'bmp'])
def test_lossless_formats_keep_every_pixel(picture, suffix, tmp_path):
    picture.save(tmp_path / f'same.{suffix}')
    assert np.array_equal(read_image(tmp_path / f'same.{suffix}'), picture)


def half_a_jpeg(file, picture):
    picture.save(file, 'JPEG')
    file.write_bytes(file.read_bytes()[:800])


def save_thermal(file, picture):
    values = np.arange(7000, 9048, dtype=np.uint16).reshape(64, 32)
    Image.fromarray(values).save(file, 'PNG')


@pytest.mark.parametrize(
    'write, message',
    [
        (lambda file, _: Image.new('1', (6000, 6000)).save(file, 'PNG'), '6000 x 6000 pixels'),
        (lambda file, _: Image.new('1', (20_000,) * 2).save(file, 'PNG'), 'decompression bomb'),
        (lambda file, picture: picture.save(file, 'GIF'), 'cannot identify'),
        (lambda file, _: file.write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0\n'), 'cannot identify'),
        (half_a_jpeg, 'truncated'),
        (save_thermal, 'mode I;16, values from 7,000 to 9,047'),
        (lambda file, _: None, 'No such file'),
    ],
)
def test_what_is_no_picture_of_a_person_is_refused_with_its_name(write, message, picture, tmp_path):
    write(tmp_path / 'image.jpg', picture)
    with pytest.raises(DataError, match=message) as caught:
        read_image(tmp_path / 'image.jpg')
    assert 'image.jpg: this image' in str(caught.value)


def test_a_camera_that_was_held_upright(picture, tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6  # turn it by 90 degrees, clockwise
    lying = picture.transpose(Image.Transpose.ROTATE_90)
    lying.save(tmp_path / 'lying.png', exif=exif)
    assert np.array_equal(read_image(tmp_path / 'lying.png'), picture)


# Transforms


def test_shapes_and_types_of_the_transforms(picture):
    for transform in (eval_transform(64, 32), train_transform(64, 32)):
        x = transform(picture)
        assert x.shape == (3, 64, 32)
        assert x.dtype == torch.float32
    assert resize_transform(20, 10)(picture).dtype == torch.uint8


@pytest.mark.parametrize('make', [eval_transform, train_transform, resize_transform])
@pytest.mark.parametrize('height, width', [(64, 0), (-3, 32), (0, 0)])
def test_sizes_that_are_none(make, height, width):
    with pytest.raises(ValueError, match=f'{height} x {width} pixels is no size'):
        make(height, width)


@pytest.mark.parametrize('make', [eval_transform, train_transform])
@pytest.mark.parametrize('width', ['32', 32.5, None])
def test_sizes_that_are_no_whole_numbers(make, width):
    with pytest.raises(TypeCheckError, match='width'):
        make(64, width)


@pytest.mark.parametrize(
    'settings',
    [
        dict(flip=2.0),
        dict(erasing=-1.0),
        dict(channel=1.5),
        dict(channel=float('nan')),
        dict(shift=-1),
    ],
)
def test_impossible_augmentations(settings):
    with pytest.raises(ValueError):
        train_transform(64, 32, **settings)


def test_whole_numbers_may_stand_for_probabilities(picture):
    transform = train_transform(64, 32, shift=0, flip=0, erasing=0, channel=0)
    assert torch.equal(transform(picture), eval_transform(64, 32)(picture))


def test_channel_augmentation_of_probability_0_does_nothing():
    colours = torch.rand(3, 8, 4)
    assert torch.equal(ChannelAugment(0.0)(colours), colours)


def test_the_same_seed_augments_as_it_always_did(picture):
    "Resumed runs of old versions draw the same random numbers"
    torch.manual_seed(3)
    images = [train_transform(64, 32, channel=0.5)(picture) for _ in range(4)]
    torch.manual_seed(3)
    again = [train_transform(64, 32, channel=0.5)(picture) for _ in range(4)]
    assert torch.equal(torch.stack(images), torch.stack(again))
    assert torch.rand(()).item() == pytest.approx(0.5824220776557922, abs=1e-12)


# Images with labels


def test_an_unreadable_image_is_named(training):
    first = training.root / training.path[0]
    first.write_bytes(first.read_bytes()[:100])
    with pytest.raises(DataError, match=f'{training.path[0]}: this image is missing or damaged'):
        Images(training, eval_transform(64, 32))[0]


def rows_of(training, identity, modality):
    return np.flatnonzero((training.identity == identity) & (training.modality == modality))


@pytest.mark.parametrize('place, stand_in', [(0, 1), (-1, 0)])
def test_the_next_image_of_the_same_identity_and_modality_stands_in(training, place, stand_in):
    "After the last one the first"
    rows = rows_of(training, 1, VISIBLE)
    index, other = rows[place], rows[stand_in]
    (training.root / training.path[index]).write_bytes(b'')
    images = Images(training, eval_transform(64, 32), on_unreadable='skip')
    message = f'{training.path[index]}.*{training.path[other]} stands in for it'
    with pytest.warns(UserWarning, match=message):
        image = images[index]
    assert torch.equal(image.images, images[other].images)
    assert image[1:3] == images[other][1:3]
    assert np.flatnonzero(images.unreadable).tolist() == [index]


def test_a_stand_in_may_be_unreadable_itself(training):
    rows = rows_of(training, 1, INFRARED)
    for index in rows[:2]:
        (training.root / training.path[index]).unlink()
    images = Images(training, eval_transform(64, 32), on_unreadable='skip')
    with pytest.warns(UserWarning, match=f'{training.path[rows[2]]} stands in'):
        images[rows[0]]


def test_nobody_can_stand_in(training):
    rows = rows_of(training, 1, VISIBLE)
    keep = ~np.isin(np.arange(len(training)), rows[1:])
    (training.root / training.path[rows[0]]).unlink()
    images = Images(training[keep], None, on_unreadable='skip')
    with pytest.raises(DataError, match='No other visible image of identity 1'):
        images[0]


def test_a_misspelt_setting(training):
    with pytest.raises(TypeCheckError, match='on_unreadable'):
        Images(training, None, on_unreadable='ignore')
