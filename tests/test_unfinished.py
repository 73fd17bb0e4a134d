"What a killed process leaves half written goes with the next that writes; a living one's stays."

import multiprocessing
import os

import numpy as np
import pytest

from idkl_nb import whole_files, writers
from idkl_nb.cache import ImageCache
from idkl_nb.cache_building import build_cache
from idkl_nb.readers import read_regdb
from idkl_nb.whole_files import open_unfinished, remove_abandoned, write_whole
from idkl_nb.world import World
from idkl_nb.writers import write_regdb

forked = multiprocessing.get_context('fork')
small = World(height=32, width=16)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class Writer:
    "A process that writes, and stops in the middle until it may go on"

    def __init__(self, work):
        self.half = forked.Event()
        self.may_finish = forked.Event()
        self.process = forked.Process(target=work, args=(self.stop,))
        self.process.start()
        assert self.half.wait(60)

    def stop(self):
        self.half.set()
        assert self.may_finish.wait(60)

    def kill(self):
        self.process.kill()
        self.process.join()

    def finish(self):
        self.may_finish.set()
        self.process.join(60)
        return self.process.exitcode


def write_file(folder, name, text):
    "Half of the text, a stop, the other half"

    def work(stop):
        def write(opened):
            opened.write(text[:2])
            opened.flush()
            stop()
            opened.write(text[2:])

        write_whole(folder / name, write)

    return work


def write_cache(records, folder):
    def work(stop):
        from idkl_nb import cache_building

        def copy(array):
            stop()
            return array.copy()

        cache_building.np.ascontiguousarray = copy
        build_cache(records, 32, 16, folder, progress=False)

    return work


def write_dataset(root):
    def work(stop):
        text = writers._write_text

        def late(*args):
            writers._write_text = text
            stop()
            text(*args)

        writers._write_text = late
        write_regdb(small, root, [1, 2], images=1)

    return work


@pytest.fixture(scope='module')
def records(tmp_path_factory):
    return read_regdb(
        write_regdb(small, tmp_path_factory.mktemp('data') / 'regdb', [1, 2, 3, 4], images=2)
    )


def test_a_killed_writer_of_a_file(tmp_path):
    Writer(write_file(tmp_path, 'a.txt', b'abcd')).kill()
    (left,) = names(tmp_path)
    assert left.startswith('.a.txt.') and left.endswith('.unfinished')
    write_whole(
        tmp_path / 'b.txt', lambda opened: opened.write(b'b')
    )  # another file in the same folder
    assert names(tmp_path) == ['b.txt']


def test_two_writers_of_files(tmp_path):
    "In one folder, even of one file: both end, and the last one's content stands whole"
    first = Writer(write_file(tmp_path, 'a.txt', b'abcd'))
    (left,) = names(tmp_path)
    for name in ('b.txt', 'a.txt'):
        write_whole(tmp_path / name, lambda opened: opened.write(b'new'))
    assert names(tmp_path) == [left, 'a.txt', 'b.txt'] and (tmp_path / left).read_bytes() == b'ab'
    assert first.finish() == 0
    assert names(tmp_path) == ['a.txt', 'b.txt'] and (tmp_path / 'a.txt').read_bytes() == b'abcd'


def test_a_killed_writer_of_a_cache(records, tmp_path):
    "Its folder goes at once, when another cache is built"
    Writer(write_cache(records, tmp_path)).kill()
    assert [name.endswith('.unfinished') for name in names(tmp_path)] == [True]
    cache = build_cache(records[:4], 32, 16, tmp_path, progress=False)
    assert names(tmp_path) == [cache.folder.name]


def test_two_writers_of_caches(records, tmp_path):
    first = Writer(write_cache(records, tmp_path))
    (left,) = names(tmp_path)
    for table in (records[:4], records):
        built = build_cache(table, 32, 16, tmp_path, progress=False)  # another cache, and the same
    assert left in names(tmp_path)
    assert first.finish() == 0
    assert len(names(tmp_path)) == 2 and not any(
        name.endswith('.unfinished') for name in names(tmp_path)
    )
    assert np.array_equal(ImageCache(built.folder, records).images, built.images)


def test_a_killed_writer_of_a_dataset(tmp_path):
    Writer(write_dataset(tmp_path / 'regdb')).kill()
    assert [name.endswith('.unfinished') for name in names(tmp_path)] == [True]
    write_regdb(small, tmp_path / 'regdb', [1, 2], images=1)
    assert names(tmp_path) == ['regdb'] and not list((tmp_path / 'regdb').rglob('.*'))


def test_two_writers_of_one_dataset(tmp_path):
    "The one that ends first gives the folder its name; the other says that something is there"
    first = Writer(write_dataset(tmp_path / 'regdb'))
    write_regdb(small, tmp_path / 'regdb', [1, 2], images=1)
    assert len(names(tmp_path)) == 2
    assert first.finish() == 1
    assert names(tmp_path) == ['regdb'] and len(read_regdb(tmp_path / 'regdb')) == 4


def test_files_of_others_stay(tmp_path):
    "Names that only look alike"
    for name in ('.a.unfinished', 'a.txt.7.unfinished', '.a.txt.x.unfinished'):
        (tmp_path / name).touch()
    (tmp_path / '.b.7.unfinished').mkdir()
    before = names(tmp_path)
    write_whole(tmp_path / 'c.txt', lambda opened: opened.write(b'c'))
    assert names(tmp_path) == sorted([*before, 'c.txt'])


def test_a_file_that_is_removed_before_it_is_locked(tmp_path, monkeypatch):
    "A cleaner may come between opening and locking: the writer makes its file anew"
    file = tmp_path / '.a.1.unfinished'
    flock = whole_files.fcntl.flock
    came = []

    def late(opened, how):
        if not came:
            came.append(True)
            file.unlink()
        return flock(opened, how)

    monkeypatch.setattr(whole_files.fcntl, 'flock', late)
    with open_unfinished(file) as opened:
        opened.write(b'whole')
        opened.flush()
        assert came and file.read_bytes() == b'whole'
        remove_abandoned(file)
        assert file.exists()
    remove_abandoned(file)
    assert not file.exists()


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    "Everything is written, and nothing is removed"

    def none(*_):
        raise OSError('no locks available')

    monkeypatch.setattr(whole_files.fcntl, 'flock', none)
    (tmp_path / '.a.txt.7.unfinished').write_bytes(b'half')
    write_whole(tmp_path / 'a.txt', lambda opened: opened.write(b'whole'))
    assert (
        names(tmp_path) == ['.a.txt.7.unfinished', 'a.txt']
        and (tmp_path / 'a.txt').read_bytes() == b'whole'
    )


def test_without_locks_at_all_age_decides(tmp_path, monkeypatch):
    monkeypatch.setattr(whole_files, 'fcntl', None)
    for number, age in ((7, 0), (8, 2 * whole_files.ABANDONED)):
        (tmp_path / f'.a.txt.{number}.unfinished').touch()
        os.utime(tmp_path / f'.a.txt.{number}.unfinished', (os.stat(tmp_path).st_mtime - age,) * 2)
    write_whole(tmp_path / 'a.txt', lambda opened: opened.write(b'whole'))
    assert names(tmp_path) == ['.a.txt.7.unfinished', 'a.txt']
