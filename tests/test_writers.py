"The writers: what they refuse, and whether what they write is the layout they promise."

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat

from idkl_nb.common import INFRARED, VISIBLE, DataError
from idkl_nb.layouts import LLCM_CAMERAS, TRIALS
from idkl_nb.readers import read_dataset, read_llcm, read_regdb, read_sysu
from idkl_nb.world import World
from idkl_nb.writers import write_llcm, write_regdb, write_sysu

small = World(height=32, width=16)


def write_by_name(name, root):
    if name == 'sysu':
        return write_sysu(small, root, [1], [2], [3], images=4)
    if name == 'regdb':
        return write_regdb(small, root, [1, 2], images=2)
    return write_llcm(small, root, [1], [2], images=9)


@pytest.mark.parametrize('name, images', [('sysu', 24), ('regdb', 8), ('llcm', 36)])
def test_one_function_reads_any_of_the_three(name, images, tmp_path):
    records = read_dataset(write_by_name(name, tmp_path / name))
    assert len(records) == images
    for path in records.path:
        assert Image.open(records.root / path).size == (16, 32)


def test_trials_of_regdb_are_different_splits(tmp_path):
    root = write_regdb(small, tmp_path / 'regdb', range(1, 9), images=1)
    assert read_dataset(root, trial=2).split[0] == 'train'
    trained = set()
    for trial in range(1, 11):
        records = read_regdb(root, trial)
        train = frozenset(records.where(split='train').identity.tolist())
        assert not train & set(records.where(split='test').identity.tolist())
        trained.add(train)
    assert len(trained) > 5


def test_pixels_of_regdb_are_those_of_the_world(tmp_path):
    root = write_by_name('regdb', tmp_path / 'regdb')
    for file, place in (
        ('Visible/1/visible_00.bmp', (1, VISIBLE, 1, 0)),
        ('Thermal/1/thermal_00.bmp', (1, INFRARED, 2, 0)),
    ):
        assert np.array_equal(Image.open(root / file), small.draw(*place))


def test_cameras_and_splits_of_sysu(tmp_path):
    root = write_sysu(World(), tmp_path / 'sysu', [1], [2], [5, 9], images=12)
    records = read_sysu(root)
    assert np.unique(records.where(modality=INFRARED).camera).tolist() == [3, 6]
    assert np.unique(records.where(modality=VISIBLE).camera).tolist() == [1, 2, 4, 5]
    assert np.unique(records.where(split='test').identity).tolist() == [5, 9]

    draws = loadmat(root / 'exp' / 'rand_perm_cam.mat')['rand_perm_cam']
    assert draws[2, 0][4, 0].shape == (TRIALS, 6)  # camera 3, identity 5
    assert sorted(draws[0, 0][8, 0][0].tolist()) == [1, 2, 3]
    assert draws[0, 0][5, 0].size == 0  # nobody has number 6 here

    picture = np.asarray(Image.open(root / records.path[0]), dtype=float)
    assert picture.shape == (128, 64, 3)
    assert np.abs(picture - np.asarray(World().draw(1, VISIBLE, 1, 0))).mean() < 4


def test_every_camera_of_llcm_takes_both_modalities(tmp_path):
    records = read_llcm(write_llcm(small, tmp_path / 'llcm', [1, 2], [4, 5]))
    assert len(records) == 4 * 2 * 18
    tested = records.where(split='test', modality=INFRARED)
    assert tuple(np.unique(tested.camera)) == LLCM_CAMERAS
    sizes = records.frame().groupby(['identity', 'modality', 'camera']).size()
    assert sizes.unique().tolist() == [2]


@pytest.mark.parametrize(
    'write, message',
    [
        (lambda root: write_sysu(small, root, [1], [2], [2]), 'stands in two splits'),
        (lambda root: write_sysu(small, root, [1], [2], []), 'at least one identity'),
        (lambda root: write_sysu(small, root, [0], [2], [3]), 'from 1 to 9999'),
        (lambda root: write_sysu(small, root, [1], [2], [10_000]), 'from 1 to 9999'),
        (lambda root: write_sysu(small, root, [1], [2], [3], images=0), 'no image to draw'),
        (lambda root: write_regdb(small, root, [1, 1]), 'at least 2 identities'),
        (lambda root: write_llcm(small, root, [1], [1]), 'no identity may be in both'),
        (lambda root: write_llcm(small, root, [], [1]), 'identities to train on'),
    ],
)
def test_impossible_datasets(write, message, tmp_path):
    with pytest.raises(DataError, match=message):
        write(tmp_path / 'new')
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_not_touched(tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    with pytest.raises(DataError, match='something is there already'):
        write_by_name('sysu', tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['notes.txt']


def test_a_folder_below_a_file(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(DataError, match="can't be written here"):
        write_by_name('sysu', tmp_path / 'file' / 'inside')
