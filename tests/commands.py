"Commands called in this process, as a shell would call them"

import contextlib
import io
from typing import NamedTuple

TINY = '--preset smoke --epochs 1 --batches 1 --P 2 --precision no'.split()  # of idkl-train


class Done(NamedTuple):
    code: int
    out: str
    err: str


def command(main, *words):
    "Exit code, output, errors"
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(word) for word in words])
        except SystemExit as end:
            code = end.code
    return Done(code, out.getvalue(), err.getvalue())
