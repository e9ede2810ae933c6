"""Measures of a picture, alone or against the photo it came from: contrast, colour, clipping, noise, bands, likeness.

Pictures are H×W×3 uint8 sRGB with sides of 16 pixels or more. TMQI and NIQE have their own modules.
"""

from __future__ import annotations

import cv2
import numpy as np

from naturaltone.pipeline.tone import LUMA

# A share of the long side, so that a photo measures the same at any size. At 480 pixels it is about the σ of 1.5 pixels
# that SSIM's and TMQI's windows have.
_CONTRAST_SIGMA = 0.003
_CLIP_LOW, _CLIP_HIGH = 2, 253

_PSNR_CAP = 100.0  # dB; if one of 24 million values differs by one level, it is 122

# Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", TIP 2004.
_SSIM_WINDOW, _SSIM_SIGMA = 11, 1.5
_SSIM_C1, _SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

_SRGB_TO_XYZ = np.array(  # IEC 61966-2-1
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_D65 = np.array([0.95047, 1.0, 1.08883])

# A measure over some of the pixels (skin, neutral greys, unclipped) is NaN if they are a smaller share of the photo.
_FEW = 0.005

_RUN = 6  # pixels of a flat run on either side of a false contour
_RUN_DEVIATION = 0.15  # largest deviation in a flat run, as a share of the step; a slope over two runs has 0.29
_RUN_DEVIATION_MOST = 0.5  # largest deviation in a flat run, in levels; runs beside edges of real things vary more
_BAND_STEPS = (1.5, 32)  # levels; 8 bits cannot avoid smaller steps, and larger ones are edges

_HALO_STEP = 40  # levels; the smallest step of an edge that can have a halo
_HALO_FLATNESS = 0.1  # how much the input may vary on either side, as a share of the step
_HALO_FEWEST = 50  # steps; with fewer of them the measure is NaN

_FLAT_SHARE = 0.25  # of the pixels that are not clipped
_QUANTISATION_SIGMA = 0.29  # levels; √(1/12), the noise of rounding; a clean picture has no more


def luma(pixels: np.ndarray) -> np.ndarray:
    """Rec. 709 luma of encoded values, H×W float32 in 0–255."""
    return pixels.astype(np.float32) @ LUMA


def local_contrast(pixels: np.ndarray) -> float:
    """Mean local standard deviation of luma (0–255) under a Gaussian window of 0.3% of the long side; H×W×3 uint8."""
    values = luma(pixels)
    sigma = _CONTRAST_SIGMA * max(values.shape)
    mean = cv2.GaussianBlur(values, (0, 0), sigma)
    variance = cv2.GaussianBlur(values * values, (0, 0), sigma) - mean * mean
    return float(np.sqrt(np.maximum(variance, 0)).mean())


def local_contrast_gain(result: np.ndarray, input: np.ndarray) -> float:
    """Local contrast of `result` over that of `input`; above 1 means more contrast."""
    return local_contrast(result) / max(local_contrast(input), 1e-6)


def clipped_fraction(pixels: np.ndarray) -> float:
    """Fraction of pixels, 0 to 1, with one channel or more at the white end or all channels at the black end."""
    return float(((pixels >= _CLIP_HIGH).any(axis=2) | (pixels <= _CLIP_LOW).all(axis=2)).mean())


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio over all channels in dB, at most 100. Identical pictures get 100."""
    squared = cv2.norm(a, b, cv2.NORM_L2SQR) / a.size
    return min(_PSNR_CAP, float(10 * np.log10(255**2 / squared))) if squared else _PSNR_CAP


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Mean structural similarity of luma, −1 to 1 (Wang et al. 2004): 11×11 Gaussian of σ 1.5, whole windows only."""
    x, y = luma(a), luma(b)
    mean_x, mean_y = _ssim_blur(x), _ssim_blur(y)
    variances = _ssim_blur(x * x + y * y) - mean_x * mean_x - mean_y * mean_y
    covariance = _ssim_blur(x * y) - mean_x * mean_y
    likeness = (2 * mean_x * mean_y + _SSIM_C1) * (2 * covariance + _SSIM_C2)
    return float((likeness / ((mean_x * mean_x + mean_y * mean_y + _SSIM_C1) * (variances + _SSIM_C2))).mean())


def _ssim_blur(values: np.ndarray) -> np.ndarray:
    margin = _SSIM_WINDOW // 2
    blurred = cv2.GaussianBlur(values, (_SSIM_WINDOW, _SSIM_WINDOW), _SSIM_SIGMA)
    return blurred[margin:-margin, margin:-margin]


def to_lab(pixels: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of D65, H×W×3 float32: L* in 0–100."""
    # OpenCV's own conversion interpolates a table of 33³ entries and is up to a unit off.
    ratio = cv2.transform(cv2.LUT(pixels, _LINEAR), _RGB_TO_WHITE_RATIO)
    root = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio * np.float32((29 / 6) ** 2 / 3) + np.float32(4 / 29))
    return cv2.transform(root, _ROOT_TO_LAB)


def ciede2000(lab1: np.ndarray, lab2: np.ndarray) -> np.ndarray:
    """Colour difference CIEDE2000 of ...×3 L*a*b* floats, with unit weights kL = kC = kH = 1 (Sharma, Wu & Dalal 2005)."""
    lightness1, a1, b1 = np.moveaxis(lab1, -1, 0)
    lightness2, a2, b2 = np.moveaxis(lab2, -1, 0)
    stretch = 1.5 - 0.5 * _saturating((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2)
    a1, a2 = a1 * stretch, a2 * stretch
    chroma1, chroma2 = np.hypot(a1, b1), np.hypot(a2, b2)
    hue1, hue2 = np.degrees(np.arctan2(b1, a1)) % 360, np.degrees(np.arctan2(b2, a2)) % 360
    colourful = (chroma1 > 0) & (chroma2 > 0)

    turn = hue2 - hue1
    turn = np.where(colourful, turn - 360 * np.sign(turn) * (np.abs(turn) > 180), 0)
    # Halfway along the shorter way round. If one colour is grey, the other's hue (grey has hue 0).
    mean_hue = np.where(colourful, (hue1 + turn / 2) % 360, hue1 + hue2)
    mean_chroma = (chroma1 + chroma2) / 2
    off_middle = ((lightness1 + lightness2) / 2 - 50) ** 2

    weight = (
        1
        - 0.17 * np.cos(np.radians(mean_hue - 30))
        + 0.24 * np.cos(np.radians(2 * mean_hue))
        + 0.32 * np.cos(np.radians(3 * mean_hue + 6))
        - 0.20 * np.cos(np.radians(4 * mean_hue - 63))
    )
    lightness = (lightness2 - lightness1) / (1 + 0.015 * off_middle / np.sqrt(20 + off_middle))
    chroma = (chroma2 - chroma1) / (1 + 0.045 * mean_chroma)
    hue = 2 * np.sqrt(chroma1 * chroma2) * np.sin(np.radians(turn / 2)) / (1 + 0.015 * mean_chroma * weight)
    blue = np.radians(60 * np.exp(-(((mean_hue - 275) / 25) ** 2)))
    rotation = -2 * _saturating(mean_chroma) * np.sin(blue)
    return np.sqrt(np.maximum(lightness**2 + chroma**2 + hue**2 + rotation * chroma * hue, 0))


def _saturating(chroma: np.ndarray) -> np.ndarray:
    seventh = chroma**3 * chroma**3 * chroma  # powers of 7 take ten times as long
    return np.sqrt(seventh / (seventh + 25.0**7))


def delta_e2000(a: np.ndarray, b: np.ndarray) -> float:
    """Mean CIEDE2000 over the pixels; about 1 is just noticeable."""
    return float(ciede2000(to_lab(a), to_lab(b)).mean())


def colourfulness(pixels: np.ndarray) -> float:
    """Colourfulness M̂⁽³⁾ of Hasler & Süsstrunk 2003: 0 for grey, 15 slightly, 45 quite, 82 highly colourful."""
    opponents = cv2.transform(pixels.astype(np.float32), np.array([[1, -1, 0], [0.5, 0.5, -1]], np.float32))
    mean, deviation = cv2.meanStdDev(opponents)
    return float(np.linalg.norm(deviation) + 0.3 * np.linalg.norm(mean))


def neutral_shift(result: np.ndarray, input: np.ndarray) -> float:
    """Colour cast: mean distance in a*b* that the input's near-neutral pixels moved; NaN if they are under 0.5%.

    Near neutral is C* below 5 and L* in 10–95.
    """
    before = to_lab(input)
    neutral = (np.hypot(before[..., 1], before[..., 2]) < 5) & (before[..., 0] > 10) & (before[..., 0] < 95)
    if neutral.mean() < _FEW:
        return float("nan")
    return float(np.linalg.norm(to_lab(result)[neutral][:, 1:] - before[neutral][:, 1:], axis=1).mean())


def banding(pixels: np.ndarray) -> float:
    """False contours in smooth areas: levels of luma skipped per 100 pixels along rows and columns, 0 for none.

    A contour is a step of 1.5 to 32 levels between two flat runs of 6 pixels; a step of s levels skips s − 1. A run
    is flat if its deviation is at most half a level and at most 15% of the step. Noise, dithering and slopes never are.
    Measure before JPEG coding: at quality 92 or less it smears steps of a few levels, and this measure misses them.
    """
    values = luma(pixels) - 128  # centred: float32 would lose the variance of bright runs
    return 100 * (_skipped_levels(values) + _skipped_levels(np.ascontiguousarray(values.T))) / values.size


def _skipped_levels(values: np.ndarray) -> float:
    """The skipped levels of all pairs of adjacent runs in rows, summed."""
    mean = _run_mean(values, _RUN)
    variance = _run_mean(values * values, _RUN) - mean * mean
    step = np.abs(mean[:, _RUN:] - mean[:, :-_RUN])
    low, high = _BAND_STEPS
    contour = (step >= low) & (step <= high)
    limit = np.minimum(_RUN_DEVIATION * step, _RUN_DEVIATION_MOST)
    contour &= np.maximum(variance[:, _RUN:], variance[:, :-_RUN]) <= limit**2
    return float((step[contour] - 1).sum(dtype=np.float64))


def _run_mean(values: np.ndarray, length: int) -> np.ndarray:
    """The mean of each pixel and its next `length` − 1 neighbours in the row; H×(W − length + 1)."""
    return cv2.blur(values, (length, 1), anchor=(0, 0))[:, : values.shape[1] - length + 1]


def halo_overshoot(result: np.ndarray, input: np.ndarray) -> float:
    """Mean over- and undershoot of luma beside the input's strong edges, as a share of the step; NaN if there are under 50.

    A strong edge is a step of 40 levels or more between areas that are flat in the input. On each side of it, two runs of the
    result are compared, each about 0.8% of the long side. One starts 2 pixels from the edge, the other three run lengths
    farther away. The input's own difference between the two is subtracted.
    """
    before, after = luma(input), luma(result)
    rows = _overshoots(after, before)
    columns = _overshoots(np.ascontiguousarray(after.T), np.ascontiguousarray(before.T))
    shares = np.concatenate([rows, columns])
    return float(shares.mean()) if shares.size >= _HALO_FEWEST else float("nan")


def _overshoots(after: np.ndarray, before: np.ndarray) -> np.ndarray:
    """The shares of all edges along the rows, as a 1-D array."""
    length = max(1, round(max(before.shape) / 120))
    near, far = 2, 2 + 3 * length
    reach = far + length
    if before.shape[1] < 2 * reach:
        return np.empty(0, np.float32)
    num_positions = before.shape[1] - 2 * reach + 1

    def sides(values: np.ndarray) -> tuple[np.ndarray, ...]:
        mean = _run_mean(values, length)
        starts = (0, reach - near - length, reach + near, reach + far)
        return tuple(mean[:, start : start + num_positions] for start in starts)

    far_left, near_left, near_right, far_right = sides(before)
    step = near_right - near_left
    limit = _HALO_FLATNESS * np.abs(step)
    edge = (np.abs(step) >= _HALO_STEP) & (np.abs(far_left - near_left) <= limit)
    edge &= np.abs(far_right - near_right) <= limit
    rise = np.sign(step[edge])
    shares = np.zeros(rise.size, np.float32)
    result_sides = [side[edge] for side in sides(after)]
    shares += np.maximum(rise * (result_sides[2] - result_sides[3] - (near_right - far_right)[edge]), 0)
    shares += np.maximum(rise * (result_sides[0] - result_sides[1] - (far_left - near_left)[edge]), 0)
    return shares / np.abs(step[edge])


def noise_gain(result: np.ndarray, input: np.ndarray) -> float:
    """Noise of `result` over noise of `input`, in the input's flat areas; 1 means the same.

    Noise that grows with the contrast counts too. Noise is Immerkær's estimate (1996) of luma's σ, at least that of rounding.
    Flat areas are the quarter of the unclipped pixels with the smallest gradient after a Gaussian blur of σ 2. NaN if under
    0.5% of the pixels are unclipped.
    """
    before = luma(input)
    smooth = cv2.GaussianBlur(before, (0, 0), 2)
    gradient = cv2.magnitude(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
    unclipped = (smooth > 5) & (smooth < 250)
    if unclipped.mean() < _FEW:
        return float("nan")
    flat = unclipped & (gradient <= np.quantile(gradient[unclipped], _FLAT_SHARE))
    return _noise(luma(result), flat) / _noise(before, flat)


def _noise(values: np.ndarray, where: np.ndarray) -> float:
    residual = np.abs(cv2.filter2D(values, -1, _NOISE_KERNEL)[where]).mean()
    return max(float(np.sqrt(np.pi / 2) / 6 * residual), _QUANTISATION_SIGMA)


def _linear_table() -> np.ndarray:
    """sRGB's transfer function, 256 float32 in 0–1."""
    values = np.arange(256) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4).astype(np.float32)


_LINEAR = _linear_table()
_RGB_TO_WHITE_RATIO = (_SRGB_TO_XYZ / _D65[:, None]).astype(np.float32)
_ROOT_TO_LAB = np.array([[0, 116, 0, -16], [500, -500, 0, 0], [0, 200, -200, 0]], np.float32)
_NOISE_KERNEL = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
