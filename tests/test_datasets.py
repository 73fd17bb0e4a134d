"Datasets as they come from other people's disks: files that are no images, suffixes in capitals, 16-bit pictures, turned cameras, lists of other forms."
import shutil, warnings
from pathlib import Path
import numpy as np, pytest
from PIL import Image
from idkl_nb.batches import FORMATS
from idkl_nb.datasets import SUFFIXES, DataError, image_files, is_image, read_dataset, read_llcm, read_regdb, read_sysu, write_llcm, write_regdb, write_sysu
from idkl_nb.world import INFRARED, World

small = World(height=32, width=16)


@pytest.fixture(scope='module')
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp('clean')
    return dict(sysu=write_sysu(small, folder/'sysu', [1, 2], [3], [4, 5], images=8),
                regdb=write_regdb(small, folder/'regdb', range(1, 5), images=2),
                llcm=write_llcm(small, folder/'llcm', [1, 2], [3, 4], images=2))


@pytest.fixture(params=['sysu', 'regdb', 'llcm'])
def layout(request): return request.param


@pytest.fixture
def root(layout, roots, tmp_path): return shutil.copytree(roots[layout], tmp_path/layout)


def read(root, *args):
    "The table, and the warnings"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        return read_dataset(root, *args), [str(warning.message) for warning in caught]


def lists(root, layout): return sorted((root/'idx').glob('*.txt')) if layout != 'sysu' else []


def change_lists(root, layout, change):
    for file in lists(root, layout): file.write_text(''.join(f'{change(line)}\n' for line in file.read_text().splitlines()))


def test_a_clean_dataset_is_read_without_a_word(root, layout): assert read(root)[1] == []


# Names

def test_every_suffix_that_pillow_registers_for_these_formats():
    Image.init()
    assert SUFFIXES == {suffix: name for suffix, name in Image.registered_extensions().items() if name in FORMATS}
    assert all(is_image(f'a{suffix}') and is_image(f'a{suffix.upper()}') and not is_image(f'._a{suffix}') for suffix in SUFFIXES)
    assert not any(map(is_image, ['Thumbs.db', 'a.tif', 'jpg', '.jpg', 'a.jpg~', 'a']))


def test_names_that_begin_with_a_dot_are_no_images(root, layout):
    "macOS writes one beside each image; the table stays as it was, and one warning counts them"
    before = read(root)[0]
    for path in before.path: (root/path).with_name(f'._{Path(path).name}').write_bytes(b'\0\5\x16\7')
    (root/Path(before.path[0]).parent/'.cache').mkdir()
    shutil.copy(root/before.path[0], root/Path(before.path[0]).parent/'.cache'/'0009.jpg')
    after, warned = read(root)
    assert after.path.tolist() == before.path.tolist()
    assert len(warned) == 1 and f'{len(before) + 1} with a name that begins with a dot, such as' in warned[0]


@pytest.mark.parametrize('layout', ['regdb', 'llcm'])
def test_a_list_may_name_files_that_begin_with_a_dot(root, layout):
    "Whether they are still on the disk or not"
    before = read(root)[0]
    for file in lists(root, layout):
        lines = file.read_text().splitlines()
        file.write_text('\n'.join([f'{"/".join([*line.split("/")[:-1], "._" + line.split("/")[-1]])}' for line in lines[:1]] + lines))
    after, warned = read(root)
    assert after.path.tolist() == before.path.tolist()
    assert len(warned) == 1 and '4 with a name that begins with a dot' in warned[0]
    file.write_text(file.read_text().splitlines()[0])
    if layout == 'regdb': file = root/'idx'/'test_visible_1.txt'; file.write_text(file.read_text().splitlines()[0])
    with pytest.raises(DataError, match=f'{file.name}: no image is listed'): read(root)


@pytest.mark.parametrize('suffix', ['.JPG', '.Jpg', '.jpeg', '.JPEG', '.png', '.PNG', '.bmp', '.jpe', '.jfif', '.apng'])
def test_suffixes_in_any_case(root, layout, suffix):
    "A quarter of the images has another suffix: all are read, as before and in the same order"
    before = read(root)[0]
    for path in before.path[::4]: (root/path).rename((root/path).with_suffix(suffix))
    renamed = {path: str(Path(path).with_suffix(suffix)) for path in before.path[::4].tolist()}
    change_lists(root, layout, lambda line: f'{renamed.get(line.split()[0], line.split()[0])} {line.split()[1]}')
    after, warned = read(root)
    assert after.path.tolist() == [renamed.get(path, path) for path in before.path.tolist()] and warned == []


@pytest.mark.parametrize('layout', ['regdb', 'llcm'])
def test_a_list_may_write_the_suffix_in_another_case(root, layout):
    before = read(root)[0]
    for path in before.path[::2]: (root/path).rename((root/path).with_suffix(Path(path).suffix.upper()))
    after, warned = read(root)
    assert all((root/path).is_file() for path in after.path) and warned == []
    assert [path.lower() for path in after.path] == [path.lower() for path in before.path]
    (root/after.path[0]).rename((root/after.path[0]).with_suffix('.gif'))
    with pytest.raises(DataError, match='is not there'): read(root)


def test_what_is_not_used_is_counted(root, layout):
    "In one warning, by reasons, with an example of each"
    before = read(root)[0]
    folder = (root/before.path[0]).parent
    for name in ('Thumbs.db', 'scan.tif', 'notes.txt'): (folder/name).write_bytes(b'')
    shutil.copytree(folder, folder.parent/'7777', ignore=shutil.ignore_patterns('*.txt', '*.tif', '*.db'))
    after, warned = read(root)
    count = len(list((folder.parent/'7777').iterdir()))
    assert after.path.tolist() == before.path.tolist() and len(warned) == 1
    assert f'{3 + count} files in folders of images are not used: 3 whose names do not end in .jpg, .jpeg, .jpe, .jfif, .png, .apng or .bmp, such as {folder.relative_to(root).as_posix()}/Thumbs.db; {count} ' in warned[0]
    assert f'such as {folder.parent.relative_to(root).as_posix()}/7777/' in warned[0]


def test_copies_with_another_suffix_do_not_double_sysu(roots, tmp_path):
    root = shutil.copytree(roots['sysu'], tmp_path/'sysu')
    before = read(root)[0]
    for path in before.path: Image.open(root/path).save((root/path).with_suffix('.png'))
    after, warned = read(root)
    assert after.path.tolist() == before.path.tolist()
    assert f'{len(before)} of no listed identity, or copies with another suffix' in warned[0]


@pytest.mark.parametrize('recursive', [True, False])
def test_image_files_of_any_folder(recursive, tmp_path):
    (tmp_path/'b'/'.hidden').mkdir(parents=True)
    for name in ('2.PNG', '1.jpg', '.1.jpg', 'b/3.bmp', 'b/.hidden/4.jpg', 'b/5.heic'): (tmp_path/name).touch()
    (tmp_path/'b'/'again').symlink_to(tmp_path)
    with pytest.warns(UserWarning, match='files in folders of images are not used') as caught: files = image_files(tmp_path, recursive)
    assert [file.relative_to(tmp_path).as_posix() for file in files] == ['1.jpg', '2.PNG', *(['b/3.bmp'] if recursive else [])]
    assert len(caught) == 1
    with pytest.raises(DataError, match='none: no such folder'): image_files(tmp_path/'none')


def test_links_to_folders_are_followed(roots, layout, tmp_path):
    "A folder of images may lie on another disk"
    root = shutil.copytree(roots[layout], tmp_path/layout)
    before = read(root)[0]
    for folder in (before.path[0].split('/')[0], '/'.join(before.path[-1].split('/')[:-1])):
        (root/folder).rename(tmp_path/folder.replace('/', '-'))
        (root/folder).symlink_to(tmp_path/folder.replace('/', '-'))
    after, warned = read(root)
    assert after.path.tolist() == before.path.tolist() and warned == []


# Lists

def test_llcm_refuses_an_identity_in_train_and_test(roots, tmp_path):
    root = shutil.copytree(roots['llcm'], tmp_path/'llcm')
    for name in ('vis', 'nir'):
        train = (root/'idx'/f'train_{name}.txt').read_text().splitlines()
        (root/'idx'/f'test_{name}.txt').write_text('\n'.join(train[:2]))
    with pytest.raises(DataError, match='identity 1 is in the training and in the test set'): read_llcm(root)


def test_llcm_may_list_its_test_images_in_the_folders_of_the_training_images(roots, tmp_path):
    "As `nir/<id>/...`; then there need not be a folder test_nir"
    from idkl_nb.check import check
    root = shutil.copytree(roots['llcm'], tmp_path/'llcm')
    before = read(root)[0]
    for name in ('vis', 'nir'):
        for camera in sorted((root/f'test_{name}').iterdir()): shutil.copytree(camera, root/name, dirs_exist_ok=True)
        shutil.rmtree(root/f'test_{name}')
        file = root/'idx'/f'test_{name}.txt'
        file.write_text('\n'.join('/'.join([name, *line.split('/')[2:]]) for line in file.read_text().splitlines()))
    after, warned = read(root)
    assert warned == [] and sorted(Path(path).name for path in after.path) == sorted(Path(path).name for path in before.path)
    assert (after.where(split='test', modality=INFRARED).frame().path.str.startswith('nir/')).all()
    for column in ('identity', 'camera', 'modality', 'split'): assert getattr(after, column).tolist() == getattr(before, column).tolist()
    assert check(root, progress=False).errors == []


@pytest.mark.parametrize('layout', ['regdb', 'llcm'])
def test_lists_from_other_systems(root, layout):
    "A byte order mark, carriage returns and backslashes"
    before = read(root)[0]
    for file in lists(root, layout): file.write_bytes(b'\xef\xbb\xbf' + file.read_text().replace('/', '\\').replace('\n', '\r\n').encode())
    assert read(root)[0].path.tolist() == before.path.tolist()


def test_sysu_lists_from_other_systems(roots, tmp_path):
    root = shutil.copytree(roots['sysu'], tmp_path/'sysu')
    before = read(root)[0]
    for file in (root/'exp').glob('*.txt'): file.write_bytes(b'\xef\xbb\xbf' + file.read_text().strip().encode() + b',\r\n')
    assert read(root)[0].path.tolist() == before.path.tolist()
