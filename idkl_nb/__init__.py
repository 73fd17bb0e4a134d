__version__ = "0.1.0"

from .threads import set_threads

set_threads()    # before torch is loaded: OpenMP looks then, and never again
