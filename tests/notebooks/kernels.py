"""Kernels that begin as a fork of one process, which has imported the libraries and the package.

Most of a short notebook's time is the import of torch. `python kernels.py serve SOCKET`
imports them once; `python kernels.py kernel SOCKET FILE` asks it for a kernel with this connection
file, and lives as long as that kernel."""

import gc
import importlib
import json
import os
import signal
import socket
import sys
from pathlib import Path

# idkl_nb first: it says how threads wait
LIBRARIES = (
    'idkl_nb torch torchvision.transforms.v2 torchvision.models accelerate pandas scipy.optimize '
    'scipy.sparse.csgraph PIL.Image sklearn.manifold sklearn.linear_model safetensors.torch '
    'tyro tqdm matplotlib.pyplot seaborn captum.attr ipykernel.kernelapp'
).split()
# not the explorers: widgets look for their kernel when they are imported
MODULES = [
    f'idkl_nb.{path.stem}'
    for path in sorted((Path(__file__).parents[2] / 'idkl_nb').glob('[a-z]*.py'))
    if not path.stem.startswith('explor')
]
INLINE = 'module://matplotlib_inline.backend_inline'  # figures go into the notebook


def run_kernel(words: dict):
    "In the child: be an IPython kernel until somebody shuts it down"
    os.chdir(words['cwd'])
    os.environ.clear()
    os.environ.update(words['env'])
    os.environ.pop('JPY_PARENT_PID', None)  # its parent is the server
    sys.modules['matplotlib'].rcParams['backend'] = INLINE
    sys.path[0] = ''
    sys.argv = ['kernel', '-f', words['file']]

    from ipykernel.kernelapp import IPKernelApp

    IPKernelApp.launch_instance()


def serve(path: str):
    "Fork a kernel for each request; the request's connection closes when the kernel has ended"
    for name in [*LIBRARIES, *MODULES]:
        importlib.import_module(name)
    gc.freeze()  # a child's collector leaves them alone, and so the pages that it shares

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        while True:
            asked, _ = server.accept()
            words = json.loads(asked.makefile().readline())
            if os.fork() == 0:
                server.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                try:
                    run_kernel(words)  # holds `asked` open
                finally:
                    os._exit(0)
            asked.close()


def ask(path: str, file: str):
    "Ask the server for a kernel, and wait for its end"
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        words = dict(file=file, cwd=os.getcwd(), env=dict(os.environ))
        server.sendall(json.dumps(words).encode() + b'\n')
        server.recv(1)


if __name__ == '__main__':
    dict(serve=serve, kernel=ask)[sys.argv[1]](*sys.argv[2:])
