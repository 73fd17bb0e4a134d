"The embedder leaves PyTorch with any batch size: torch.export, and ONNX in onnxruntime."

import pytest
import torch

from idkl_nb.assembly import IDKLConfig
from idkl_nb.model import IDKL

onnxruntime = pytest.importorskip('onnxruntime')

NETWORKS = {
    'narrow': dict(backbone='narrow'),
    'a learned exponent': dict(backbone='narrow', gem_learn=True),
}
BATCHES = 1, 3, 8, 9, 20


@pytest.fixture(params=NETWORKS)
def embedder(request):
    "Of a network in training mode, with statistics that are not 0 and 1"
    torch.manual_seed(0)
    model = IDKL(IDKLConfig(**NETWORKS[request.param]), 3)
    model(torch.randn(6, 3, 64, 32))
    return model.embedder()


def images(number):
    generator = torch.Generator().manual_seed(number)
    return torch.randn(number, 3, 64, 32, generator=generator)


def expected(embedder, number):
    with torch.no_grad():
        return embedder(images(number))


@pytest.mark.parametrize('example, gradient', [(2, True), (9, False)])
def test_torch_export_with_a_free_batch_size(embedder, example, gradient):
    with torch.set_grad_enabled(gradient):
        shapes = ({0: torch.export.Dim('batch', min=1)},)
        program = torch.export.export(embedder, (images(example),), dynamic_shapes=shapes)
        exported = program.module()
    for number in BATCHES:
        found = exported(images(number)).detach()
        torch.testing.assert_close(found, expected(embedder, number), rtol=0, atol=1e-4)


def test_onnx_with_a_free_batch_size(embedder, tmp_path):
    file = tmp_path / 'embedder.onnx'
    shapes = ({0: torch.export.Dim('batch', min=1)},)
    torch.onnx.export(
        embedder,
        (images(2),),
        file,
        dynamo=True,
        dynamic_shapes=shapes,
        input_names=['images'],
        output_names=['features'],
        verbose=False,
    )
    session = onnxruntime.InferenceSession(file, providers=['CPUExecutionProvider'])
    for number in BATCHES:
        (found,) = session.run(None, {'images': images(number).numpy()})
        torch.testing.assert_close(
            torch.from_numpy(found), expected(embedder, number), rtol=0, atol=1e-4
        )
