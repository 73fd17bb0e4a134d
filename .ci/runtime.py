"""What runs in a reader's browser: onnxruntime-web for the search, Pyodide for cells of Python

Both come from npm, each in one version whose hash is fixed here, and stay in the user's cache.
`python .ci/runtime.py NAME FOLDER` puts the files that a page needs into a folder, with their
licence; NAME is onnxruntime-web or pyodide. The package itself never fetches them."""

import base64
import hashlib
import io
import os
import sys
import tarfile
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

from tqdm import tqdm


class Package(NamedTuple):
    "A package of npm, and what a page needs of it"

    name: str
    version: str
    integrity: str  # hash of the whole package, as npm writes it
    parts: dict  # place in the package by name beside the page
    licence: str  # a file beside this one

    @property
    def file(self) -> str:
        return f'{self.name}-{self.version}.tgz'

    @property
    def address(self) -> str:
        return f'https://registry.npmjs.org/{self.name}/-/{self.file}'


WEB = (
    # For one thread of the processor: browsers offer more only to pages with headers that a simple
    # server of files does not send.
    Package(
        'onnxruntime-web',
        '1.24.3',
        'sha512-41dDq7fxtTm0XzGE7N0d6m8FcOY8EWtUA65GkOixJPB/'
        'G7DGzBmiDAnVVXHznRw9bgUZpb+4/1lQK/PNxGpbrQ==',
        {
            'ort.mjs': 'package/dist/ort.wasm.bundle.min.mjs',
            'ort.wasm': 'package/dist/ort-wasm-simd-threaded.wasm',
        },
        'ort.LICENSE.txt',
    ),
    Package(
        'pyodide',
        '314.0.7',
        'sha512-0YvXxEhfEdpLfb/XkM2BFAeMROq0iMUX2bzzH9pOttyMcWkwq+'
        'HbE5uyuGD82LN7y2q+SNvi/6V5JEsOlD2R1A==',
        {
            name: f'package/{name}'
            for name in (
                'pyodide.mjs',
                'pyodide.asm.mjs',
                'pyodide.asm.wasm',
                'python_stdlib.zip',
                'pyodide-lock.json',
            )
        },
        'pyodide.LICENSE.txt',
    ),
)
PACKAGES = {package.name: package for package in WEB}


def is_whole(
    content: bytes,
    integrity: str,
) -> bool:
    "Whether a file has the hash that npm gives for it"
    name, _, expected = integrity.partition('-')
    return base64.b64encode(hashlib.new(name, content).digest()).decode() == expected


def kept_file(package: Package) -> Path:
    "Where a package stays after it was fetched"
    caches = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(caches) / 'idkl_nb' / package.file


def download(package: Package) -> bytes:
    "Fetch a package, with a bar for its progress. Raises OSError"
    content = io.BytesIO()
    with urlopen(package.address, timeout=30) as opened:
        size = int(opened.headers.get('Content-Length') or 0) or None
        with tqdm(total=size, desc=package.file, unit='B', unit_scale=True, delay=2) as bar:
            while block := opened.read(2**20):
                content.write(block)
                bar.update(len(block))
    return content.getvalue()


def fetched(package: Package) -> bytes:
    "A package, from the cache or from npm. Raises OSError when it can't be fetched whole"
    file, address = kept_file(package), package.address
    if file.is_file() and is_whole(content := file.read_bytes(), package.integrity):
        return content

    advice = f'Look at the connection, or put the file at {file}'
    try:
        content = download(package)
    except OSError as error:
        raise OSError(f'{address}: could not be fetched ({error}). {advice}') from error
    if not is_whole(content, package.integrity):
        raise OSError(f'{address}: the file does not have the hash {package.integrity}. {advice}')

    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f'{package.file}.{os.getpid()}')
    unfinished.write_bytes(content)
    unfinished.replace(file)
    return content


def add_runtime(name, folder):
    "Write the files of a package into a folder, which is made. Raises OSError"
    package = PACKAGES[name]
    with tarfile.open(fileobj=io.BytesIO(fetched(package))) as opened:
        parts = {own: opened.extractfile(place).read() for own, place in package.parts.items()}
    parts[package.licence] = Path(__file__).with_name(package.licence).read_bytes()

    Path(folder).mkdir(parents=True, exist_ok=True)
    for own, content in parts.items():
        (Path(folder) / own).write_bytes(content)


if __name__ == '__main__':
    try:
        add_runtime(*sys.argv[1:])
    except (OSError, TypeError, KeyError) as error:
        sys.exit(f'{error}\nusage: python .ci/runtime.py NAME FOLDER')
