"Implicit Discriminative Knowledge Learning (CVPR 2024): what most people want, by its short name"

__version__ = "0.1.0"

from importlib import import_module

from .threads import set_threads

set_threads()  # before torch is loaded: OpenMP looks then, and never again

_HOMES = {  # module: names that `idkl_nb.NAME` gives; a module is loaded when one is asked for
    'world': ('World',),
    'records': ('Records',),
    'readers': ('read_dataset',),
    'backbone': ('gem',),
    'identity': ('batch_hard_triplet',),
    'tgsa': ('tgsa_loss',),
    'csa': ('csa_loss',),
    'mdr': ('mdr_loss',),
    'model': ('IDKL', 'IDKLConfig', 'IDKLObjective'),
    'metrics': ('retrieval_scores',),
    'rerank': ('k_reciprocal',),
    'protocols': ('SYSU', 'RegDB', 'LLCM'),
    'features': ('embed',),
    'config': ('TrainConfig', 'PRESETS'),
    'training': ('fit', 'resume', 'load', 'load_released_checkpoint'),
}
_MODULE = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_MODULE)


def __getattr__(name):
    if name not in _MODULE:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'{__name__}.{_MODULE[name]}'), name)


def __dir__():
    return sorted({*globals(), *__all__})
