"At a Python prompt: help, pictures in every form, wrong things in place of tensors and records."

import pydoc
import re

import numpy as np
import pandas as pd
import pytest
import torch
from jaxtyping import Float, Int, TypeCheckError
from PIL import Image
from torch import Tensor, nn

import idkl_nb
from idkl_nb.commands import MODULES
from idkl_nb.common import DataError, typed
from idkl_nb.common_help import HEADING, comments, documented, no_tensor
from idkl_nb.config import PRESETS
from idkl_nb.features import embed
from idkl_nb.picture_input import rgb
from idkl_nb.training import fit

# help


def test_help_says_what_is_where():
    text = idkl_nb.__doc__
    for name in idkl_nb.__all__:
        assert re.search(rf'\b{name}\b', text), name
    assert set(re.findall(r'\bidkl-(?!nb)(\w+)', text)) == set(MODULES)


@pytest.mark.parametrize('name', ['embed', 'fit', 'load', 'csa_loss', 'World', 'IDKLConfig'])
def test_help_has_a_line_for_each_parameter(name):
    import inspect

    thing = getattr(idkl_nb, name)
    text = pydoc.plain(pydoc.render_doc(thing)).split(HEADING)[1]
    for parameter in inspect.signature(thing).parameters:
        assert re.search(rf'^[ |]+{parameter}: \S', text, re.M), parameter


def one_of_each(
    a,  # the first
    /,
    b: tuple = (1, 2),  # with # in it
    *rest: int,  # more
    c: int = int(  # opened here
        1,
    ),  # the third
    **options,
) -> int:  # a number
    return a


class Fields:
    "Fields"

    x: int  # one
    y: float = 2.0  # two


class Made:
    def __init__(self, size: int = 3):  # of the thing
        self.size = size

    def grow(
        self,
        by: int,  # pixels
    ):
        return by


def test_comments_are_found_where_they_stand():
    assert comments(one_of_each) == dict(
        a='the first', b='with # in it', rest='more', c='the third', returns='a number'
    )
    assert comments(Fields) == dict(x='one', y='two')
    assert comments(Made) == dict(size='of the thing') and comments(Made.grow) == dict(by='pixels')
    for nothing in (len, int, 3, lambda x: x):
        assert comments(nothing) == {}


def test_documenting_twice_changes_nothing():
    once = documented(Fields).__doc__
    assert documented(Fields).__doc__ == once and once.startswith('Fields\n\n')
    assert documented(5) == 5 and documented(len) is len


# no tensor


@typed
def scaled(
    rows: Float[Tensor, 'N C'],
    ids: Int[Tensor, ' N'] | None = None,
    either: Float[Tensor, ' C'] | Float[np.ndarray, ' C'] | None = None,
    names: tuple = (),
) -> Float[Tensor, 'N C']:
    return rows


ROWS = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    'wrong, sentence',
    [
        (ROWS, "'rows' is a NumPy array of shape (2, 3)"),
        (pd.DataFrame(ROWS), "'rows' is a DataFrame of shape (2, 3)"),
        (ROWS.tolist(), "'rows' is a list; expected a torch tensor, Float[Tensor, 'N C']"),
    ],
)
def test_what_is_no_tensor_is_named_in_a_sentence(wrong, sentence):
    with pytest.raises(TypeCheckError) as caught:
        scaled(wrong)
    message = str(caught.value)
    assert message.startswith('scaled: parameter ') and sentence in message
    assert '\n' not in message
    made = eval(re.search(r'Write (torch\.\S+)', message)[1], dict(torch=torch, rows=wrong))
    assert scaled(made.float()).shape == (2, 3)


def test_what_else_is_wrong_keeps_its_message():
    rows = torch.ones(2, 3)
    assert scaled(rows, either=np.ones(3), names=(1,)).shape == (2, 3)
    for wrong in (rows.int(), rows[0], 'rows'):
        with pytest.raises(TypeCheckError, match="parameter 'rows'.*\n"):
            scaled(wrong)
    with pytest.raises(TypeCheckError, match="'ids' is a list"):
        scaled(rows, ids=[1, 2])
    assert no_tensor(scaled, (rows,), dict(either=ROWS)) is None


def test_a_table_in_place_of_records(tmp_path):
    table = pd.DataFrame(dict(path=['a.png'], identity=[1]))
    with pytest.raises(TypeError, match=r'records: DataFrame; expected Records.*from_rows'):
        fit(PRESETS['smoke'], table, tmp_path / 'run', progress=False)
    with pytest.raises(DataError, match='DataFrame: expected records, or a list'):
        embed(nn.Flatten(), table, 8, 4)
    assert not (tmp_path / 'run').exists()


# pictures


class Mean(nn.Module):
    "Features without weights: the mean of each channel, and of each half"

    height, width = 8, 4  # what `embed` takes unless told otherwise

    def forward(self, images):
        return torch.cat([images.mean((2, 3)), images[..., :2].mean((2, 3))], 1)


COLOUR = np.random.default_rng(0).integers(0, 256, (16, 8, 3), dtype=np.uint8)
CHW = torch.as_tensor(COLOUR).permute(2, 0, 1)
GREY = COLOUR[..., 1]
WITH_ALPHA = np.dstack([COLOUR, GREY])


def features(pictures, **options):
    return embed(Mean(), pictures, progress=False, **options)


def test_every_form_of_a_picture_has_the_same_feature(tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / 'ein bild ä.png')
    same = [
        tmp_path / 'ein bild ä.png',
        str(tmp_path / 'ein bild ä.png'),
        Image.fromarray(COLOUR),
        Image.fromarray(WITH_ALPHA),
        COLOUR,
        COLOUR / 255,
        (COLOUR / 255).astype(np.float16),
        WITH_ALPHA,
        CHW,
        CHW.double() / 255,
        torch.as_tensor(WITH_ALPHA).permute(2, 0, 1),
    ]
    rows = features(same)
    assert rows.shape == (11, 6) and torch.equal(rows, rows[:1].expand(11, 6))

    grey = [Image.fromarray(GREY), GREY, GREY[..., None], torch.as_tensor(GREY)]
    grey += [torch.as_tensor(GREY)[None], np.dstack([GREY] * 3)]
    rows = features(grey)
    assert torch.equal(rows, rows[:1].expand(6, 6))


def test_a_picture_of_pil_is_turned_as_its_file_is(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(COLOUR).save(tmp_path / 'turned.png', exif=exif)
    with Image.open(tmp_path / 'turned.png') as opened:
        turned = rgb(opened)
        assert opened.size == (8, 16) and turned.size == (16, 8)
    assert np.array_equal(np.asarray(turned), np.asarray(rgb(tmp_path / 'turned.png')))


def test_an_iterator_is_drawn_a_batch_at_a_time():
    drawn, seen = [], []

    def pictures():
        for number in range(5):
            drawn.append(number)
            yield COLOUR

    class Watching(Mean):
        def forward(self, images):
            seen.append((len(drawn), *images.shape[2:]))
            return super().forward(images)

    rows = embed(Watching(), pictures(), batch_size=2, progress=False)
    assert seen == [(2, 8, 4), (4, 8, 4), (5, 8, 4)]
    seen.clear()
    embed(Watching(), [COLOUR], height=6, progress=False)
    assert seen == [(5, 6, 4)]
    assert len(rows) == 5 and torch.equal(rows, features([COLOUR] * 5))
    assert torch.equal(rows, features(CHW.expand(5, 3, 16, 8)))
    assert torch.allclose(features([COLOUR], flip=True)[:, :3], rows[:1, :3])


@pytest.mark.parametrize(
    'pictures, message',
    [
        ([COLOUR, COLOUR.transpose(2, 0, 1)], r'picture 1: shape \(3, 16, 8\)'),
        ([torch.as_tensor(COLOUR)], r'picture 0: shape \(8, 3, 16\)'),
        ([COLOUR.astype(float)], 'fractions from 0 to 255; expected 0 to 1'),
        ([(COLOUR / 255 - 0.5) / 0.2], 'undo a normalisation'),
        ([np.full((4, 4), np.nan)], 'expected 0 to 1'),
        ([COLOUR.astype(np.uint16)], 'more than 8 bits'),
        ([COLOUR.astype(int)], 'values of int64'),
        ([COLOUR[:0]], r'shape \(0, 8, 3\)'),
        ([Image.new('I', (4, 4))], 'mode I has more than 8 bits'),
        ([None], 'picture 0: a NoneType is no picture'),
        (['there is none.png'], 'picture 0: there is none.png: this image is missing'),
        (COLOUR, r'ndarray: one picture.*Write \[picture\]'),
        (CHW, 'Tensor: one picture'),
        (Image.fromarray(COLOUR), 'Image: one picture'),
        ('day.jpg', 'str: one picture'),
        (dict(day=COLOUR), 'dict: expected records'),
        (7, 'int: expected records'),
        ([], 'no images'),
    ],
)
def test_pictures_that_are_none(pictures, message):
    with pytest.raises(DataError, match=message):
        features(pictures)


def test_somebody_must_say_the_size():
    with pytest.raises(ValueError, match='Flatten does not say the size'):
        embed(nn.Flatten(), [COLOUR], progress=False)
    assert embed(nn.Flatten(), [COLOUR], 4, 2, progress=False).shape == (1, 24)
