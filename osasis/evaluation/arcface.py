"""Identity with ArcFace: cosine distance of the face embeddings of an IResNet."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from osasis.errors import UserError
from osasis.evaluation.identity import FaceFinder, pixels
from osasis.evaluation.metric import Metric, Pair, Picture
from osasis.evaluation.weights import load_into, load_weights

SIDE = 112
# Where ArcFace's training images have eyes, nose tip and corners of the mouth, (x, y) in pixels.
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655],
     [70.7299, 92.2041]]
)  # fmt: skip
PREDICTOR = "shape_predictor_68_face_landmarks.dat"
# The same five in the 68 points of the iBUG annotation; an eye's centre is the mean of its outline.
FIVE_POINTS = (range(36, 42), range(42, 48), (30,), (48,), (54,))
# Blocks of the four stages of the published networks, by depth.
DEPTHS = {50: (3, 4, 14, 3), 100: (3, 13, 30, 3)}
WIDTHS = (64, 128, 256, 512)


def arcface_metric(path: Path, device: torch.device | str = "cpu") -> Metric:
    """1 - cosine similarity of ArcFace embeddings, in [0, 2]; 0 for the same image.

    The face is found on the photo, and cut out at the same place of the stylization. A photo
    without a face has no value. path: a state dict of insightface's arcface_torch, IResNet-50 or
    IResNet-100. Raises UserError for other weights, and where the extra is not installed.
    """
    finder = FaceFinder(PREDICTOR)
    net, depth = load_arcface(path)
    net = net.to(device)

    def find(picture: Picture) -> tuple[np.ndarray, Tensor] | None:
        if (points := finder.find(picture)) is None:
            return None
        matrix = similarity_transform(five_points(points), TEMPLATE)
        return matrix, embed(net, picture, matrix)

    def measure(pair: Pair) -> tuple[float] | None:
        if (found := pair.photo.once("arcface", find)) is None:
            return None
        matrix, own = found
        return (1 - float(F.cosine_similarity(embed(net, pair.stylized, matrix), own)),)

    source = "Deng et al. (ArcFace), CVPR 2019; 1 - cosine similarity"
    return Metric("identity", True, f"ArcFace IResNet-{depth}", source, measure)


def five_points(landmarks: np.ndarray) -> np.ndarray:
    """Eye centres, nose tip and corners of the mouth of 68 landmarks (68, 2); (5, 2)."""
    return np.stack([landmarks[list(group)].mean(axis=0) for group in FIVE_POINTS])


def similarity_transform(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rotation, scale and shift (2, 3) that move points (N, 2) onto the target best.

    The least-squares solution, which is Umeyama's (PAMI 1991) where that one does not reflect.
    """
    x, y = points.T
    zero, one = np.zeros_like(x), np.ones_like(x)
    # x' = a x - b y + c, y' = b x + a y + d.
    rows = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    (a, b, c, d), *_ = np.linalg.lstsq(rows, target.T.ravel(), rcond=None)
    return np.array([[a, -b, c], [b, a, d]])


@torch.no_grad()
def embed(net: nn.Module, picture: Picture, matrix: np.ndarray) -> Tensor:
    """The embedding (1, 512) of the face that the matrix moves onto ArcFace's template."""
    face = torch.from_numpy(cv2.warpAffine(pixels(picture), matrix, (SIDE, SIDE)))
    batch = face.permute(2, 0, 1)[None].to(picture.pixels.device)
    out: Tensor = net(batch / 127.5 - 1)
    return out


def load_arcface(path: Path) -> tuple[IResNet, int]:
    """The network of these weights, every key of which must match, and its depth."""
    state = load_weights(path)
    found = [re.match(r"layer([1-4])\.\d+\.bn1\.weight$", key) for key in state]
    counts = Counter(int(m[1]) for m in found if m)
    blocks = tuple(counts[stage] for stage in range(1, 5))
    depth = next((d for d, known in DEPTHS.items() if known == blocks), None)
    if depth is None:
        raise UserError(
            f"{path}: blocks {blocks} are those of no ArcFace IResNet; give the backbone of "
            + " or ".join(f"IResNet-{d} {known}" for d, known in DEPTHS.items())
        )
    return load_into(IResNet(blocks), state, path, f"ArcFace IResNet-{depth}"), depth


class IResNet(nn.Module):
    """The improved residual network of ArcFace (Deng et al., CVPR 2019, Sec. 3.1).

    blocks: of the four stages. (B, 3, 112, 112) RGB in [-1, 1] -> (B, 512), not normalised.
    """

    def __init__(self, blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.prelu = nn.PReLU(WIDTHS[0])
        inputs = (WIDTHS[0], *WIDTHS)
        for i, (width, count) in enumerate(zip(WIDTHS, blocks, strict=True)):
            first = Block(inputs[i], width, stride=2)
            stage = nn.Sequential(first, *(Block(width, width) for _ in range(count - 1)))
            self.add_module(f"layer{i + 1}", stage)
        self.bn2 = nn.BatchNorm2d(WIDTHS[-1])
        self.fc = nn.Linear(WIDTHS[-1] * (SIDE // 16) ** 2, 512)
        self.features = nn.BatchNorm1d(512)

    def forward(self, x: Tensor) -> Tensor:
        x = self.prelu(self.bn1(self.conv1(x)))
        for i in range(1, 5):
            x = self.get_submodule(f"layer{i}")(x)
        out: Tensor = self.features(self.fc(self.bn2(x).flatten(1)))
        return out


class Block(nn.Module):
    """Residual block: norm, convolution, norm, PReLU, convolution, norm."""

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.prelu = nn.PReLU(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.downsample: nn.Module | None = None
        if stride != 1:
            projection = nn.Conv2d(inputs, width, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv1(self.bn1(x)))
        h = self.bn3(self.conv2(self.prelu(h)))
        out: Tensor = h + (x if self.downsample is None else self.downsample(x))
        return out
