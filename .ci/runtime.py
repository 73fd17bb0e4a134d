"""onnxruntime-web, which runs the networks of the search in the page

It comes from npm, in one version whose hash is fixed here, and stays in the user's cache.
`python .ci/runtime.py FOLDER` puts the two files that a page needs into a folder, with their
licence. The package itself never fetches them."""

import base64
import hashlib
import io
import os
import sys
import tarfile
from pathlib import Path
from urllib.request import urlopen

from tqdm import tqdm

VERSION = '1.24.3'
INTEGRITY = (  # of the whole package, as npm writes it
    'sha512-41dDq7fxtTm0XzGE7N0d6m8FcOY8EWtUA65GkOixJPB/G7DGzBmiDAnVVXHznRw9bgUZpb+4/1lQK/PNxGpbrQ=='
)
PACKAGE = f'onnxruntime-web-{VERSION}.tgz'
ADDRESS = f'https://registry.npmjs.org/onnxruntime-web/-/{PACKAGE}'
# For one thread of the processor: browsers offer more only to pages with headers that a simple
# server of files does not send.
PARTS = {  # name beside the page: place in the package
    'ort.mjs': 'package/dist/ort.wasm.bundle.min.mjs',
    'ort.wasm': 'package/dist/ort-wasm-simd-threaded.wasm',
}
LICENCE = 'ort.LICENSE.txt'


def is_whole(content: bytes, integrity: str = INTEGRITY) -> bool:
    "Whether a file has the hash that npm gives for it"
    name, _, expected = integrity.partition('-')
    return base64.b64encode(hashlib.new(name, content).digest()).decode() == expected


def kept_package() -> Path:
    "Where the package stays after it was fetched"
    caches = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(caches) / 'idkl_nb' / PACKAGE


def download(address: str = ADDRESS) -> bytes:
    "Fetch a file, with a bar for its progress. Raises OSError"
    content = io.BytesIO()
    with urlopen(address, timeout=30) as opened:
        size = int(opened.headers.get('Content-Length') or 0) or None
        with tqdm(total=size, desc=PACKAGE, unit='B', unit_scale=True, delay=2) as bar:
            while block := opened.read(2**20):
                content.write(block)
                bar.update(len(block))
    return content.getvalue()


def package() -> bytes:
    "The package, from the cache or from npm. Raises OSError when it can't be fetched whole"
    file = kept_package()
    if file.is_file() and is_whole(content := file.read_bytes()):
        return content

    advice = f'Look at the connection, or put the file at {file}'
    try:
        content = download()
    except OSError as error:
        raise OSError(f'{ADDRESS}: could not be fetched ({error}). {advice}') from error
    if not is_whole(content):
        raise OSError(f'{ADDRESS}: the file does not have the hash {INTEGRITY}. {advice}')

    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f'{PACKAGE}.{os.getpid()}')
    unfinished.write_bytes(content)
    unfinished.replace(file)
    return content


def runtime() -> dict:
    "Content by name, with the licence. Raises OSError"
    with tarfile.open(fileobj=io.BytesIO(package())) as opened:
        parts = {name: opened.extractfile(place).read() for name, place in PARTS.items()}
    return parts | {LICENCE: Path(__file__).with_name(LICENCE).read_bytes()}


def add_runtime(folder):
    "Write the files into a folder, which is made. Raises OSError"
    parts = runtime()
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, content in parts.items():
        (Path(folder) / name).write_bytes(content)


if __name__ == '__main__':
    try:
        add_runtime(*sys.argv[1:])
    except (OSError, TypeError) as error:
        sys.exit(f'{error}\nusage: python .ci/runtime.py FOLDER')
