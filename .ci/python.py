"""Is this Python one that the pins were made for, and are the words ones that `make setup` knows?

One sentence if not. It runs under any Python, so it has no f-strings."""

import sys
from configparser import ConfigParser
from pathlib import Path

settings = ConfigParser(delimiters=['='])
settings.read(str(Path(__file__).resolve().parents[1] / 'settings.ini'))
oldest, newest = [
    tuple(map(int, settings.get('DEFAULT', name).split('.')))
    for name in ('min_python', 'max_python')
]


def complaint(version, installer, torch):
    "What is wrong, in a sentence; None when nothing is"
    if not oldest <= tuple(version[:2]) <= newest:
        sentence = (
            'Python %d.%d to %d.%d is needed, for which constraints.txt holds versions; '
            'this is %d.%d. Name another: make setup PYTHON=python%d.%d'
        )
        return sentence % (oldest + newest + tuple(version[:2]) + newest)
    if installer not in ('uv', 'pip'):
        return 'INSTALLER is uv or pip, not ' + installer
    if torch not in ('', 'cpu'):
        return 'TORCH is cpu, or left empty, not ' + torch


if __name__ == '__main__':
    words = sys.argv[1:] + ['']
    sys.exit(complaint(sys.version_info, words[0], words[1]))
