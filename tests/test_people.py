"Garments that nobody can be dressed from, and what is painted where."

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from idkl_nb.common import VISIBLE
from idkl_nb.painting import LEFT, paint_arm, paint_bag, paint_head, paint_trunk
from idkl_nb.people import make_identity
from idkl_nb.stage import Stage
from idkl_nb.wardrobe import GARMENTS, TOPS, Garments, Material, Piece

ann = make_identity(0, 0.65, 7)
black = Material((0, 0, 0), 0.0)


@pytest.mark.parametrize(
    'tables, message',
    [
        (dict(tops={}), 'something to wear'),
        (dict(tops={'poncho': (60, 30)}), "tops, 'poncho': expected 2 numbers from 0 to 1, got"),
        (dict(bottoms={'kilt': 0.4}), "'kilt': expected 2"),
        (dict(patterns={'plain': [], 'dots': [(0, 1)]}), "'dots': expected 4"),
        (dict(patterns={'plain': []}), 'something to wear'),
        (dict(patterns={'band': [], 'dots': []}), "expected 'plain'"),
        (dict(tops=3), 'expected a dict'),
    ],
)
def test_a_table_that_nobody_can_be_dressed_from_is_named(tables, message):
    with pytest.raises(ValueError, match=message):
        Garments(**tables)


def test_garments_can_be_keys():
    ponchos = Garments(tops={**TOPS, 'poncho': (0.6, 0.3)})
    assert len({GARMENTS, Garments(TOPS), ponchos}) == 2


def painted(paint, person, heading, rgb, *numbers):
    "How many pixels of an empty stage have exactly this colour"
    canvas = Image.new('RGB', (256, 256), (255, 0, 255))
    paint(Stage(ImageDraw.Draw(canvas), VISIBLE, heading, 128, 250, 240), person, *numbers)
    return (np.asarray(canvas) == rgb).all(-1).sum()


def test_a_sleeve_covers_the_arm_and_leaves_the_hand():
    skin = {}
    for name in ('shirt', 'vest'):
        person = replace(ann, top=replace(ann.top, name=name))
        skin[name] = painted(paint_arm, person, 0, ann.skin.rgb, -LEFT, 0, 1.0)
    assert 0 < skin['shirt'] < skin['vest'] / 3


def test_a_handbag_is_in_the_left_hand():
    person = replace(ann, bag=Piece('handbag', black))
    assert painted(paint_arm, person, 0, black.rgb, -LEFT, 0, 1.0) == 0
    assert painted(paint_arm, person, 0, black.rgb, LEFT, 0, 1.0) > 0


def test_a_backpack_shows_its_straps_from_the_front():
    person = replace(ann, bag=Piece('backpack', black))
    assert painted(paint_trunk, person, 0, black.rgb) > 0
    assert painted(paint_trunk, person, 180, black.rgb) == 0


def test_a_bag_is_painted_where_there_is_one():
    for name, least in (('none', 0), ('backpack', 1000), ('shoulder bag', 500)):
        person = replace(ann, bag=Piece(name, black))
        pixels = painted(paint_bag, person, 180, black.rgb)
        assert (pixels == 0) if name == 'none' else pixels > least


def test_a_sun_hat_is_larger_than_a_cap():
    pixels = {}
    for name in ('none', 'cap', 'sun hat'):
        person = replace(ann, hat=Piece(name, black))
        pixels[name] = painted(paint_head, person, 0, black.rgb)
    assert 0 == pixels['none'] < pixels['cap'] < pixels['sun hat']
