"Worlds: pure functions of their numbers, with garments of their own beside the default one."

import pickle

import numpy as np
import pytest

from idkl_nb.cameras import draw_scene, make_camera
from idkl_nb.common import INFRARED, VISIBLE
from idkl_nb.people import make_identity
from idkl_nb.scenes import make_view, noise_tile, sensor_tables
from idkl_nb.wardrobe import BOTTOMS, GARMENTS, PATTERNS, TOPS, Garments
from idkl_nb.world import World

ponchos = Garments(tops={**TOPS, 'poncho': (0.6, 0.3)})
places = [
    (identity, modality, camera, 0)
    for identity in range(12)
    for modality in (VISIBLE, INFRARED)
    for camera in (0, 3)
]


def draw(world):
    return np.stack([np.asarray(world.draw(*place)) for place in places])


def test_worlds_never_mix():
    "Each draws the same pictures, whichever was first, and whether or not anybody is remembered"
    worlds = {
        name: World(height=64, width=32, garments=garments)
        for name, garments in dict(default=GARMENTS, ponchos=ponchos).items()
    }
    make_identity.cache_clear()
    first = {name: draw(world) for name, world in worlds.items()}
    make_identity.cache_clear()
    again = {name: draw(world) for name, world in reversed(worlds.items())}
    for name in worlds:
        assert np.array_equal(first[name], again[name])
    assert not np.array_equal(first['default'], first['ponchos'])
    assert np.array_equal(first['default'], draw(World(height=64, width=32)))


def test_the_dictionary_that_garments_were_made_from_may_change_later():
    tops = dict(TOPS)
    world = World(height=64, width=32, garments=Garments(tops=tops))
    before = draw(world)
    tops['poncho'] = (0.6, 0.3)
    make_identity.cache_clear()
    assert np.array_equal(before, draw(world))


@pytest.mark.parametrize('table', [TOPS, BOTTOMS, PATTERNS])
def test_the_default_tables_cannot_be_written_to(table):
    "A change would be seen by some people and not by others"
    with pytest.raises(TypeError):
        table['poncho'] = (0.6, 0.3)


def test_garments_are_plain_values():
    for garments in (GARMENTS, ponchos):
        copy = pickle.loads(pickle.dumps(garments))
        assert copy == garments
        assert hash(copy) == hash(garments)
        tables = (dict(garments.tops), dict(garments.bottoms), dict(garments.patterns))
        assert Garments(*tables) == garments
    # the order decides who wears what
    assert Garments(tops={name: TOPS[name] for name in reversed(TOPS)}) != GARMENTS


def test_every_garment_of_a_world_is_worn_and_drawn():
    garments = Garments(
        {'poncho': (0.6, 0.3)}, {'kilt': (0.5, 0.4)}, {'dots': [(0.2, 0.4, 0.2, 0.4)], 'plain': []}
    )
    world = World(height=64, width=32, garments=garments)
    people = [world.identity(number) for number in range(60)]
    assert {person.top.name for person in people} == {'poncho'}
    assert {person.bottom.name for person in people} == {'kilt'}
    assert {person.top.pattern for person in people} == {'plain', 'dots'}
    for number in range(60):
        world.draw(number, VISIBLE, 0, 0)


def test_the_default_coupling_is_that_of_the_files():
    assert World.coupling == 0.65


def test_a_world_asks_the_makers_with_its_own_numbers():
    far = World(seed=3, coupling=0.2)
    assert far.identity(7) == make_identity(3, 0.2, 7)
    assert far.camera(4, INFRARED) == make_camera(3, 0.2, 4, INFRARED)
    assert far.view(7, INFRARED, 4, 1) == make_view(3, 0.2, 7, INFRARED, 4, 1)
    assert far.draw(7, INFRARED, 0, 0).mode == 'RGB'


def test_a_picture_depends_on_its_numbers_alone():
    "The same pixels in any order, with every cache full or empty; other numbers, other pixels"
    numbers = [
        (identity, modality, camera, index)
        for identity in (0, 5)
        for modality in (VISIBLE, INFRARED)
        for camera in (0, 3)
        for index in (0, 1)
    ]
    once = {k: np.asarray(World().draw(*k)) for k in numbers}
    for cached in (make_identity, make_camera, draw_scene, sensor_tables, noise_tile):
        cached.cache_clear()
    for k in reversed(numbers):
        assert np.array_equal(once[k], np.asarray(World().draw(*k)))

    first, *others = once.values()
    assert all((first != other).any() for other in others)
    assert (first != np.asarray(World(seed=1).draw(*numbers[0]))).any()


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda: World(coupling=1.2), 'coupling must be from 0'),
        (lambda: World(seed=-1), 'seed must be a whole number'),
        (lambda: World(height=8), 'at least 32 high'),
        (lambda: World(garments=TOPS), r'garments must be Garments\(...\), for example'),
        (lambda: World().draw(0, 2, 0, 0), r'modality must be 0 \(visible\) or 1'),
        (lambda: World().draw(-1, VISIBLE, 0, 0), 'identity must be a whole number'),
        (lambda: World().draw(0, VISIBLE, -1, 0), 'camera must be a whole number'),
        (lambda: World().draw(0, VISIBLE, 0, 0.5), 'index must be a whole number'),
        (lambda: World().camera(0, 5), 'modality'),
        (lambda: World().identity(-2), 'identity'),
        (lambda: World(0, 0.5).draw(-1, VISIBLE, 1, 0), 'identity must be'),
    ],
)
def test_what_a_world_cannot_draw_it_says(make, message):
    with pytest.raises(ValueError, match=message):
        make()
