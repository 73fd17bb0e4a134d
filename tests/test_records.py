"The table of images: what it selects, and what it refuses to be."

import pickle
from dataclasses import replace

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from idkl_nb.common import INFRARED, VISIBLE
from idkl_nb.records import Records

ROWS = [
    ('a.jpg', 7, 1, VISIBLE, 'train'),
    ('b.jpg', 7, 3, INFRARED, 'train'),
    ('c.jpg', 9, 2, VISIBLE, 'test'),
    ('d.jpg', 9, 6, INFRARED, 'test'),
]


@pytest.fixture
def four():
    return Records.from_rows('somewhere', ROWS)


def test_rows_keep_their_order(four):
    assert len(four) == 4
    assert [tuple(row) for row in four.frame().itertuples(index=False)] == ROWS


@pytest.mark.parametrize(
    'rows, expected',
    [
        (np.array([3, 0]), ['d.jpg', 'a.jpg']),
        (np.array([False, True, False, True]), ['b.jpg', 'd.jpg']),
        (slice(None, None, -2), ['d.jpg', 'b.jpg']),
        (slice(0, 0), []),
    ],
)
def test_masks_indices_and_slices(four, rows, expected):
    assert four[rows].path.tolist() == expected


@pytest.mark.parametrize('row', [0, np.int64(0)])
def test_a_number_is_no_selection(four, row):
    with pytest.raises(TypeError, match='mask.*records.0:1.'):
        four[row]


def test_a_table_may_be_empty():
    empty = Records.from_rows('nowhere', [])
    assert len(empty) == 0
    assert len(empty.where(split='train')) == 0
    assert empty.identity.dtype == np.int64


def test_several_values_and_unknown_columns(four):
    assert four.where(camera=(2, 6), split=('train', 'test')).path.tolist() == ['c.jpg', 'd.jpg']
    with pytest.raises(ValueError, match=r"no column \['person'\]; the columns are path"):
        four.where(person=7)


def test_it_travels_to_other_processes(four):
    assert pickle.loads(pickle.dumps(four)).frame().equals(four.frame())


@pytest.mark.parametrize(
    'column, values',
    [
        ('identity', np.array([7, 7, 9])),
        ('camera', np.array([[1, 3, 2, 6]])),
        ('identity', np.array([7.0, 7.0, 9.0, 9.0])),
        ('camera', [1, 3, 2, 6]),
        ('modality', [0, 1, 0, 1]),
        ('modality', np.array(['visible'] * 4)),
        ('root', 'a string'),
    ],
)
def test_columns_of_other_types_are_refused_by_name(four, column, values):
    with pytest.raises(TypeCheckError, match=column):
        replace(four, **{column: values})


@pytest.mark.parametrize('modality', [-1, 2])
def test_there_are_two_modalities(four, modality):
    with pytest.raises(ValueError, match=f'modality {modality}: expected 0 .visible. or 1'):
        replace(four, modality=np.array([0, 1, modality, 1]))
