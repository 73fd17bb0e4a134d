"Lists and folders that a text editor, a script or a bad disk could have made."

import shutil
from pathlib import Path

import pytest

from idkl_nb.common import INFRARED, VISIBLE, DataError
from idkl_nb.folders import existing_folder, listed_path, path_on_disk
from idkl_nb.image_lists import read_list, refuse_shared_identities
from idkl_nb.readers import read_dataset, read_llcm, read_regdb, read_sysu, without_copies
from idkl_nb.world import World
from idkl_nb.writers import write_llcm, write_regdb, write_sysu

small = World(height=32, width=16)


@pytest.mark.parametrize('strange', ['~nobody-of-this-name', 'x' * 300, 'a\0b', None, 5])
def test_places_as_strange_as_typing_errors_make_them(strange):
    with pytest.raises(DataError, match='Expected a dataset'):
        existing_folder(strange, 'a dataset')


@pytest.mark.parametrize(
    'text',
    ['../a.bmp', 'Visible/../../a.bmp', '/etc/passwd', 'C:\\a.bmp', '..\\a.bmp', '.', '', './'],
)
def test_paths_that_leave_the_root_or_name_nothing(text):
    with pytest.raises(DataError, match='list.txt, line 3: .*leaves the root'):
        listed_path(text, 'list.txt, line 3')


def test_backslashes_are_slashes():
    assert listed_path('Visible\\1\\a.bmp', Path('list.txt')) == 'Visible/1/a.bmp'


@pytest.mark.parametrize(
    'line',
    [
        '. 0',
        f'{"a/" * 2500}1.bmp 0',
        f'a/1/{"b" * 5000}.bmp 0',
        f'a/1/b.bmp {"9" * 5000}',
        f'a/{"1" * 30}/b.bmp 0',
        'a/1/b.bmp ٣',
        'a/1/b.bmp -1',
        'a/1/b.bmp 1.5',
        'a/1/b\0.bmp 0',
        'b.bmp',
        'a/1/none.bmp 0',
        'a/one/b.bmp 0',
    ],
)
def test_a_bad_line_is_refused_with_its_number(line, tmp_path):
    (tmp_path / 'list.txt').write_text(f'\n{line}\n', encoding='utf-8')
    with pytest.raises(DataError, match='line 1'):
        read_list(tmp_path, 'list.txt', 'Take it anew', {})


def test_a_listed_path_is_found_whatever_the_case_of_its_suffix(tmp_path):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a' / '1.BMP').touch()
    assert path_on_disk(tmp_path, 'a/1.bmp') == 'a/1.BMP'
    assert path_on_disk(tmp_path, 'a/1.BMP') == 'a/1.BMP'
    assert path_on_disk(tmp_path, 'a/1.png') is None
    assert path_on_disk(tmp_path, 'b/1.bmp') is None


def test_copies_with_another_suffix():
    paths = ['1.jpg', '2.PNG', '3.jpg', '3.png']
    assert without_copies(paths) == ['1.jpg', '2.PNG', '3.jpg']


def test_who_is_tested_on_is_not_trained_on():
    rows = [('a.jpg', n, 1, VISIBLE, split) for n in (1, 2) for split in ('val', 'test')]
    with pytest.raises(DataError, match='identity 1 is in the .* test set, and 1 more'):
        refuse_shared_identities(rows, Path('root'), 'list.txt', '')
    refuse_shared_identities(rows[::3], Path('root'), 'list.txt', '')


@pytest.mark.parametrize('reader', [read_sysu, read_regdb, read_llcm, read_dataset])
def test_a_folder_that_is_not_there(reader, tmp_path):
    with pytest.raises(DataError, match='no such folder. Expected'):
        reader(tmp_path / 'nothing')


@pytest.mark.parametrize(
    'reader, message',
    [
        (read_sysu, 'cam1'),
        (read_regdb, 'train_visible_1.txt: this list file is missing'),
        (read_llcm, 'train_vis.txt: this list file is missing'),
        (read_dataset, 'one level too high'),
    ],
)
def test_a_folder_of_something_else(reader, message, tmp_path):
    with pytest.raises(DataError, match=message):
        reader(tmp_path)


@pytest.mark.parametrize('trial', [0, 11, 'one'])
def test_trials_of_regdb(trial, tmp_path):
    with pytest.raises(DataError, match='trials 1 to 10'):
        read_regdb(tmp_path, trial)


# Lists of SYSU-MM01


@pytest.mark.parametrize(
    'content, message',
    [
        (b'', 'is empty'),
        (b'5;nine', 'not a list of identities'),
        (b'9' * 5000, 'not a list of identities'),
        (b'77', 'identity 0077'),
        (b'5,1,2', 'identity 1 is in the training and in the test set, and 1 more'),
        (b'\xff\xfe\x00', 'unreadable'),
        (None, 'is missing'),
    ],
)
def test_damaged_lists_of_sysu(content, message, tmp_path):
    root = write_sysu(small, tmp_path / 'sysu', [1, 2], [3], [5], images=4)
    file = root / 'exp' / 'test_id.txt'
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_sysu(root)


# Lists of RegDB


@pytest.fixture
def regdb(tmp_path):
    return write_regdb(small, tmp_path / 'regdb', range(1, 9), images=2)


def thermal_list(root, split, trial):
    return root / 'idx' / f'{split}_thermal_{trial}.txt'


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda path: 'a line', 'is not "path label"'),
        (lambda path: f'../{path} 0', 'leaves the root'),
        (lambda path: f'{path} 0\n{path} 1', 'has label 1 here and 0 before'),
        (lambda path: 'Thermal/1/none.bmp 0', 'is not there'),
        (lambda path: 'Visible/1/visible_00.bmp 0', 'does not lie in Thermal'),
        (lambda path: 'Thermal/x/none.bmp 0', 'named by its identity'),
    ],
)
def test_damaged_lists_of_regdb(regdb, change, message):
    file = thermal_list(regdb, 'test', 3)
    path, _ = file.read_text().splitlines()[0].split()
    file.write_text(change(path))
    with pytest.raises(DataError, match=message):
        read_regdb(regdb, trial=3)


def test_a_damaged_trial_of_regdb_leaves_the_others_readable(regdb):
    file = thermal_list(regdb, 'test', 3)
    file.write_text(thermal_list(regdb, 'train', 3).read_text())
    with pytest.raises(DataError, match='is in the training and in the test set'):
        read_regdb(regdb, trial=3)
    file.unlink()
    with pytest.raises(DataError, match='is missing'):
        read_regdb(regdb, trial=3)
    assert len(read_regdb(regdb, trial=4)) == 8 * 2 * 2


# Lists of LLCM


@pytest.fixture
def llcm(tmp_path):
    return write_llcm(small, tmp_path / 'llcm', [1, 2], [4], images=9)


def test_the_list_decides_and_not_the_folder(llcm):
    (llcm / 'nir' / '0004').mkdir()
    file = llcm / 'test_nir/cam1/0004/0004_c01_s000000_f0000_nir.jpg'
    moved = file.rename(llcm / 'nir' / '0004' / file.name)
    (llcm / 'idx/test_nir.txt').write_text(f'{moved.relative_to(llcm).as_posix()} 0')
    with pytest.warns(UserWarning, match='8 that no list names'):
        records = read_llcm(llcm)
    tested = records.where(split='test', modality=INFRARED)
    assert tested.path.tolist() == [moved.relative_to(llcm).as_posix()]


def test_a_training_identity_in_a_test_list_of_llcm(llcm):
    (llcm / 'idx/test_nir.txt').write_text('nir/0001/0001_c01_s000000_f0000_nir.jpg 0')
    with pytest.raises(DataError, match='identity 1 is in the training and in the test set'):
        read_llcm(llcm)


@pytest.mark.parametrize(
    'name', ['nameless.jpg', '0001_c10_s0_f0.jpg', '0001_c00_s0_f0.jpg', '0001_c٣_s0_f0.jpg']
)
def test_names_of_llcm_without_a_camera(llcm, name):
    file = llcm / 'nir/0001/0001_c01_s000000_f0000_nir.jpg'
    shutil.copy(file, file.with_name(name))
    (llcm / 'idx/test_nir.txt').write_text(f'nir/0001/{name} 0', encoding='utf-8')
    with pytest.raises(DataError, match='carries no camera'):
        read_llcm(llcm)
