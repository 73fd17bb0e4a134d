"""GPU memory that a training step needs, computed without a GPU: parameters, gradients and Adam's two moments, and all that the forward pass keeps for the backward pass.

    python tests/benchmark_memory.py [--out nbs/results/memory.csv]

What is kept is counted by asking autograd, for two images and for four, on the CPU; the difference is what an image costs. Not counted: CUDA's own context, the workspace of convolutions and
what the allocator wastes, some 1 to 2 GB together."""
import argparse, csv
from dataclasses import replace
from pathlib import Path
import torch
from idkl_nb.model import IDKL, IDKLConfig, IDKLObjective
from idkl_nb.steps import PRESETS

SIZES = {                              # name: preset, changes of its settings
    'sysu-paper': ('sysu-paper', {}),
    'sysu-released': ('sysu-released', {}),
    'embedded': ('embedded', {}),
    '24 GB': ('sysu-paper', dict(P=8, K=4)),
    '12 GB': ('sysu-paper', dict(P=6, K=4, height=288)),
    '8 GB': ('sysu-paper', dict(P=4, K=4, height=256)),
}


def kept_bytes(model, objective, images, precision):
    "Bytes that autograd keeps for the backward pass, each storage once; the weights are not counted"
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor
    alive = []
    half = len(images)//2
    ids, modality = torch.arange(half).repeat(2)//2, torch.arange(2).repeat_interleave(half)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast('cpu', torch.bfloat16, enabled=precision == 'bf16'):
            features = model(images)
        objective(features, ids, modality)
    return sum(storages.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=Path('nbs/results/memory.csv'))
    words = parser.parse_args()
    rows = []
    for name, (preset, changes) in SIZES.items():
        config = replace(PRESETS[preset], **changes)
        model = IDKL(replace(config.model, weights=None), 395).train().to(memory_format=torch.channels_last)
        objective = IDKLObjective(config.model)
        parameters = sum(p.numel() for p in model.parameters())
        for precision in ('bf16', 'no'):
            few, more = [kept_bytes(model, objective, torch.randn(n, 3, config.height, config.width).contiguous(memory_format=torch.channels_last), precision) for n in (4, 8)]
            batch = 2*config.P*config.K
            state = 16*parameters + (2*parameters if precision == 'bf16' else 0)    # weight, gradient, two moments; and a copy of the weights for bfloat16
            activations = few + (more - few)/4*(batch - 4)
            rows.append(dict(settings=name, height=config.height, width=config.width, P=config.P, K=config.K, images=batch, precision=precision, parameters=parameters,
                             state_GB=round(state/1e9, 2), activations_GB=round(activations/1e9, 2), total_GB=round((state + activations)/1e9, 2)))
            print(rows[-1], flush=True)
    with open(words.out, 'w', newline='') as opened:
        writer = csv.DictWriter(opened, list(rows[0]), lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)


if __name__ == '__main__': main()
