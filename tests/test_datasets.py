"Datasets as they come from other people's disks: odd names, suffixes, depths, and lists."

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from idkl_nb.augmentation import normalise
from idkl_nb.cache_building import build_cache
from idkl_nb.check import check
from idkl_nb.check_images import check_image
from idkl_nb.common import INFRARED, DataError
from idkl_nb.folders import SUFFIXES, image_files, is_image
from idkl_nb.images import Images, eval_transform
from idkl_nb.readers import read_dataset, read_llcm, read_sysu
from idkl_nb.reading_images import FORMATS, is_deep, read_image
from idkl_nb.world import World
from idkl_nb.writers import write_llcm, write_regdb, write_sysu

small = World(height=32, width=16)


@pytest.fixture(scope='module')
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp('clean')
    return dict(
        sysu=write_sysu(small, folder / 'sysu', [1, 2], [3], [4, 5], images=8),
        regdb=write_regdb(small, folder / 'regdb', range(1, 5), images=2),
        llcm=write_llcm(small, folder / 'llcm', [1, 2], [3, 4], images=2),
    )


@pytest.fixture(params=['sysu', 'regdb', 'llcm'])
def layout(request):
    return request.param


@pytest.fixture
def root(layout, roots, tmp_path):
    return shutil.copytree(roots[layout], tmp_path / layout)


def read(root, *args):
    "The table, and the warnings"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        records = read_dataset(root, *args)
    return records, [str(warning.message) for warning in caught]


def lists(root, layout):
    return sorted((root / 'idx').glob('*.txt')) if layout != 'sysu' else []


def change_lists(root, layout, change):
    for file in lists(root, layout):
        file.write_text(''.join(f'{change(line)}\n' for line in file.read_text().splitlines()))


def test_a_clean_dataset_is_read_without_a_word(root, layout):
    assert read(root)[1] == []


# Names


def test_every_suffix_that_pillow_registers_for_these_formats():
    Image.init()
    assert SUFFIXES == {
        suffix: name for suffix, name in Image.registered_extensions().items() if name in FORMATS
    }
    assert all(
        is_image(f'a{suffix}') and is_image(f'a{suffix.upper()}') and not is_image(f'._a{suffix}')
        for suffix in SUFFIXES
    )
    assert not any(map(is_image, ['Thumbs.db', 'a.tif', 'jpg', '.jpg', 'a.jpg~', 'a']))


def test_names_that_begin_with_a_dot_are_no_images(root, layout):
    "macOS writes one beside each image; the table stays as it was, and one warning counts them"
    before = read(root)[0]
    for path in before.path:
        (root / path).with_name(f'._{Path(path).name}').write_bytes(b'\0\5\x16\7')
    (root / Path(before.path[0]).parent / '.cache').mkdir()
    shutil.copy(root / before.path[0], root / Path(before.path[0]).parent / '.cache' / '0009.jpg')
    after, warned = read(root)
    assert after.path.tolist() == before.path.tolist()
    assert (
        len(warned) == 1
        and f'{len(before) + 1} with a name that begins with a dot, such as' in warned[0]
    )


@pytest.mark.parametrize('layout', ['regdb', 'llcm'])
def test_a_list_may_name_files_that_begin_with_a_dot(root, layout):
    "Whether they are still on the disk or not"
    before = read(root)[0]
    for file in lists(root, layout):
        lines = file.read_text().splitlines()
        file.write_text(
            '\n'.join(
                [
                    f'{"/".join([*line.split("/")[:-1], "._" + line.split("/")[-1]])}'
                    for line in lines[:1]
                ]
                + lines
            )
        )
    after, warned = read(root)
    assert after.path.tolist() == before.path.tolist()
    assert len(warned) == 1 and '4 with a name that begins with a dot' in warned[0]
    file.write_text(file.read_text().splitlines()[0])
    if layout == 'regdb':
        file = root / 'idx' / 'test_visible_1.txt'
        file.write_text(file.read_text().splitlines()[0])
    with pytest.raises(DataError, match=f'{file.name}: no image is listed'):
        read(root)


@pytest.mark.parametrize(
    'suffix', ['.JPG', '.Jpg', '.jpeg', '.JPEG', '.png', '.PNG', '.bmp', '.jpe', '.jfif', '.apng']
)
def test_suffixes_in_any_case(root, layout, suffix):
    "A quarter of the images has another suffix: all are read, as before and in the same order"
    before = read(root)[0]
    for path in before.path[::4]:
        (root / path).rename((root / path).with_suffix(suffix))
    renamed = {path: str(Path(path).with_suffix(suffix)) for path in before.path[::4].tolist()}
    change_lists(
        root,
        layout,
        lambda line: f'{renamed.get(line.split()[0], line.split()[0])} {line.split()[1]}',
    )
    after, warned = read(root)
    assert (
        after.path.tolist() == [renamed.get(path, path) for path in before.path.tolist()]
        and warned == []
    )


@pytest.mark.parametrize('layout', ['regdb', 'llcm'])
def test_a_list_may_write_the_suffix_in_another_case(root, layout):
    before = read(root)[0]
    for path in before.path[::2]:
        (root / path).rename((root / path).with_suffix(Path(path).suffix.upper()))
    after, warned = read(root)
    assert all((root / path).is_file() for path in after.path) and warned == []
    assert [path.lower() for path in after.path] == [path.lower() for path in before.path]
    (root / after.path[0]).rename((root / after.path[0]).with_suffix('.gif'))
    with pytest.raises(DataError, match='is not there'):
        read(root)


def test_what_is_not_used_is_counted(root, layout):
    "In one warning, by reasons, with an example of each"
    before = read(root)[0]
    folder = (root / before.path[0]).parent
    for name in ('Thumbs.db', 'scan.tif', 'notes.txt'):
        (folder / name).write_bytes(b'')
    shutil.copytree(
        folder, folder.parent / '7777', ignore=shutil.ignore_patterns('*.txt', '*.tif', '*.db')
    )
    after, warned = read(root)
    count = len(list((folder.parent / '7777').iterdir()))
    assert after.path.tolist() == before.path.tolist() and len(warned) == 1
    place = folder.relative_to(root).as_posix()
    assert (
        f'{3 + count} files in folders of images are not used: 3 whose names do not end in '
        f'.jpg, .jpeg, .jpe, .jfif, .png, .apng or .bmp, such as {place}/Thumbs.db; {count} '
    ) in warned[0]
    assert f'such as {folder.parent.relative_to(root).as_posix()}/7777/' in warned[0]


def test_copies_with_another_suffix_do_not_double_sysu(roots, tmp_path):
    root = shutil.copytree(roots['sysu'], tmp_path / 'sysu')
    before = read(root)[0]
    for path in before.path:
        Image.open(root / path).save((root / path).with_suffix('.png'))
    after, warned = read(root)
    assert after.path.tolist() == before.path.tolist()
    assert f'{len(before)} of no listed identity, or copies with another suffix' in warned[0]


@pytest.mark.parametrize('recursive', [True, False])
def test_image_files_of_any_folder(recursive, tmp_path):
    (tmp_path / 'b' / '.hidden').mkdir(parents=True)
    for name in ('2.PNG', '1.jpg', '.1.jpg', 'b/3.bmp', 'b/.hidden/4.jpg', 'b/5.heic'):
        (tmp_path / name).touch()
    (tmp_path / 'b' / 'again').symlink_to(tmp_path)
    with pytest.warns(UserWarning, match='files in folders of images are not used') as caught:
        files = image_files(tmp_path, recursive)
    assert [file.relative_to(tmp_path).as_posix() for file in files] == [
        '1.jpg',
        '2.PNG',
        *(['b/3.bmp'] if recursive else []),
    ]
    assert len(caught) == 1
    with pytest.raises(DataError, match='none: no such folder'):
        image_files(tmp_path / 'none')


def test_links_to_folders_are_followed(roots, layout, tmp_path):
    "A folder of images may lie on another disk"
    root = shutil.copytree(roots[layout], tmp_path / layout)
    before = read(root)[0]
    for folder in (before.path[0].split('/')[0], '/'.join(before.path[-1].split('/')[:-1])):
        (root / folder).rename(tmp_path / folder.replace('/', '-'))
        (root / folder).symlink_to(tmp_path / folder.replace('/', '-'))
    after, warned = read(root)
    assert after.path.tolist() == before.path.tolist() and warned == []


# The check


def new_findings(root, roots, layout):
    "What is not said of the clean dataset, as (severity, kind, what)"
    clean = {(f.kind, f.path) for f in check(roots[layout], progress=False).findings}
    return [
        (f.severity, f.kind, f.what)
        for f in check(root, progress=False).findings
        if (f.kind, f.path) not in clean
    ]


def test_the_check_has_one_finding_for_names_that_begin_with_a_dot(root, roots, layout):
    paths = read(root)[0].path
    for path in paths:
        (root / path).with_name(f'._{Path(path).name}').write_bytes(b'\0\5\x16\7')
    assert new_findings(root, roots, layout) == [
        ('warning', 'hidden files', f'files whose names begin with a dot: {len(paths)}')
    ]
    (cure,) = {f.cure for f in check(root, progress=False).findings if f.kind == 'hidden files'}
    assert 'never read' in cure and 'rand_perm_cam' not in cure


@pytest.mark.parametrize('suffix', ['.JPG', '.jpeg', '.PNG'])
def test_the_check_reads_the_suffixes_that_the_readers_read(root, roots, layout, suffix):
    kind, paths = 'PNG' if suffix == '.PNG' else 'JPEG', read(root)[0].path
    for path in paths:
        Image.open(root / path).save((root / path).with_suffix('.new'), kind, quality=95)
        (root / path).unlink()
        (root / path).with_suffix('.new').rename((root / path).with_suffix(suffix))
    change_lists(
        root,
        layout,
        lambda line: f'{Path(line.split()[0]).with_suffix(suffix).as_posix()} {line.split()[1]}',
    )
    assert len(read(root)[0]) == len(paths) and new_findings(root, roots, layout) == []
    change_lists(
        root,
        layout,
        lambda line: (
            f'{Path(line.split()[0]).with_suffix(suffix.swapcase()).as_posix()} {line.split()[1]}'
        ),
    )
    assert len(read(root)[0]) == len(paths) and new_findings(root, roots, layout) == []


def test_the_check_counts_what_the_readers_leave_out(root, roots, layout):
    folder = (root / read(root)[0].path[0]).parent
    for name in ('Thumbs.db', 'scan.tif'):
        (folder / name).write_bytes(b'')
    assert new_findings(root, roots, layout) == [
        ('warning', 'files not in use', 'files with other endings than images: 2')
    ]


# Lists


def test_llcm_refuses_an_identity_in_train_and_test(roots, tmp_path):
    root = shutil.copytree(roots['llcm'], tmp_path / 'llcm')
    for name in ('vis', 'nir'):
        train = (root / 'idx' / f'train_{name}.txt').read_text().splitlines()
        (root / 'idx' / f'test_{name}.txt').write_text('\n'.join(train[:2]))
    with pytest.raises(DataError, match='identity 1 is in the training and in the test set'):
        read_llcm(root)


def test_llcm_may_list_its_test_images_in_the_folders_of_the_training_images(roots, tmp_path):
    "As `nir/<id>/...`; then there need not be a folder test_nir"
    root = shutil.copytree(roots['llcm'], tmp_path / 'llcm')
    before = read(root)[0]
    for name in ('vis', 'nir'):
        for camera in sorted((root / f'test_{name}').iterdir()):
            shutil.copytree(camera, root / name, dirs_exist_ok=True)
        shutil.rmtree(root / f'test_{name}')
        file = root / 'idx' / f'test_{name}.txt'
        file.write_text(
            '\n'.join(
                '/'.join([name, *line.split('/')[2:]]) for line in file.read_text().splitlines()
            )
        )
    after, warned = read(root)
    assert warned == [] and sorted(Path(path).name for path in after.path) == sorted(
        Path(path).name for path in before.path
    )
    assert (after.where(split='test', modality=INFRARED).frame().path.str.startswith('nir/')).all()
    for column in ('identity', 'camera', 'modality', 'split'):
        assert getattr(after, column).tolist() == getattr(before, column).tolist()
    assert check(root, progress=False).errors == []


@pytest.mark.parametrize('layout', ['regdb', 'llcm'])
def test_lists_from_other_systems(root, layout):
    "A byte order mark, carriage returns and backslashes"
    before = read(root)[0]
    for file in lists(root, layout):
        file.write_bytes(
            b'\xef\xbb\xbf' + file.read_text().replace('/', '\\').replace('\n', '\r\n').encode()
        )
    assert read(root)[0].path.tolist() == before.path.tolist()


def test_sysu_lists_from_other_systems(roots, tmp_path):
    root = shutil.copytree(roots['sysu'], tmp_path / 'sysu')
    before = read(root)[0]
    for file in (root / 'exp').glob('*.txt'):
        file.write_bytes(b'\xef\xbb\xbf' + file.read_text().strip().encode() + b',\r\n')
    assert read(root)[0].path.tolist() == before.path.tolist()


# Pictures: one reader for transforms, cache and pictures, and the check beside it


@pytest.fixture
def one(roots, tmp_path):
    "SYSU-MM01, the table of its training images, the first of them, and its picture"
    root = shutil.copytree(roots['sysu'], tmp_path / 'one')
    records = read_sysu(root).where(split=('train', 'val'))
    file = root / records.path[0]
    return root, records, file, Image.open(file).convert('RGB')


def save(image, file, kind, **how):
    "Under the name of the file, whatever the format"
    image.save(file, kind, **how)


def seen(root, records):
    "The first image by each of the ways that lead to a network: reader, loader, cache"
    table, images = records[:8], []
    images.append(eval_transform(32, 16)(read_image(root / records.path[0])))
    images.append(Images(table, eval_transform(32, 16))[0].images)
    cache = build_cache(table, 32, 16, root.parent / 'caches', progress=False)
    images.append(normalise(cache.gather(np.array([0])))[0])
    return images


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('kind', ['PNG', 'JPEG'])
def test_images_are_turned_as_exif_says(one, kind, orientation):
    root, records, file, picture = one
    # what the camera did, as a transposition of Pillow
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = picture if orientation == 1 else picture.transpose(Image.Transpose(back[orientation]))
    exif = Image.Exif()
    exif[0x112] = orientation
    save(
        stored,
        file,
        kind,
        exif=exif,
        **(dict(quality=100, subsampling=0) if kind == 'JPEG' else {}),
    )
    for image in seen(root, records):
        change = (image - eval_transform(32, 16)(picture)).abs().mean()
        assert change < (0.1 if kind == 'JPEG' else 1e-6)
    assert check_image(file, False)[:6] == ('', '', kind, 'RGB', *picture.size)


@pytest.mark.parametrize(
    'exif',
    [
        b'Exif\0\0',
        b'Exif\0\0not an exif',
        b'Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x12\0\x02\0\0\0\x02A\0\0\0\xff\xff',
        b'Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0',
    ],
)
def test_broken_exif_spoils_no_image(one, exif):
    root, records, file, picture = one
    save(picture, file, 'JPEG', exif=exif)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of Pillow: corrupt EXIF data
        assert read_image(file).size == picture.size and check_image(file, False).fault == ''


@pytest.mark.parametrize('quick', [True, False])
def test_more_than_8_bits_are_refused(one, quick):
    "They would be cut at 255: pure white"
    root, records, file, _ = one
    x = np.linspace(7000, 9500, 32 * 16).reshape(32, 16)
    save(Image.fromarray(x.astype(np.uint16)), file, 'PNG')
    for use in (
        lambda: read_image(file),
        lambda: Images(records, eval_transform(32, 16))[0],
        lambda: build_cache(records, 32, 16, root.parent / 'caches', progress=False),
    ):
        message = (
            f'{file.name}: this image has more than 8 bits a pixel .*values from 7,000 to 9,500'
            '.*Convert all images of its modality to 8 bits by one range'
        )
        with pytest.raises(DataError, match=message):
            use()
    errors = check(root, quick=quick, progress=False).errors
    assert [(one.kind, one.path) for one in errors] == [('more than 8 bits', records.path[0])]
    assert 'to 8 bits by one range' in errors[0].cure
    with pytest.warns(UserWarning, match='stands in for it'):
        Images(records, eval_transform(32, 16), on_unreadable='skip')[0]


def test_modes_that_pillow_would_cut_at_255():
    "Those whose conversion to 8 bits loses a value that 8 bits could not hold"
    of_8_bits = '1 L LA P PA RGB RGBA CMYK YCbCr LAB HSV'.split()
    deep = ['I', 'F', 'I;16', 'I;16L', 'I;16B', 'I;16N']
    assert [mode for mode in of_8_bits + deep if is_deep(mode)] == deep
    for mode in ('I', 'F', 'I;16'):
        assert Image.new(mode, (1, 1), 9000).convert('RGB').getpixel((0, 0)) == (255,) * 3


@pytest.mark.parametrize('mode', ['I;16', 'F', 'L'])
def test_tiff_is_refused_with_the_formats_that_are_read(one, mode):
    root, records, file, _ = one
    save(Image.new(mode, (16, 32)), file, 'TIFF')
    with pytest.raises(DataError, match='Expected JPEG, PNG, BMP. .*convert it'):
        read_image(file)
    assert [(f.kind, f.path) for f in check(root, progress=False).errors] == [
        ('unreadable image', records.path[0])
    ]


def test_16_bits_in_colour_are_scaled(one):
    "Pillow has no mode for them, and takes the upper 8 bits of each channel"
    import struct
    import zlib

    def chunk(name, data):
        length, checksum = len(data), zlib.crc32(name + data)
        return struct.pack('>I', length) + name + data + struct.pack('>I', checksum)

    pixels = np.full((4, 2, 3), (40_000, 20_000, 257), dtype='>u2')
    rows = b''.join(b'\0' + row.tobytes() for row in pixels)
    one[2].write_bytes(
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', struct.pack('>IIBBBBB', 2, 4, 16, 2, 0, 0, 0))
        + chunk(b'IDAT', zlib.compress(rows))
        + chunk(b'IEND', b'')
    )
    assert np.asarray(read_image(one[2]))[0, 0].tolist() == [40_000 >> 8, 20_000 >> 8, 1]


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK'])
def test_modes_of_8_bits_are_read_as_before(one, mode):
    root, records, file, picture = one
    save(picture.convert(mode), file, 'JPEG' if mode == 'CMYK' else 'PNG')
    with Image.open(file) as image:
        expected = np.asarray(image.convert('RGB'))
    assert np.array_equal(read_image(file), expected)


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'BMP'])
def test_half_an_image_is_never_taken_for_a_whole_one(one, kind):
    root, records, file, picture = one
    save(picture.resize((60, 120)), file, kind)
    whole = file.read_bytes()
    for share in np.linspace(0.05, 0.9, 18):
        file.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(DataError, match='missing or damaged'):
            read_image(file)
        assert check_image(file, False).fault in ('truncated image', 'unreadable image')
