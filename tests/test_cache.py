"Image caches under bad luck: outdated, killed, raced for, no room, no rights; and their batches."

import json
import multiprocessing
import os
import pickle
import resource
import shutil
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from PIL import Image

from idkl_nb import cache_building as module
from idkl_nb.augmentation import BatchAugment, normalise, step_generator
from idkl_nb.batches import eval_loader, train_loader
from idkl_nb.cache import CachedImages, ImageCache, cached_eval_loader, cached_train_loader
from idkl_nb.cache_building import build_cache, cache_bytes, fingerprint
from idkl_nb.common import DataError
from idkl_nb.images import Images, eval_transform, resize_transform
from idkl_nb.readers import read_sysu
from idkl_nb.reading_images import read_image
from idkl_nb.records import Batch, Records
from idkl_nb.whole_files import ABANDONED
from idkl_nb.world import World
from idkl_nb.writers import write_sysu

quiet = dict(progress=False)


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    return write_sysu(
        World(),
        tmp_path_factory.mktemp('data') / 'sysu',
        train=[1, 2, 3],
        val=[4],
        test=[5],
        images=8,
    )


@pytest.fixture(scope='module')
def records(dataset):
    return read_sysu(dataset).where(split=('train', 'val'))


@pytest.fixture(scope='module')
def cache(records, tmp_path_factory):
    return build_cache(records, 64, 32, tmp_path_factory.mktemp('caches'), **quiet)


def child(work, *args):
    "A forked process at work"
    process = multiprocessing.get_context('fork').Process(target=work, args=args)
    process.start()
    return process


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_pixels_are_those_of_the_test_transform(cache, records):
    for workers in (0, 2):
        cached = torch.cat(
            [normalise(batch.images) for batch in cached_eval_loader(records, cache, 13, workers)]
        )
        assert torch.equal(
            cached,
            torch.cat([batch.images for batch in eval_loader(records, eval_transform(64, 32), 13)]),
        )


@pytest.mark.parametrize('workers', [0, 2])
def test_batches_follow_the_plan_of_the_files(cache, records, workers):
    files = train_loader(records, eval_transform(64, 32), P=3, K=2, batches=4, seed=7)
    cached = cached_train_loader(records, cache, P=3, K=2, batches=4, seed=7, workers=workers)
    assert len(files) == len(cached) == 4
    for epoch in (0, 1, 0):
        for loader in (files, cached):
            loader.batch_sampler.set_epoch(epoch)
        for a, b in zip(files, cached, strict=True):
            assert isinstance(b, Batch) and same(a, b._replace(images=normalise(b.images)))


def test_spawned_workers_get_all_they_need(cache, records):
    loader = cached_train_loader(records, cache, P=2, K=2)
    dataset, collate = pickle.loads(pickle.dumps((loader.dataset, loader.collate_fn)))
    assert same(collate(dataset.__getitems__([3, 0])), loader.dataset.__getitems__([3, 0]))


def test_accelerate_takes_the_loader(cache, records):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    plain, loader = (cached_train_loader(records, cache, P=2, K=2, batches=3) for _ in range(2))
    loader, augment = accelerator.prepare(loader), BatchAugment()
    for epoch in (0, 1):
        plain.batch_sampler.set_epoch(epoch)  # Accelerate's loader counts epochs by itself
        for step, (a, b) in enumerate(zip(plain, loader, strict=True)):
            assert (
                isinstance(b, Batch)
                and b.images.dtype == torch.uint8
                and b.images.device.type == accelerator.device.type
            )
            assert same(a, (x.cpu() for x in b))
            assert augment(b.images, step_generator(0, step)).device == b.images.device
    AcceleratorState._reset_state(True)


def test_augmentation_is_decided_by_seed_and_step(cache, records):
    augment = BatchAugment(channel=0.5)

    def augmented(workers):
        loader = cached_train_loader(records, cache, 2, 2, batches=3, workers=workers)
        return [augment(batch.images, step_generator(3, step)) for step, batch in enumerate(loader)]

    first = augmented(0)
    torch.manual_seed(99)  # the global generator has no part in it
    assert same(first, augmented(2))


def test_touched_grown_and_removed_images_are_noticed(records, tmp_path):
    "The cache is built anew; a removed image is named"
    shutil.copytree(records.root, tmp_path / 'copy')
    own = replace(records, root=tmp_path / 'copy')

    def build():
        return build_cache(own, 64, 32, tmp_path / 'caches', **quiet)

    first = build()
    file = own.root / own.path[3]
    assert build().folder == first.folder
    os.utime(file, (0, 0))
    with pytest.warns(UserWarning, match='outdated'):
        touched = build()
    assert touched.folder != first.folder and names(tmp_path / 'caches') == [touched.folder.name]
    Image.new('RGB', (64, 128), 'white').save(file)
    os.utime(file, (0, 0))  # another size, the same time
    with pytest.warns(UserWarning, match='outdated'):
        grown = build()
    assert grown.images[3].min() == 255
    file.unlink()
    with pytest.raises(DataError, match=f'{file.name}: this image is missing'):
        build()
    assert names(tmp_path / 'caches') == [grown.folder.name]


@pytest.mark.parametrize(
    'harm',
    [
        lambda folder: (folder / 'images.npy').unlink(),
        lambda folder: (folder / 'cache.json').unlink(),
        lambda folder: (folder / 'cache.json').write_text('{'),
        lambda folder: (folder / 'cache.json').write_text('[]'),
        lambda folder: (folder / 'cache.json').write_text(
            json.dumps(dict(format=99, images=64, height=64, width=32))
        ),
        lambda folder: os.truncate(folder / 'images.npy', 50_000),
        lambda folder: os.truncate(folder / 'images.npy', 0),
        lambda folder: np.save(folder / 'images.npy', np.zeros((64, 3, 32, 64), np.uint8)),
    ],
)
def test_damage_is_noticed_and_mended(harm, cache, records, tmp_path):
    "A cache that is cut off, or of another form, is refused and built anew"
    built = build_cache(records, 64, 32, tmp_path, **quiet)
    harm(built.folder)
    with pytest.raises(DataError, match='build_cache'):
        ImageCache(built.folder, records)
    with pytest.warns(UserWarning, match='damaged'):
        again = build_cache(records, 64, 32, tmp_path, **quiet)
    assert np.array_equal(again.images, cache.images)


def test_other_tables_and_sizes_live_side_by_side(records, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        built = [
            build_cache(table, *size, tmp_path, **quiet)
            for table in (records[:9], records[:8], records[8::-1])
            for size in ((32, 16), (16, 32))
        ]
    assert len(names(tmp_path)) == 6
    for one in built:
        assert ImageCache(one.folder, one.records).images.shape == (
            len(one.records),
            3,
            one.height,
            one.width,
        )


def test_killed_while_building(cache, records, tmp_path):
    "What is unfinished is never opened, and removed by the next that builds"
    writing = multiprocessing.get_context('fork').Event()

    def build_slowly():
        def copy(array):
            if array.shape[0] == 32 and next(batches):
                writing.set()
                time.sleep(60)  # at the second of two batches
            return array.copy()

        batches = iter([False, True])
        module.np.ascontiguousarray = copy
        build_cache(records, 64, 32, tmp_path, **quiet)

    victim = child(build_slowly)
    assert writing.wait(60)
    victim.kill()
    victim.join()
    (left,) = tmp_path.iterdir()
    assert left.name.endswith('.unfinished') and (left / 'images.npy').exists()
    with pytest.raises(DataError, match='no whole image cache'):
        ImageCache(left, records)
    assert np.array_equal(build_cache(records, 64, 32, tmp_path, **quiet).images, cache.images)
    assert not left.exists() and len(names(tmp_path)) == 1
    left = left.with_name('made-by-another-machine.unfinished')
    left.mkdir()  # killed before it made its first file
    build_cache(records, 32, 16, tmp_path, **quiet)
    assert left.exists()  # it could be another process at work
    os.utime(left, (time.time() - 2 * ABANDONED,) * 2)
    build_cache(records, 16, 32, tmp_path, **quiet)
    assert not left.exists() and len(names(tmp_path)) == 3


def test_two_processes_at_once(cache, records, tmp_path):
    "Both get the same cache, whoever was first"
    context = multiprocessing.get_context('fork')
    both = context.Barrier(2)
    results = context.SimpleQueue()

    def build():
        rename = Path.rename

        def late(self, target):
            both.wait(60)
            return rename(self, target)  # both have written everything, neither has renamed

        Path.rename = late
        results.put(int(build_cache(records, 64, 32, tmp_path, **quiet).images.sum(dtype='int64')))

    builders = [child(build) for _ in range(2)]
    for one in builders:
        one.join(120)
    assert [one.exitcode for one in builders] == [0, 0] and not both.broken
    for _ in builders:
        assert results.get() == cache.images.sum(dtype='int64')
    assert names(tmp_path) == [cache.folder.name]
    assert np.array_equal(ImageCache(tmp_path / cache.folder.name, records).images, cache.images)


def test_a_limit_on_file_size(records, tmp_path):
    "As on a disk that fills up while we write"
    results = multiprocessing.get_context('fork').SimpleQueue()

    def build():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            build_cache(records, 64, 32, tmp_path, **quiet)
        except DataError as error:
            results.put(str(error))

    one = child(build)
    one.join(60)
    assert one.exitcode == 0
    message = results.get()
    assert (
        f"{tmp_path}: the image cache can't be written" in message
        and f'It needs {cache_bytes(records, 64, 32):,} bytes' in message
    )
    assert names(tmp_path) == []


def test_no_room(records, tmp_path, monkeypatch):
    "The message says how much is needed and how much is free"
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        shutil, 'disk_usage', lambda folder: usage._replace(free=cache_bytes(records, 64, 32) - 1)
    )
    with pytest.raises(DataError, match=f'no room.*{cache_bytes(records, 64, 32):,} bytes'):
        build_cache(records, 64, 32, tmp_path, **quiet)
    assert names(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, 'geteuid'), reason='no such rights')
def test_no_right_to_write(records, tmp_path):
    "The message names the folder"
    folder = tmp_path / 'locked'
    folder.mkdir()
    folder.chmod(0o555)
    (tmp_path / 'file').write_text('')
    own = os.geteuid()
    try:
        if own == 0:  # root may write everywhere, so be nobody for a moment
            base = Path(tempfile.gettempdir()).resolve()
            for place in (tmp_path, records.root):
                for parent in (place, *place.resolve().parents):
                    if base in parent.parents:
                        parent.chmod(0o755)
            os.seteuid(65534)
        with pytest.raises(DataError, match="locked: the image cache can't be written"):
            build_cache(records, 64, 32, folder, **quiet)
    finally:
        os.seteuid(own)
    assert names(folder) == []
    with pytest.raises(DataError, match="file: the image cache can't be written"):
        build_cache(records, 64, 32, tmp_path / 'file', **quiet)


def test_an_unreadable_image_is_named(records, tmp_path):
    "And no half cache is left"
    shutil.copytree(records.root, tmp_path / 'copy')
    own = replace(records, root=tmp_path / 'copy')
    (own.root / own.path[40]).write_bytes(b'not an image')
    with pytest.raises(DataError, match=f'{own.path[40]}: this image is missing or damaged'):
        build_cache(own, 64, 32, tmp_path / 'caches', **quiet)
    assert names(tmp_path / 'caches') == []


def test_names_in_any_script(records, tmp_path):
    shutil.copytree(records.root, tmp_path / 'Bilder ähm 图像' / 'sÿsu [1]')
    built = build_cache(
        replace(records, root=tmp_path / 'Bilder ähm 图像' / 'sÿsu [1]'),
        64,
        32,
        tmp_path / 'größe * [x] 像素',
        **quiet,
    )
    assert len(pickle.loads(pickle.dumps(built)).images) == len(records)
    os.truncate(built.folder / 'images.npy', 10)
    with pytest.warns(UserWarning, match='damaged'):
        build_cache(built.records, 64, 32, tmp_path / 'größe * [x] 像素', **quiet)


def test_a_moved_dataset_keeps_its_cache(records, tmp_path):
    shutil.copytree(records.root, tmp_path / 'here')  # keeps times
    first = build_cache(
        replace(records, root=tmp_path / 'here'), 64, 32, tmp_path / 'caches', **quiet
    )
    (tmp_path / 'here').rename(tmp_path / 'there')
    moved = replace(records, root=tmp_path / 'there')
    again = build_cache(moved, 64, 32, tmp_path / 'caches', **quiet)
    assert again.folder == first.folder
    assert same(
        CachedImages(moved, again)[11],
        Images(moved, lambda image: CachedImages(moved, again)[11].images)[11],
    )


def test_datasets_with_the_same_paths_leave_each_other_alone(records, tmp_path):
    other = read_sysu(
        write_sysu(World(seed=1), tmp_path / 'other', train=[1, 2, 3], val=[4], test=[5], images=8)
    ).where(split=('train', 'val'))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        one, two, again = (
            build_cache(table, 64, 32, tmp_path / 'caches', **quiet)
            for table in (records, other, records)
        )
    assert len(names(tmp_path / 'caches')) == 2 and again.folder == one.folder
    assert not np.array_equal(one.images, two.images)
    with pytest.raises(ValueError, match='the cache was made from'):
        CachedImages(records, two)


def test_a_cache_that_another_process_has_just_built_is_kept(records, tmp_path):
    built = build_cache(records, 64, 32, tmp_path, **quiet)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        module._clear(built.folder, records)  # as if it had come between our look and our clearing
    assert ImageCache(built.folder, records)


@pytest.fixture
def forkserver():
    "As Python 3.14 starts processes on Linux: what they need is pickled and copied into each"
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method('forkserver', force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.skipif(sys.platform != 'linux', reason='processes start by fork on Linux alone')
def test_reading_processes_need_no_pickle(records, forkserver):
    loader = eval_loader(
        records[:4], lambda image: torch.zeros(3, 8, 4), batch_size=2, workers=1
    )  # nobody can pickle a lambda
    assert [len(batch.ids) for batch in loader] == [2, 2]


# What a cache is made from


def test_the_fingerprint_has_paths_in_their_order_and_times(records, tmp_path):
    shutil.copytree(records.root, tmp_path / 'copy')
    own = replace(records, root=tmp_path / 'copy')
    paths, states = fingerprint(own)
    assert fingerprint(own) == (paths, states) == fingerprint(records)
    assert fingerprint(own[::-1])[0] != paths
    os.utime(own.root / own.path[0], ns=(0, 0))
    assert fingerprint(own)[0] == paths
    assert fingerprint(own)[1] != states


def test_a_missing_image_has_a_fingerprint_only_if_it_may_be_skipped(tmp_path):
    table = Records.from_rows(tmp_path, [('gone.jpg', 1, 1, 0, 'train')])
    with pytest.raises(DataError, match='gone.jpg: this image is missing'):
        fingerprint(table)
    assert len(fingerprint(table, 'skip')[1]) == 12


def test_names_of_caches_are_those_of_older_versions():
    table = Records.from_rows('nowhere', [('a.jpg', 1, 1, 0, 'train'), ('b.jpg', 1, 1, 0, 'train')])
    assert fingerprint(table, 'skip') == ('02048f06137c', 'c55e42414c31')


def test_room_is_three_bytes_a_pixel(cache, records):
    assert cache_bytes(records, 64, 32) == cache.images.nbytes == len(records) * 3 * 64 * 32


# Building


def test_a_cache_is_found_and_not_built_again(cache, records):
    with patch('os.fsync') as written:
        again = build_cache(records, 64, 32, cache.folder.parent, **quiet)
    written.assert_not_called()
    assert again.folder == cache.folder


def test_workers_build_the_same_cache(cache, records, tmp_path):
    built = build_cache(records, 64, 32, tmp_path, workers=2, **quiet)
    assert np.array_equal(built.images, cache.images)
    for row in (0, 20, len(records) - 1):
        image = read_image(records.root / records.path[row])
        assert np.array_equal(cache.images[row], resize_transform(64, 32)(image))


@pytest.mark.parametrize('error', [OSError(28, 'No space left on device'), KeyboardInterrupt()])
def test_an_error_while_writing_leaves_nothing(records, tmp_path, error):
    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else DataError
    with patch('os.fsync', side_effect=error), pytest.raises(expected):
        build_cache(records[:4], 64, 32, tmp_path, **quiet)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    'images, width, message',
    [(0, 32, 'the table is empty'), (4, 0, '64 x 0 pixels')],
)
def test_nothing_to_cache(records, tmp_path, images, width, message):
    with pytest.raises(ValueError, match=message):
        build_cache(records[:images], 64, width, tmp_path, **quiet)
    with pytest.raises(TypeCheckError, match='width'):
        build_cache(records, 64, '32', tmp_path, **quiet)
    assert names(tmp_path) == []


@pytest.mark.parametrize('workers', [0, 2])
def test_another_image_stands_in_and_the_cache_says_so(records, tmp_path, workers):
    "Whoever has not asked for it does not get it"
    shutil.copytree(records.root, tmp_path / 'copy')
    own = replace(records, root=tmp_path / 'copy')[:20]
    first = own.root / own.path[0]
    good, before = first.read_bytes(), first.stat()
    first.write_bytes(good[:100])

    def build(**options):
        return build_cache(own, 64, 32, tmp_path / 'caches', **quiet, **options)

    message = f'1 of 20 images could not be read, for example {own.path[0]}'
    for _ in ('built', 'opened'):
        with pytest.warns(UserWarning, match=message):
            patched = build(workers=workers, on_unreadable='skip')
        assert patched.unreadable == [own.path[0]]
        same_person = (own.identity == own.identity[0]) & (own.modality == own.modality[0])
        other = np.flatnonzero(same_person)[1]
        assert np.array_equal(patched.images[0], patched.images[other])
    with pytest.raises(DataError, match="train with on_unreadable='skip'"):
        build()

    first.write_bytes(good)
    os.utime(first, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.warns(UserWarning, match='outdated'):  # the image is there again
        assert build().unreadable == []


# Reading


def test_a_pickled_cache_is_closed_and_opens_itself(cache):
    content = pickle.dumps(cache)
    assert len(content) < 50_000
    opened = pickle.loads(content)
    assert opened._mapped is None
    rows = np.array([7, 0, 7])
    assert np.array_equal(opened.gather(rows), cache.images[rows])


def test_nobody_writes_into_a_cache(cache):
    with pytest.raises(ValueError, match='read-only'):
        cache.images[0] = 0


def test_one_item_has_the_pixels_and_labels_of_the_file(cache, records):
    assert same(CachedImages(records, cache)[5], Images(records, resize_transform(64, 32))[5])


def test_a_table_of_some_images_uses_the_cache_of_all(cache, records):
    batches = cached_eval_loader(records[30::-3], cache, batch_size=4)
    images = torch.cat([batch.images for batch in batches])
    assert np.array_equal(images, cache.images[30::-3])


def test_a_table_of_other_images_does_not(cache, records, dataset, tmp_path):
    with pytest.raises(ValueError, match='images are not in the cache, for example cam1/0005'):
        CachedImages(read_sysu(dataset), cache)
    with pytest.raises(ValueError, match='the cache was made from'):
        CachedImages(replace(records, root=tmp_path), cache)
