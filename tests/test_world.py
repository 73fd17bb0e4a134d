"Worlds with garments of their own beside the default one."

import pickle

import numpy as np
import pytest

from idkl_nb.common import INFRARED, VISIBLE
from idkl_nb.people import make_identity
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
        assert pickle.loads(pickle.dumps(garments)) == garments and hash(
            pickle.loads(pickle.dumps(garments))
        ) == hash(garments)
        assert (
            Garments(dict(garments.tops), dict(garments.bottoms), dict(garments.patterns))
            == garments
        )
    assert (
        Garments(tops={name: TOPS[name] for name in reversed(TOPS)}) != GARMENTS
    )  # the order decides who wears what


def test_every_garment_of_a_world_is_worn_and_drawn():
    garments = Garments(
        {'poncho': (0.6, 0.3)}, {'kilt': (0.5, 0.4)}, {'dots': [(0.2, 0.4, 0.2, 0.4)], 'plain': []}
    )
    world = World(height=64, width=32, garments=garments)
    people = [world.identity(number) for number in range(60)]
    assert {who.top.kind for who in people} == {'poncho'} and {
        who.bottom.kind for who in people
    } == {'kilt'}
    assert {who.top.pattern for who in people} == {'plain', 'dots'}
    for number in range(60):
        world.draw(number, VISIBLE, 0, 0)
