"""The encoders of pre-training: their sizes as published, what they see, and names that other programs read."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from trainers.nets import heads, positions, primus, resenc, sparse
from trainers.nets.primus import Primus, PrimusConfig
from trainers.nets.resenc import ResEncConfig

SMALL = PrimusConfig(width=24, depth=2, heads=2, patch=(16, 24, 32), drop_path=0)
TINY = ResEncConfig(features=(4, 8, 16), blocks=(1, 1, 2))


@pytest.fixture(autouse=True)
def _alike() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(3)


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_convolutional_half_brings_neither_timm_nor_torchvision() -> None:
    code = "import sys, trainers.nets.sparse, trainers.nets.primus; print({'timm', 'torchvision'} & {*sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"


def test_resenc_l_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        net = resenc.unet(ResEncConfig())
    assert count(net) == 102_348_965
    assert count(net.encoder) == 90_296_576
    assert count(net.encoder.stem) == 960
    outputs = count(net.decoder.seg_layers)
    assert outputs == 805
    assert count(net) - count(net.encoder) == 12_052_389
    assert len(net.state_dict()) == 956
    assert len({id(p) for p in net.parameters()}) == 264
    aliases = [f"{key}.weight" for key in resenc.INPUT_KEYS]
    assert all(net.state_dict(keep_vars=True)[key] is net.encoder.stem.convs[0].conv.weight for key in aliases)
    assert "decoder.encoder.stem.convs.0.conv.weight" in net.state_dict()


def test_heads_have_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        assert count(heads.Projector(sum(ResEncConfig().features))) == 10_688_512
        assert count(heads.Projector(864)) == 10_164_224
        assert count(heads.Restorer((320, 320, 256, 128, 64, 32))) == 6_139_521
        assert count(heads.Restorer((864, 432, 216, 108))) == 13_230_649


@pytest.mark.parametrize(
    ("size", "total", "without_table"),
    [
        ("S", 26_268_285, 23_100_285),
        ("B", 97_958_065, 91_622_065),
        ("M", 151_786_529, 144_874_529),
        ("L", 331_823_761, 323_375_761),
    ],
)
def test_primus_has_the_published_number_of_parameters(size: str, total: int, without_table: int) -> None:
    with torch.device("meta"):
        net = Primus(PrimusConfig(**primus.SIZES[size]))
    assert count(net) == total
    assert total - net.eva.pos_embed.numel() == without_table


def test_primus_m_at_other_patches_has_the_published_number_of_parameters() -> None:
    found = {}
    with torch.device("meta"):
        for edge in (64, 96, 128, 160):
            net = Primus(PrimusConfig(patch=(edge,) * 3, channels_out=2))
            found[edge] = count(net)
    assert found == {64: 145_551_770, 96: 146_602_394, 128: 148_648_346, 160: 152_021_402}
    assert count(net.eva.blocks[0]) == 8_977_536
    assert count(net.down_projection) == 443_232
    assert net.config.tokens == 8000
    assert primus.decoder_channels(PrimusConfig(channels_out=2)) == [864, 144, 24, 2]
    assert primus.decoder_channels(PrimusConfig()) == [864, 112, 16, 1]


def test_primus_starts_as_published() -> None:
    net = Primus(PrimusConfig(width=192, depth=3, heads=4, patch=(16, 16, 16)))
    assert float(net.eva.pos_embed.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert all(bool((block.gamma_1 == 0.1).all()) for block in net.eva.blocks)
    assert float(net.eva.blocks[0].attn.q_proj.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    for number, block in enumerate(net.eva.blocks, start=1):
        for layer in (block.attn.proj, block.mlp.fc2):
            assert float(layer.weight.detach().std()) == pytest.approx(0.02 / np.sqrt(2 * number), rel=0.05)
    assert net.eva.blocks[0].attn.k_proj.bias is None
    assert PrimusConfig().drop_path == 0.2
    assert [block.drop for block in Primus(PrimusConfig(width=24, depth=3, heads=2, patch=(16,) * 3)).eva.blocks] == [
        0, 0.1, 0.2,
    ]  # fmt: skip


def test_a_rotation_is_the_product_of_complex_numbers() -> None:
    grid, size = (2, 3, 4), 24
    cosines, sines = positions.rotary_table(grid, size)
    features = torch.randn(24, size)
    found = positions.rotate(features, cosines, sines).numpy()
    pairs = features.numpy()[:, ::2] + 1j * features.numpy()[:, 1::2]
    waves = 10000.0 ** (-np.arange(4) / 4)
    for token, place in enumerate(np.ndindex(*grid)):
        turned = pairs[token] * np.exp(1j * np.concatenate([index * waves for index in place]))
        np.testing.assert_allclose(found[token, ::2] + 1j * found[token, 1::2], turned, atol=1e-5)
    assert positions.rotary_table((20, 20, 20), 72)[0].shape == (8000, 72)


def test_tokens_that_are_left_out_change_nothing_and_the_others_keep_their_places() -> None:
    net = primus.PrimusEncoder(SMALL).eval()
    image = torch.randn(2, 1, *SMALL.patch)
    tokens = net.embed(image)
    everything = torch.arange(SMALL.tokens).expand(2, -1)
    torch.testing.assert_close(net.eva(tokens, everything), net(image))
    keep = torch.tensor([[1, 4, 7], [0, 2, 11]])
    seen = net.eva(tokens, keep)
    other = tokens.clone()
    other[0, 2:4] += 5
    torch.testing.assert_close(net.eva(other, keep)[0], seen[0])
    torch.testing.assert_close(net.eva(tokens, keep.flip(1)), seen.flip(1))


def test_published_order_swaps_two_axes_of_the_grid_and_nothing_else() -> None:
    own = Primus(SMALL).eval()
    published = Primus(PrimusConfig(width=24, depth=2, heads=2, patch=(16, 24, 32), published_order=True)).eval()
    volume = torch.arange(SMALL.tokens).view(1, 1, *SMALL.grid)
    assert own.to_row(volume).flatten().tolist() == list(range(SMALL.tokens))
    row = published.to_row(volume).flatten()
    assert row.tolist() == volume[0, 0].transpose(0, 1).flatten().tolist()
    for net in (own, published):
        assert torch.equal(net.to_grid(net.to_row(volume)), volume)
    table = published.eva.pos_embed.detach()
    swapped = positions.swapped_table(table, SMALL.grid)
    assert torch.equal(swapped, table[:, row.argsort()])
    # Without rotation the order of tokens means nothing to a Transformer: with its table swapped it is the same net.
    published.load_state_dict(own.state_dict() | {"eva.pos_embed": own.eva.pos_embed[:, row]})
    for net in (own, published):
        net.eva.cosines.fill_(1)
        net.eva.sines.zero_()
    image = torch.randn(1, 1, *SMALL.patch)
    torch.testing.assert_close(published(image), own(image))


def test_published_weights_become_own_ones_with_the_same_output() -> None:
    published = Primus(PrimusConfig(width=24, depth=2, heads=2, patch=(16, 24, 32), published_order=True)).eval()
    own = Primus(SMALL).eval()
    image = torch.randn(2, 1, *SMALL.patch)
    own.load_state_dict(published.state_dict())
    assert not torch.allclose(own(image), published(image), atol=1e-4)
    own.load_state_dict(positions.unswapped(published.state_dict(), "eva", SMALL.grid, SMALL.heads))
    torch.testing.assert_close(own(image), published(image), rtol=1e-4, atol=1e-5)


def test_a_table_is_resized_along_its_own_axes() -> None:
    ramp = torch.stack(torch.meshgrid(*(torch.linspace(0, 1, n) for n in (4, 4, 4)), indexing="ij"), dim=-1)
    finer = positions.resized_table(ramp.reshape(1, 64, 3), (4, 4, 4), (8, 4, 4)).reshape(8, 4, 4, 3)
    torch.testing.assert_close(finer[0::1, 1, 2, 1:], ramp[1, 1, 2, 1:].expand(8, 2))
    assert bool((finer[1:, 0, 0, 0] >= finer[:-1, 0, 0, 0]).all())
    assert positions.resized_table(ramp.reshape(1, 64, 3), (4, 4, 4), (4, 4, 4)).shape == (1, 64, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token": 6}, "power of 2"),
        ({"patch": (20, 16, 16)}, "divisible by the token"),
        ({"heads": 5}, "divisible by 6"),
    ],
)
def test_an_impossible_primus_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrimusConfig(**{"width": 24, "depth": 1, "heads": 2, "patch": (16, 16, 16), **change})


def test_s3d_adds_the_published_number_of_parameters_and_keeps_the_aliases() -> None:
    with torch.device("meta"):
        net = sparse.SparseUNet(ResEncConfig())
        plain = resenc.unet(ResEncConfig())
    assert count(net) - count(plain) == 7_854_240
    assert set(plain.state_dict()) <= set(net.state_dict())
    assert count(net.encoder) == 90_296_576


def test_a_sparse_encoder_sees_what_is_open_and_nothing_else() -> None:
    net = sparse.SparseUNet(TINY)
    blocks = torch.zeros(1, 1, 4, 4, 4)
    blocks.view(-1)[torch.randperm(64)[:16]] = 1
    image = torch.randn(1, 1, 32, 32, 32, requires_grad=True)
    net(image, blocks).square().sum().backward()
    seen = image.grad.abs() > 0
    is_open = sparse.at_resolution(blocks, (32, 32, 32)) > 0
    assert torch.equal(seen, is_open)


def test_with_everything_open_a_sparse_encoder_is_the_plain_one() -> None:
    net = sparse.SparseUNet(TINY)
    plain = resenc.unet(TINY)
    plain.load_state_dict({key: value for key, value in net.state_dict().items() if not key.startswith("fillings")})
    image = torch.randn(2, 1, 16, 16, 16)
    net._see(torch.ones(2, 1, 2, 2, 2))
    for a, b in zip(net.encoder(image), plain.encoder(image), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_norms_over_what_is_open_are_those_of_these_voxels() -> None:
    norm = sparse.OpenNorm(3, affine=True)
    norm.blocks = torch.tensor([1.0, 0, 0, 1, 0, 1, 1, 0]).view(1, 1, 2, 2, 2)
    is_open = sparse.at_resolution(norm.blocks, (4, 4, 4))[0, 0] > 0
    features = torch.randn(1, 3, 4, 4, 4) * 5 + 2
    found = norm(features)[0].detach().numpy()
    voxels = features[0, :, is_open].numpy()
    expected = (voxels - voxels.mean(1, keepdims=True)) / np.sqrt(voxels.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(found[:, is_open.numpy()], expected, atol=1e-5)
    assert not found[:, ~is_open.numpy()].any()


LIBRARYS_OWN = """
import sys, torch
torch.set_num_threads(1)
library = torch.library.Library("torchvision", "DEF")  # a torchvision of another torch has no operators
for name in ("nms", "qnms"):
    library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from dynamic_network_architectures.architectures.primus import Primus
from trainers.nets import primus
own = dict(eva_depth=2, eva_numheads=2, init_values=0.1, scale_attn_inner=True)
theirs = Primus(1, 24, (8, 8, 8), 2, input_shape=(16, 24, 32), **own).eval()
config = primus.PrimusConfig(width=24, depth=2, heads=2, patch=(16, 24, 32), channels_out=2)
ours = primus.Primus(config).eval()
ours.load_state_dict(theirs.state_dict())
assert set(theirs.state_dict()) - {"mask_token"} == set(ours.state_dict())
image = torch.randn(2, 1, 16, 24, 32)
sys.exit(float((ours(image) - theirs(image)).abs().max()) > 1e-5)
"""


def test_the_librarys_own_primus_gives_the_same_from_the_same_weights() -> None:
    pytest.importorskip("einops")
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LIBRARYS_OWN], capture_output=True, text=True, check=False
    )
    if "ModuleNotFoundError" in found.stderr or "torchvision" in found.stderr:
        pytest.skip("timm or torchvision cannot be imported here")
    assert found.returncode == 0, found.stderr
