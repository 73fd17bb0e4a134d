"""GPU memory that a training step needs, computed without a GPU.

Parameters, gradients and Adam's two moments, and all that the forward pass keeps for the backward
pass.

    python tests/benchmark_memory.py [--out nbs/results/memory.csv]

What is kept is counted by asking autograd, for four images and for eight, on the CPU; the
difference is what an image costs. Not counted: CUDA's own context, the workspace of convolutions
and what the allocator wastes, some 1 to 2 GB together."""

import argparse
import csv
from dataclasses import replace
from pathlib import Path

import torch

from idkl_nb.config import PRESETS
from idkl_nb.model import IDKL, IDKLObjective

BATCHES = {  # presets, and batches P x K of each
    'sysu-paper': ((12, 5), (10, 4), (8, 4), (4, 4)),
    'sysu-released': ((12, 5),),
    'embedded': ((8, 4),),
}


def kept_bytes(model, objective, images, precision):
    "Bytes that autograd keeps for the backward pass, each storage once, without the weights"
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages = {}
    alive = []

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    half = len(images) // 2
    ids = torch.arange(half).repeat(2)
    modality = torch.arange(2).repeat_interleave(half)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast('cpu', torch.bfloat16, enabled=precision == 'bf16'):
            features = model(images)
        objective(features, ids, modality)
    return sum(storages.values())


def pictures(count, config):
    return torch.randn(count, 3, config.height, config.width).contiguous(
        memory_format=torch.channels_last
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=Path('nbs/results/memory.csv'))
    words = parser.parse_args()
    rows = []
    for preset, batches in BATCHES.items():
        config = PRESETS[preset]
        model = IDKL(replace(config.model, weights=None), 395).train()
        model.to(memory_format=torch.channels_last)
        objective = IDKLObjective(config.model)
        parameters = sum(p.numel() for p in model.parameters())
        for precision in ('bf16', 'no'):
            few = kept_bytes(model, objective, pictures(4, config), precision)
            more = kept_bytes(model, objective, pictures(8, config), precision)
            # weight, gradient, two moments; and a copy of the weights for bfloat16
            state = (18 if precision == 'bf16' else 16) * parameters
            for P, K in batches:
                activations = few + (more - few) / 4 * (2 * P * K - 4)
                rows.append(
                    dict(
                        preset=preset,
                        height=config.height,
                        width=config.width,
                        P=P,
                        K=K,
                        images=2 * P * K,
                        precision=precision,
                        parameters=parameters,
                        state_GB=round(state / 1e9, 2),
                        activations_GB=round(activations / 1e9, 2),
                        total_GB=round((state + activations) / 1e9, 2),
                    )
                )
                print(rows[-1], flush=True)
    with open(words.out, 'w', newline='') as opened:
        writer = csv.DictWriter(opened, list(rows[0]), lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)


if __name__ == '__main__':
    main()
