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


def pytest_collection_modifyitems(config, items):
    asked = config.getoption('--slow')
    config.hook.pytest_deselected(
        items=[item for item in items if ('slow' in item.keywords) != asked]
    )
    items[:] = [item for item in items if ('slow' in item.keywords) == asked]
