"""IDKL: Implicit Discriminative Knowledge Learning (CVPR 2024), finds people across two spectra

To use a trained network:
    load                 it, from a run, a published folder, the Hugging Face Hub, or this package
    embed                pictures, or the images of a dataset: their features
    retrieval_scores     CMC, mAP and mINP of distances
    k_reciprocal         distances after re-ranking
    SYSU, RegDB, LLCM    protocols of three datasets: who is searched for where

To train one:
    read_dataset         a folder in the layout of one of these datasets: Records
    Records              the table of its images
    World                draws people that do not exist, to train on without a dataset
    fit, resume          a training, and going on with one; `method=` trains your own network
    PRESETS, TrainConfig settings that are known to work, and what can be set
    load_released_checkpoint   weights of the paper's released code

The method, a chapter each (modules of the same names, notebooks nbs/04 to nbs/11):
    IDKL, IDKLConfig, IDKLObjective   the network, its settings, and its losses as a table
    gem                  pooling between the mean and the maximum
    batch_hard_triplet   the triplet loss of the baseline
    tgsa_loss, csa_loss, mdr_loss     what the paper adds

`help(idkl_nb.embed)` says what each parameter means. All else is in the modules, by their full
name: `from idkl_nb.pictures import ...`. Shell commands, each with --help: idkl-check, idkl-train,
idkl-embed, idkl-evaluate, idkl-search, idkl-export, idkl-publish. The pages, and how it all works:
https://idkl-nb.github.io/idkl_nb
"""

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
    'pretrained': ('load',),
    'training': ('fit', 'resume', 'load_released_checkpoint'),
}
_MODULE = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_MODULE)


def __getattr__(name):
    if name not in _MODULE:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from .common_help import documented

    return documented(getattr(import_module(f'{__name__}.{_MODULE[name]}'), name))


def __dir__():
    return sorted({*globals(), *__all__})
