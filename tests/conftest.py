import os

os.environ.setdefault('MPLBACKEND', 'agg')


def pytest_addoption(parser):
    parser.addoption(
        '--slow',
        action='store_true',
        help='run the tests that are marked slow, and only these (make test-slow)',
    )


def pytest_configure(config):
    config.addinivalue_line('markers', 'slow: takes minutes; runs with --slow only')


# The slowest come first: all processes then end at nearly the same time. Those that show the same
# trained example are neighbours, so one process runs them one after the other and trains it once.
FIRST = (
    *('/pictures.ipynb', '/spaces.ipynb', '/heatmaps.ipynb', '::test_training_learns_identities'),
    *('/report_figures.ipynb', '/report.ipynb'),
    *('/examples.ipynb', '/explore_network.ipynb', '/explorer_records.ipynb'),
    *('/speed.ipynb', '/paper_versus_code.ipynb', '07_purifier.ipynb'),
    '::test_nbdev_alone_can_process',
)


def place(item):
    "Of a test in the order of `FIRST`; all others are equal"
    return next((n for n, name in enumerate(FIRST) if name in item.nodeid), len(FIRST))


def pytest_collection_modifyitems(config, items):
    items.sort(key=place)
    asked = config.getoption('--slow')
    config.hook.pytest_deselected(
        items=[item for item in items if ('slow' in item.keywords) != asked]
    )
    items[:] = [item for item in items if ('slow' in item.keywords) == asked]
