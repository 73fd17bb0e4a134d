"Limits of control groups, and settings of OpenMP."

import math

import pytest

from idkl_nb.threads import WAITING, cores_of_group, set_threads


@pytest.fixture
def group(tmp_path):
    "A group in a group"
    (tmp_path / 'own').write_text('0::/classes/ours\n')
    (tmp_path / 'classes' / 'ours').mkdir(parents=True)
    return tmp_path


def cores(root):
    return cores_of_group(root, root / 'own')


def test_no_limit(group):
    assert cores(group) == math.inf
    (group / 'classes' / 'ours' / 'cpu.max').write_text('max 100000\n')
    assert cores(group) == math.inf
    assert cores_of_group(group, group / 'nothing') == math.inf


def test_the_smallest_limit_of_all_groups_holds(group):
    (group / 'classes' / 'ours' / 'cpu.max').write_text('400000 100000\n')
    (group / 'classes' / 'cpu.max').write_text('250000 100000\n')
    assert cores(group) == 2.5
    (group / 'cpu.max').write_text('150000 100000\n')
    assert cores(group) == 1.5


@pytest.mark.parametrize('quota, limit', [('200000', 2), ('-1', math.inf)])
def test_version_1_has_two_files(group, quota, limit):
    folder = group / 'cpu' / 'classes'
    folder.mkdir(parents=True)
    (folder / 'cpu.cfs_quota_us').write_text(quota)
    (folder / 'cpu.cfs_period_us').write_text('100000\n')
    assert cores(group) == limit


OWN = dict(OMP_NUM_THREADS='7', OMP_WAIT_POLICY='ACTIVE')


@pytest.mark.parametrize(
    'limit, given, wanted',
    [
        (2.0, {}, dict(OMP_NUM_THREADS='2', **WAITING)),
        (2.5, {}, dict(OMP_NUM_THREADS='2', **WAITING)),
        (0.5, {}, dict(OMP_NUM_THREADS='1', **WAITING)),
        (math.inf, {}, WAITING),
        (2.0, OWN, OWN),
    ],
)
def test_what_the_user_has_set_stays(limit, given, wanted):
    environment = dict(given)
    set_threads(environment, limit, process=64)
    assert environment == wanted
