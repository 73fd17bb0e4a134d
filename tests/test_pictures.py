"Figures, ranked lists, curves, histograms, maps and heat maps: what is drawn, and what is refused."

import io
from dataclasses import replace
from unittest.mock import patch

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from jaxtyping import TypeCheckError
from PIL import Image
from sklearn.manifold import TSNE
from torch.nn import functional as F
from torch.testing import assert_close

from idkl_nb.assembly import IDKLConfig
from idkl_nb.batches import eval_loader
from idkl_nb.common import INFRARED, VISIBLE, DataError
from idkl_nb.distances import Mask, retrieval_distances
from idkl_nb.features import embed
from idkl_nb.figures import BLUE, ORANGE, Board, panels, picture
from idkl_nb.heatmaps import FEATURES, feature_and_logits, heat_map, heat_maps, pixels
from idkl_nb.images import Images, eval_transform
from idkl_nb.metrics import retrieval_scores
from idkl_nb.model import IDKL
from idkl_nb.pictures import cmc_curves, loss_curves, montage, nearest, ranked_lists
from idkl_nb.protocols import SYSU
from idkl_nb.readers import read_llcm, read_regdb, read_sysu
from idkl_nb.scoring import score_features
from idkl_nb.spaces import (
    affinity_maps,
    distance_histogram,
    embedding_map,
    mask_profiles,
    pairs,
    projection,
)
from idkl_nb.world import World
from idkl_nb.writers import write_llcm, write_regdb, write_sysu

H, W = 64, 32


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('pictures')


@pytest.fixture(scope='module')
def sysu(folder):
    "People 62 to 69, eight images of each in either modality"
    world = World(height=H, width=W)
    root = write_sysu(world, folder / 'sysu', train=[1], val=[2], test=range(62, 70), images=8)
    return read_sysu(root).where(split='test')


@pytest.fixture(scope='module')
def some(sysu):
    "Without person 62 before camera 4"
    return sysu[(sysu.identity != 62) | (sysu.camera != 4)]


@pytest.fixture(scope='module')
def llcm(folder):
    world = World(height=H, width=W)
    return read_llcm(write_llcm(world, folder / 'llcm', train=[1], test=range(2, 6), images=9))


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return IDKL(IDKLConfig('narrow', weights=None), 3).eval()


@pytest.fixture(scope='module')
def table(model, sysu):
    "Features in which people differ, with noise"
    g = torch.Generator().manual_seed(0)
    own = torch.randn(100, 32, generator=g)[sysu.identity]
    features = own + 1.2 * torch.randn(len(sysu), 32, generator=g)
    return replace(embed(model.embedder(), sysu, H, W, progress=False), features=features)


@pytest.fixture(scope='module')
def sides(table):
    "Infrared, visible, and their distances"
    infrared, visible = table.where(modality=INFRARED), table.where(modality=VISIBLE)
    return infrared, visible, retrieval_distances(infrared.features, visible.features)


@pytest.fixture(scope='module')
def log():
    g = np.random.default_rng(0)
    terms = ('ce_sh', 'ce_sp', 'triplet_sh', 'C', 'enhance', 'csa', 'lr')
    return pd.DataFrame({term: g.random(60) + 0.1 for term in terms})


@pytest.fixture(scope='module')
def images(sysu):
    return next(iter(eval_loader(sysu[::24][:4], eval_transform(H, W), 4))).images


CLASSES = torch.tensor([0, 1, 2, 0])


def words(figure):
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def nothing():
    return pytest.raises(ValueError, match='nothing to draw')


def test_the_style_of_the_reader_does_not_matter():
    @picture
    def lines():
        figure, axes = panels(['a', 'b'])
        axes[0].plot([0, 1])
        return figure

    usual = lines().rgba()
    assert usual.shape == (240, 520, 4)
    assert (usual[0, 0] == 255).all()  # white, opaque
    with plt.style.context('dark_background'), plt.rc_context({'font.size': 20}):
        assert (lines().rgba() == usual).all()

    shown = Image.open(io.BytesIO(lines()._repr_png_()))  # what a notebook shows
    assert shown.mode == 'P'  # a byte for a pixel
    shown = np.asarray(shown.convert('RGB'))
    assert (shown[0, 0] == 255).all()
    assert np.abs(shown - usual[..., :3].astype(int)).max() <= 8
    assert plt.get_fignums() == []


def test_an_empty_figure_is_refused():
    with nothing():
        panels([])
    with nothing():
        Board(0, 3)


def test_a_montage_shows_who_is_missing(some, sysu, folder):
    assert words(montage(some, people=2)).count('none') == 1
    assert words(montage(sysu)).count('none') == 0
    assert {'id 62', 'id 63', 'infrared\ncamera 6'} <= set(words(montage(some, people=2)))
    with nothing():
        montage(sysu[:0])
    with pytest.raises(DataError, match=str(folder)):
        montage(replace(sysu, root=folder))


def test_a_montage_has_an_image_for_each_camera(sysu, llcm, folder):
    root = write_regdb(World(height=H, width=W), folder / 'regdb', identities=range(1, 5), images=4)
    for records, each, count in (
        (sysu, 1, 12),
        (sysu, 2, 24),
        (read_regdb(root), 3, 12),
        (llcm, 1, 36),
    ):
        assert len(montage(records, people=2, images=each).axes[0].images) == count


def test_a_camera_that_sees_both_has_two_columns(llcm):
    shown = montage(llcm.where(split='test'), people=1).axes[0].images
    arrays = [image.get_array() for image in shown]
    assert [(x[..., 0] == x[..., 2]).all() for x in arrays] == [False] * 9 + [True] * 9


def test_loss_curves_tell_terms_and_logs_apart(log):
    terms = {'identity': ('ce_sh', 'ce_sp'), 'nothing': ('absent',)}
    figure = loss_curves({'a': log, 'b': log[['ce_sh']]}, terms=terms, window=1)
    drawn = figure.axes[0].lines
    lines = {line.get_label(): (line.get_linestyle(), line.get_color()) for line in drawn}
    assert len(figure.axes) == 1
    assert lines == {'ce_sh a': ('-', BLUE), 'ce_sp a': ('-', ORANGE), 'ce_sh b': ('--', BLUE)}
    assert (figure.axes[0].lines[0].get_ydata() == log.ce_sh).all()

    axes = loss_curves(log).axes
    assert axes[0].lines[0].get_ydata()[-1] == pytest.approx(log.ce_sh[-3:].mean())
    assert [ax.get_yscale() for ax in axes] == ['linear', 'log', 'linear', 'linear', 'log']
    with nothing():
        loss_curves(log[['lr']])


def test_nearest_by_hand():
    d = torch.tensor([[0.5, 0.1, 0.3, 0.1], [0.2, 0.9, 0.9, 0.2]])
    assert nearest(d, [0, 1], 3).gallery.tolist() == [[1, 3, 2], [0, 3, 1]]  # ties: earlier first
    assert nearest(d, 1, 9).gallery.tolist() == [[0, 3, 1, 2]]
    assert nearest(d, 1, 2).distances[0] == pytest.approx([0.2, 0.2])
    ranked = nearest(d, [0], 3, ignore=d < 0.2)
    assert ranked.gallery.tolist() == [[2, 0, -1]]
    assert np.isinf(ranked.distances[0, 2])


@pytest.mark.parametrize('queries, k', [([2], 1), ([-1], 1), ([0], 0)])
def test_nearest_says_which_queries_there_are(queries, k):
    with pytest.raises(ValueError, match='there are queries 0 to 1'):
        nearest(torch.rand(2, 4), queries, k)


def test_ranked_lists_mark_right_and_wrong(sides):
    infrared, visible, distances = sides
    ranked = nearest(distances, [3, 19, 35], k=7)
    figure = ranked_lists(ranked, infrared.records, visible.records)
    ids = infrared.records.identity[ranked.queries]
    right = visible.records.identity[ranked.gallery] == ids[:, None]  # (3, 7)
    assert right.any() and not right.all()
    assert [w[0] == '✓' for w in words(figure) if w[0] in '✓✗'] == right.flatten().tolist()
    thick = [patch.get_linewidth() > 3 for patch in figure.axes[0].patches]
    assert thick == right.flatten().tolist()

    row, place = np.argwhere(right)[0]
    first = ranked.gallery[row, place]
    camera = visible.records.camera[first]
    text = f'✓ {ranked.distances[row, place]:.2f}\nid {ids[row]}\ncam {camera}'
    assert text in words(figure)

    gallery = np.where(np.arange(7) < 6, ranked.gallery, -1)  # the last place is empty
    figure = ranked_lists(ranked._replace(gallery=gallery), infrared.records, visible.records)
    assert len(figure.axes[0].images) == 3 + 3 * 6


def test_nearest_leaves_out_what_a_mask_ignores(sides):
    infrared, visible, distances = sides

    def skipped(rows):  # camera 3 skips 1, camera 6 skips 4
        return infrared.records.camera[rows, None] == visible.records.camera + 2

    ranked = nearest(distances, [3, 19], 64, Mask(distances.shape, skipped))
    for row, query in zip(ranked.gallery, (3, 19)):
        order = distances[:][query].argsort(stable=True)
        by_hand = order[~torch.as_tensor(skipped(np.array([query]))[0])[order]]
        assert row[row >= 0].tolist() == by_hand.tolist()
        assert len(by_hand) < len(order)


def test_cmc_curves_of_three_kinds(table, sides):
    infrared, visible, distances = sides
    ids = [torch.as_tensor(side.records.identity) for side in (infrared, visible)]
    whole, protocol = retrieval_scores(distances, *ids), score_features(table, SYSU())
    shares = torch.linspace(0.1, 1, 30)
    (ax,) = cmc_curves({'a': shares, 'b': whole, 'c': protocol}, ranks=10).axes
    a, b, c = ax.lines[:3]
    assert a.get_ydata() == pytest.approx(100 * shares[:10].numpy())
    assert b.get_ydata() == pytest.approx(100 * whole.cmc[:10].numpy())
    assert c.get_xdata().tolist() == [1, 5, 10]
    means = protocol.trials[['rank-1', 'rank-5', 'rank-10']].mean()
    assert c.get_ydata() == pytest.approx(means.to_numpy())
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ['a', 'b', 'c']
    with nothing():
        cmc_curves({})


def test_pairs_by_hand(table):
    few = table.where(modality=VISIBLE, identity=[62, 63])
    got, n = pairs(few.features[:6], few.records[:6]), 0
    for i in range(6):
        for j in range(i + 1, 6):
            similarity = F.cosine_similarity(few.features[i], few.features[j], dim=0)
            assert got.distances[n] == pytest.approx(1 - similarity.item(), abs=1e-5)
            assert got.same[n] == (few.records.identity[i] == few.records.identity[j])
            assert got.across[n] == (few.records.modality[i] != few.records.modality[j])
            n += 1
    assert n == len(got.same)
    euclidean = pairs(few.features[:2], few.records[:2], 'euclidean').distances
    norm = (few.features[0] - few.features[1]).norm().item()
    assert euclidean == pytest.approx([norm], abs=1e-3)
    with pytest.raises(ValueError, match='one row a record'):
        pairs(few.features, few.records[1:])


def test_a_histogram_has_a_panel_within_and_one_across(table):
    figure = distance_histogram(pairs(table.features, table.records))
    assert [ax.get_title() for ax in figure.axes] == ['within a modality', 'across modalities']
    first = np.unique(table.records.identity, return_index=True)[1][:3]
    nobody = pairs(table.features[first], table.records[first])  # nobody matches
    assert not nobody.same.any()
    assert len(distance_histogram(nobody).axes) == 2


def test_projections_against_scikit_learn_and_svd(table):
    x = table.features[::2]
    unit = F.normalize(x)
    tsne = TSNE(perplexity=min(30.0, (len(x) - 1) / 3), init='random', random_state=1)
    assert np.array_equal(projection(x, seed=1), tsne.fit_transform(unit.numpy()))
    assert (projection(x, perplexity=5.0) != projection(x)).any()
    centred = unit - unit.mean(0)
    axes = torch.linalg.svd(centred, full_matrices=False)[2][:2]
    pca = projection(x, 'pca')
    assert np.abs(pca) == pytest.approx((centred @ axes.T).abs().numpy(), abs=1e-3)
    assert projection(3 * x, 'pca') == pytest.approx(pca, abs=1e-4)  # length does not count
    assert projection(x[:4]).shape == (4, 2)


def test_what_a_projection_refuses(table):
    with pytest.raises(ValueError, match='at least 4'):
        projection(table.features[:3])
    with pytest.raises(TypeCheckError, match='umap'):
        projection(table.features, 'umap')
    with patch.dict('sys.modules', {'sklearn': None}):
        with pytest.raises(ImportError, match='pip install scikit-learn'):
            projection(table.features)


def test_an_embedding_map_has_a_point_for_each_image(sysu):
    xy = np.random.default_rng(0).random((len(sysu), 2))
    figure = embedding_map({'a': xy}, sysu.identity, sysu.modality)
    assert words(figure) == [str(n) for n in np.unique(sysu.identity) for _ in 'vi']
    drawn = np.concatenate([c.get_offsets() for c in figure.axes[0].collections])
    assert np.asarray(drawn[np.lexsort(drawn.T)]) == pytest.approx(xy[np.lexsort(xy.T)])
    figure = embedding_map({'a': xy}, sysu.identity, sysu.modality, numbered=False)
    assert words(figure) == []


def test_affinity_maps_share_a_scale_and_part_the_groups():
    g = torch.Generator().manual_seed(0)
    matrices = {name: torch.rand(24, 24, generator=g) for name in 'abc'}
    figure = affinity_maps(matrices, np.repeat(range(62, 68), 4))
    first = figure.axes[0]
    assert len(figure.axes) == 4
    assert np.asarray(figure.axes[1].images[0].get_array()) == pytest.approx(matrices['b'].numpy())
    assert len({ax.images[0].get_clim() for ax in figure.axes[:3]}) == 1
    assert [t.get_text() for t in first.get_yticklabels()] == [str(n) for n in range(62, 68)]
    assert first.get_yticks() == pytest.approx(1.5 + 4 * np.arange(6))
    assert len(first.lines) == 10
    assert len(affinity_maps({'a': torch.rand(3, 4)}).axes[0].lines) == 0
    with nothing():
        affinity_maps({})


def test_mask_profiles_sort_the_channels_by_their_mean():
    g = torch.Generator().manual_seed(0)
    mask, modality = torch.rand(10, 20, generator=g), np.repeat((VISIBLE, INFRARED), 5)
    visible, infrared = mask_profiles({'a': mask}, modality).axes[0].lines
    order = mask.mean(0).argsort(stable=True)
    assert infrared.get_ydata() == pytest.approx(mask[5:].mean(0)[order].numpy(), abs=1e-5)
    assert (visible.get_label(), visible.get_linestyle()) == ('visible', '-')
    (line,) = mask_profiles({'a': mask}).axes[0].lines
    assert line.get_ydata() == pytest.approx(mask.mean(0).sort().values.numpy(), abs=1e-5)
    with nothing():
        mask_profiles({})


@torch.no_grad()
def test_features_and_logits_are_those_of_the_network(model, images):
    whole = model(images)
    for which in ('shared', 'specific'):
        branch = getattr(whole, which)
        feature, logits = feature_and_logits(model, images, which)
        assert_close(feature, branch.necked, atol=1e-4, rtol=0)
        assert_close(logits, branch.logits, atol=1e-4, rtol=0)
    shared, _ = feature_and_logits(model, images, 'shared')
    assert_close(shared, model.embedder()(images), atol=1e-4, rtol=0)
    _, logits = feature_and_logits(model, images, 'purified')
    assert_close(logits, whole.purified.logits_purified, atol=1e-4, rtol=0)
    feature, _ = feature_and_logits(model, images, 'enhanced')
    behind = model.necks['specific'](whole.purified.pooled.enhanced)
    assert_close(feature, behind, atol=1e-4, rtol=0)


def larger(heat):
    return F.interpolate(heat[:, None], (H, W), mode='bilinear')[:, 0]


def grad_cam(model, images, y):
    "Equations by hand, for block 5 of the shared branch; y: function of feature and logits"
    maps = model.backbone.shared(images).detach().requires_grad_()  # (B, C, h, w)
    feature = model.necks['shared'](model.pools['shared'](maps))
    (slope,) = torch.autograd.grad(y(feature, model.classifiers['shared'](feature)).sum(), maps)
    return larger((slope.mean((2, 3), keepdim=True) * maps.detach()).sum(1).relu())


def test_a_heat_map_by_hand(model, images):
    heat = heat_map(model, images, classes=CLASSES, scale=False)
    by_hand = grad_cam(model, images, lambda feature, logits: logits[range(4), CLASSES])
    assert_close(heat, by_hand, atol=1e-5, rtol=1e-4)
    assert heat.shape == (4, H, W)
    assert heat.min() >= 0 and heat.std() > 0

    other = feature_and_logits(model, images.flip(0), 'shared')[0].detach()
    like = heat_map(model, images, like=images.flip(0), scale=False)
    by_hand = grad_cam(model, images, lambda feature, logits: F.cosine_similarity(feature, other))
    assert_close(like, by_hand, atol=1e-6, rtol=1e-4)

    scaled = heat_map(model, images, classes=CLASSES)
    assert_close(scaled.amax((1, 2)), (heat.amax((1, 2)) > 0).float())
    assert_close(scaled * heat.amax((1, 2))[:, None, None], heat, atol=1e-5, rtol=1e-4)


def test_a_heat_map_does_not_depend_on_its_surroundings(model, images):
    "Neighbours in the batch, mode of the network, weights without gradient, no_grad"
    heat = heat_map(model, images, classes=CLASSES, scale=False)
    for n in range(4):
        alone = heat_map(model, images[[n]], classes=CLASSES[[n]], scale=False)
        assert_close(alone[0], heat[n], atol=1e-5, rtol=1e-3)
    one = heat_map(model, images, like=images[:1], scale=False)[1]
    alone = heat_map(model, images[1:2], like=images[:1], scale=False)[0]
    assert_close(one, alone, atol=1e-6, rtol=1e-3)

    model.train()
    model.necks['shared'].eval()
    model.requires_grad_(False)
    try:
        with torch.no_grad():
            again = heat_map(model, images, classes=CLASSES, scale=False)
        assert_close(again, heat, atol=1e-5, rtol=1e-3)
        assert model.training and not model.necks['shared'].training
    finally:
        model.eval().requires_grad_(True)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_features_and_blocks_have_maps_of_their_own(model, images):
    maps = {}
    for which in FEATURES:
        for block in (3, 4, 5):
            maps[which, block] = heat_map(model, images, which, block, classes=CLASSES)
    keys = list(maps)
    for n, a in enumerate(keys):
        for b in keys[:n]:
            assert (maps[a] - maps[b]).abs().max() > 1e-3, (a, b)


def test_heat_maps_of_strange_images(model, images):
    itself = heat_map(model, images[:1], like=images[:1], scale=False)
    # it can't become more like itself
    assert_close(itself, torch.zeros(1, H, W), atol=1e-3, rtol=0)
    black = heat_map(model, torch.zeros(1, 3, H, W), classes=CLASSES[:1])
    assert torch.isfinite(black).all()


@pytest.mark.parametrize(
    'options, error, message',
    [
        (dict(), ValueError, 'classes or like'),
        (dict(classes=CLASSES, like=torch.zeros(4, 3, H, W)), ValueError, 'classes or like'),
        (dict(classes=CLASSES, block=2), TypeCheckError, 'block'),
        (dict(classes=CLASSES, which='both'), TypeCheckError, 'both'),
        (dict(classes=CLASSES[:3]), TypeCheckError, 'classes'),
    ],
)
def test_what_a_heat_map_refuses(model, images, options, error, message):
    with pytest.raises(error, match=message):
        heat_map(model, images, **options)


def test_heat_maps_without_purifier_or_captum(images):
    bare = IDKL(IDKLConfig(backbone='narrow', weights=None, lambda_ip=0.0), 3)
    with pytest.raises(ValueError, match='no purifier'):
        heat_map(bare, images, 'purified', classes=CLASSES)
    assert heat_map(bare, images, 'specific', classes=CLASSES).shape == (4, H, W)
    assert bare.training
    with patch.dict('sys.modules', {'captum': None, 'captum.attr': None}):
        with pytest.raises(ImportError, match='pip install captum'):
            heat_map(bare, images, classes=CLASSES)


def test_heat_is_laid_over_the_images(images, sysu):
    arrays = [item.images for item in Images(sysu[::24][:4], np.asarray)]
    assert pixels(images) == pytest.approx(np.stack(arrays) / 255, abs=1e-4)  # as on disk
    heat = torch.rand(4, H, W)
    figure = heat_maps(images, {'a': heat}, names=('p', 'q', 'r', 's'))
    assert len(figure.axes[0].images) == 4 + 2 * 4
    assert np.asarray(figure.axes[0].images[-1].get_array()) == pytest.approx(heat[3].numpy())
    assert words(figure) == ['image', 'p', 'q', 'r', 's', 'a']
    with pytest.raises(ValueError, match='one value a pixel'):
        heat_maps(images, {'a': heat[:, :8]})


def test_figures_are_the_same_to_the_pixel(model, some, log, table, sides, images):
    "Everything computed anew, in another style"
    infrared, visible, distances = sides
    g = torch.Generator().manual_seed(0)
    mask = torch.rand(len(some), 20, generator=g)

    def draw_all():
        heat = heat_map(model, images, classes=CLASSES)
        ranked = nearest(distances, [3, 19])
        points = projection(table.features, seed=3)
        return [
            montage(some),
            ranked_lists(ranked, infrared.records, visible.records),
            loss_curves(log),
            cmc_curves({'a': torch.linspace(0.1, 1, 30)}),
            distance_histogram(pairs(table.features, table.records)),
            embedding_map({'t-SNE': points}, table.records.identity, table.records.modality),
            affinity_maps({'a': mask[:20]}),
            mask_profiles({'a': mask}, some.modality),
            heat_maps(images, {'shared': heat}),
        ]

    first = [figure.rgba() for figure in draw_all()]
    with plt.style.context('dark_background'):
        second = [figure.rgba() for figure in draw_all()]
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a, b)
        assert (a[0, 0] == 255).all() and a[..., :3].std() > 1
    assert plt.get_fignums() == []
