"""The three networks: ToneEnhancer (G), NaturalnessDiscriminator (D) and InverseEnhancer (C).

Images are N×3×H×W floats in [−1, 1]. No layer has batch statistics: they would tie the photos of a batch together, make
DDP inexact and flatten contrast (Lim et al. 2017, EDSR). Residual branches are scaled instead. G and C pad by reflection,
because zero padding shows as a dark frame.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from naturaltone.pipeline.errors import UserError
from naturaltone.pipeline.tone import LUMA

STRIDE = 8  # pixels of the input to one of G's residual part: three layers halve the size
RESIDUAL_SCALE = 0.1
_SLOPE = 0.2


def _conv(inputs: int, outputs: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, padding_mode="reflect")


class ResidualBlock(nn.Module):
    """x + 0.1 · conv(act(conv(x) + linear(mean of x))).

    The mean over the picture tells every pixel how dark or flat the whole photo is, like the global features of Gharbi et al.
    2017 (HDRNet) and Chen et al. 2018 (DPE). Convolutions alone need thousands of steps to learn to carry that so far.
    peaks: the largest value of each channel of x tells it too: an underexposed photo has no bright spot, a dark scene has some.
    """

    def __init__(self, width: int, *, peaks: bool) -> None:
        super().__init__()
        self.first = _conv(width, width)
        self.peaks = peaks
        self.context = nn.Linear(2 * width if peaks else width, width)
        self.second = _conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        seen = x.mean(dim=(2, 3))
        if self.peaks:
            seen = torch.cat([seen, x.amax(dim=(2, 3))], dim=1)
        context = self.context(seen)[..., None, None]
        return x + RESIDUAL_SCALE * self.second(F.leaky_relu(self.first(x) + context, _SLOPE))


class ToneEnhancer(nn.Module):
    """G (Fig. 2, part 200): turns an input photo of any size into the first corrected image.

    It has three stride-2 encoder layers, a residual part, and three decoder layers that double the size. Skip connections
    join layers of the same size. The last one joins the input to the output: the last layer gives each pixel a gain and an
    offset, both 0 at first, and G(x) = x + gain · (x + 1) / 2 + offset. An offset alone cannot stretch the detail of a dark
    photo: only the input has all that detail. The three colours share gain and offset. The fixed algorithms do no more
    than that. Sharing keeps each hue: with a gain for each colour, skies turned turquoise.

    colour_gain: the last layer also gives each pixel a gain s of its colour, 0 at first, since an offset makes colours paler:
    with the luminance Y of the result so far, it becomes Y + (1 + s) · (result − Y), of the same hue.

    peaks: see `ResidualBlock`.
    """

    def __init__(self, *, width: int, residual_blocks: int, colour_gain: bool = False, peaks: bool = False) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(
            [_conv(3, width, stride=2), _conv(width, 2 * width, stride=2), _conv(2 * width, 4 * width, stride=2)]
        )
        self.residual = nn.Sequential(*(ResidualBlock(4 * width, peaks=peaks) for _ in range(residual_blocks)))
        outputs = 3 if colour_gain else 2
        self.decoder = nn.ModuleList([_conv(4 * width, 2 * width), _conv(2 * width, width), _conv(width, outputs)])
        for parameter in self.decoder[-1].parameters():
            nn.init.zeros_(parameter)

    @property
    def features(self) -> int:
        """Channels of the residual part."""
        return self.encoder[-1].out_channels  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        padded = F.pad(x, (0, -width % STRIDE, 0, -height % STRIDE), mode="reflect")
        half, quarter, eighth = self.encode(padded)
        return self.decode(padded, half, quarter, self.residual(eighth))[..., :height, :width]

    def encode(self, padded: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features at a half, a quarter and an eighth of the input's size. Its sides must be multiples of 8."""
        half = F.leaky_relu(self.encoder[0](padded), _SLOPE)
        quarter = F.leaky_relu(self.encoder[1](half), _SLOPE)
        return half, quarter, F.leaky_relu(self.encoder[2](quarter), _SLOPE)

    def decode(self, padded: Tensor, half: Tensor, quarter: Tensor, features: Tensor) -> Tensor:
        """The corrected image, from the input and the features of `encode` and the residual part."""
        features = F.leaky_relu(self.decoder[0](_double(features)), _SLOPE) + quarter
        features = F.leaky_relu(self.decoder[1](_double(features)), _SLOPE) + half
        gain, offset, *colour_gain = self.decoder[2](_double(features)).split(1, dim=1)
        toned = padded + gain * (padded + 1) / 2 + offset
        return toned + colour_gain[0] * (toned - luminance(toned)) if colour_gain else toned


class NaturalnessDiscriminator(nn.Module):
    """D (Fig. 3, part 300): turns a crop×crop image into one activation in [0, 1]. 0 is unnatural, 1 is natural."""

    def __init__(self, *, width: int, crop: int) -> None:
        super().__init__()
        widths = [3, width, 2 * width, 4 * width, 8 * width]
        self.encoder = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1) for inputs, outputs in pairwise(widths)
        )
        self.fully_connected = nn.Linear(widths[-1] * (crop // 16) ** 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        for layer in self.encoder:
            image = F.leaky_relu(layer(image), _SLOPE)
        # In fp32 even under autocast: bf16 cannot tell 0.998 from 1, and D's last gradients lie in that range.
        with torch.autocast(image.device.type, enabled=False):
            return torch.sigmoid(self.fully_connected(image.flatten(1).float()))


class InverseEnhancer(nn.Module):
    """C (Fig. 4, part 400): turns the first corrected image into the second, which should be the input again."""

    def __init__(self, *, width: int, num_layers: int) -> None:
        super().__init__()
        widths = [3, *[width] * (num_layers - 1), 3]
        self.layers = nn.ModuleList(_conv(inputs, outputs) for inputs, outputs in pairwise(widths))

    def forward(self, image: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            image = F.leaky_relu(layer(image), _SLOPE)
        return self.layers[-1](image)


def num_convolutions(network: nn.Module) -> int:
    return sum(isinstance(module, nn.Conv2d) for module in network.modules())


def check_imbalance(generator: ToneEnhancer, inverse: InverseEnhancer) -> None:
    """Raise `UserError` if C has more layers than G ([0013], [0084]).

    A stronger C could hide artefacts instead of punishing them.
    """
    ours, theirs = num_convolutions(inverse), num_convolutions(generator)
    if ours > theirs:
        raise UserError(
            f"inverse_layers={ours}: the inverse network may not have more convolution layers than the generator's {theirs}; "
            "lower inverse_layers or raise residual_blocks"
        )


def luminance(images: Tensor) -> Tensor:
    """N×1×H×W: the luminance of encoded values (Rec. 709), on the scale of the images."""
    red, green, blue = (float(weight) * plane for weight, plane in zip(LUMA, images.split(1, dim=1), strict=True))
    return red + green + blue


def _double(x: Tensor) -> Tensor:
    # Nearest neighbour, and a convolution after it: a transposed convolution draws checkerboards (Odena et al. 2016).
    return F.interpolate(x, scale_factor=2, mode="nearest")
