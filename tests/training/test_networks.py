"""G, D and C as the patent draws them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from naturaltone.training.networks import (
    InverseEnhancer,
    NaturalnessDiscriminator,
    ResidualBlock,
    ToneEnhancer,
    check_imbalance,
    luminance,
    num_convolutions,
)


def generator(width: int = 4, residual_blocks: int = 1, *, colour_gain: bool = False) -> ToneEnhancer:
    return ToneEnhancer(width=width, residual_blocks=residual_blocks, colour_gain=colour_gain)


@settings(max_examples=25, deadline=None)
@given(height=st.integers(16, 70), width=st.integers(16, 70))
def test_the_corrected_image_has_the_size_of_any_input(height: int, width: int) -> None:
    x = torch.rand(1, 3, height, width) * 2 - 1
    assert generator()(x).shape == x.shape


def test_g_starts_as_the_identity() -> None:
    x = torch.rand(2, 3, 33, 47) * 2 - 1
    assert torch.equal(generator()(x), x)


def test_g_has_three_stride_2_stages_a_residual_part_and_three_decoder_stages() -> None:
    g = generator(width=4, residual_blocks=2)
    assert [layer.stride for layer in g.encoder] == [(2, 2)] * 3
    assert (len(g.residual), len(g.decoder)) == (2, 3)
    maps: list[torch.Size] = []
    for layer in g.encoder:
        layer.register_forward_hook(lambda _module, _args, output: maps.append(output.shape[-2:]))
    g(torch.zeros(1, 3, 64, 48))
    assert maps == [(32, 24), (16, 12), (8, 6)]


def test_every_encoder_stage_reaches_the_result_by_its_skip() -> None:
    g = generator()
    nn.init.normal_(g.decoder[-1].weight)
    for stage in (g.decoder[0], g.decoder[1]):  # cut off everything but the skips
        nn.init.zeros_(stage.weight)
        nn.init.zeros_(stage.bias)
    x = torch.rand(1, 3, 32, 32)
    before = g(x)
    with torch.no_grad():
        g.encoder[0].weight.mul_(2)
    assert not torch.allclose(before, g(x))


def test_g_sees_the_whole_photo_at_every_pixel() -> None:
    g = generator()
    nn.init.normal_(g.decoder[-1].weight)
    x = torch.zeros(1, 3, 512, 512)
    other = x.clone()
    other[..., 256:, 256:] = 1  # farther away than the convolutions see
    assert (g(x) - g(other))[..., :64, :64].abs().max() > 1e-6


def test_g_can_stretch_detail_that_only_the_input_has() -> None:
    g = generator()
    with torch.no_grad():
        g.decoder[-1].bias[0] = 0.5
    dark = torch.rand(1, 3, 16, 16) * 0.2 - 1
    torch.testing.assert_close(g(dark) + 1, 1.25 * (dark + 1))


def test_a_colour_gain_makes_colours_more_vivid_and_leaves_luminance_and_greys() -> None:
    g = generator(colour_gain=True)
    x = torch.rand(2, 3, 16, 16) - 0.5
    torch.testing.assert_close(g(x), x, msg="a new G changes nothing")
    with torch.no_grad():
        g.decoder[-1].bias[2] = 0.3
    grey = x[:, :1].expand(-1, 3, -1, -1)
    torch.testing.assert_close(g(grey), grey)
    torch.testing.assert_close(luminance(g(x)), luminance(x))
    torch.testing.assert_close(g(x) - luminance(x), 1.3 * (x - luminance(x)))


@pytest.mark.parametrize("peaks", [False, True])
def test_only_peaks_tell_a_dark_scene_with_a_bright_spot_from_an_even_picture_of_its_mean(peaks: bool) -> None:
    block = ResidualBlock(2, peaks=peaks)
    nn.init.zeros_(block.first.weight)  # so that a pixel sees nothing but the whole picture
    spot = torch.zeros(1, 2, 16, 16)
    spot[..., 0, 0] = 1
    even = spot.mean().expand(spot.shape)
    changes = [(block(x) - x)[..., 8:, 8:] for x in (spot, even)]
    assert torch.allclose(*changes) is not peaks


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 99), colour_gain=st.booleans())
def test_no_weights_can_change_a_hue(seed: int, colour_gain: bool) -> None:
    torch.manual_seed(seed)
    g = generator(colour_gain=colour_gain)
    nn.init.normal_(g.decoder[-1].weight, std=0.3)
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    before, after = (image - image.mean(dim=1, keepdim=True) for image in (x, g(x)))
    torch.testing.assert_close(
        (before * after).sum(dim=1).abs(), before.norm(dim=1) * after.norm(dim=1), atol=1e-5, rtol=1e-4
    )


def test_no_frame_is_drawn_around_a_flat_picture() -> None:
    g = generator()
    nn.init.normal_(g.decoder[-1].weight)
    result = g(torch.full((1, 3, 40, 40), 0.3))[0]
    assert result.flatten(1).std(dim=1).max() < 1e-5


@given(scale=st.floats(0.01, 1e4))
@settings(max_examples=20, deadline=None)
def test_ds_activation_lies_between_0_and_1(scale: float) -> None:
    d = NaturalnessDiscriminator(width=4, crop=32)
    activation = d(scale * torch.randn(5, 3, 32, 32))
    assert activation.shape == (5, 1) and (activation >= 0).all() and (activation <= 1).all()


def test_d_has_four_stride_2_convolutions_and_a_fully_connected_layer() -> None:
    d = NaturalnessDiscriminator(width=4, crop=48)
    assert [layer.stride for layer in d.encoder] == [(2, 2)] * 4
    assert d.fully_connected.in_features == 8 * 4 * 3 * 3


def test_c_has_five_plain_convolutions() -> None:
    c = InverseEnhancer(width=4, num_layers=5)
    assert num_convolutions(c) == 5 and all(layer.stride == (1, 1) for layer in c.layers)
    assert c(torch.zeros(1, 3, 20, 30)).shape == (1, 3, 20, 30)


def test_a_c_with_more_layers_than_g_is_refused_with_the_remedy() -> None:
    g = generator(residual_blocks=0)
    check_imbalance(g, InverseEnhancer(width=4, num_layers=6))
    with pytest.raises(ValueError, match=r"inverse_layers=7.*generator's 6.*lower inverse_layers"):
        check_imbalance(g, InverseEnhancer(width=4, num_layers=7))


def test_no_network_has_batch_statistics() -> None:
    for network in (generator(), NaturalnessDiscriminator(width=4, crop=32), InverseEnhancer(width=4, num_layers=5)):
        assert not list(network.buffers())
