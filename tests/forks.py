"""Processes for the tests that need a new one: a fork takes no time to import torch

They are forked from a server, not from the tests' own process: where that has run a backward pass
beside a device, PyTorch refuses another one in its forks."""

import functools
import multiprocessing
import os
import signal
import subprocess
import sys

SIGNALS = [
    getattr(signal, name) for name in ('SIGTERM', 'SIGINT', 'SIGHUP') if hasattr(signal, name)
]


@functools.cache
def server():
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['idkl_nb.trial'])  # as `engine` has it: there is one server
    return context


def execute(code, printed):
    "In a fork: what a new process would do with this code"
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    file = os.open(printed, os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.stdout = sys.stderr = open(2, 'w', buffering=1, closefd=False)
    exec(compile(code, '<training>', 'exec'), dict(__name__='__main__'))


class Forked:
    "A fork of a server that has imported everything and computed nothing; to be used as a `Popen`"

    def __init__(self, code, printed):
        self.printed = printed
        self.process = server().Process(target=execute, args=(code, printed))
        self.process.start()
        self.pid, self.kill = self.process.pid, self.process.kill

    @property
    def returncode(self):
        return self.process.exitcode

    @property
    def stderr(self):
        return open(self.printed)

    def poll(self):
        return self.returncode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def wait(self, timeout=None):
        self.process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired('a fork', timeout)
        return self.returncode

    def communicate(self, timeout=None):
        self.wait(timeout)
        return None, self.printed.read_text()
