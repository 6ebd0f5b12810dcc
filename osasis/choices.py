"""Named choices that the command line, the corpus job, the server and provenance share.

The module imports only ``typing``, so that help and shell completion do not import torch.
"""

from typing import Literal

# How a photo is fitted to the base's square. ``align`` detects faces; ``whole`` keeps the photo's
# shape, for methods that need no square.
SquareFit = Literal["crop", "pad", "resize"]
Fit = Literal[SquareFit, "align", "whole"]
# With fit ``align``: what happens to a photo without a face.
NoFace = Literal["error", "crop", "keep"]
OutputSize = Literal["photo", "base"]
ImageFormat = Literal["png", "jpeg", "webp"]
OutputFormat = Literal[ImageFormat, "parquet"]
# What happens to the photo's EXIF.
Metadata = Literal["strip", "keep"]
# ``auto`` depends on the device.
Arithmetic = Literal["float32", "tf32", "bfloat16", "float16"]
Precision = Literal["auto", Arithmetic]
# Timesteps and solvers of inversion and denoising; see osasis.sampling.
Spacing = Literal["leading", "trailing", "quadratic"]
DecodeSolver = Literal["ddim", "dpmpp_2m"]
EncodeSolver = Literal["ddim", "dpmpp_2m", "fixed_point"]
# What happens to the photo's transparency.
Alpha = Literal["keep", "drop"]
# What a proposed mask shows, and by which segmenter; see osasis.segmenting.
MaskRegion = Literal["subject", "background", "face", "hair"]
SegmenterName = Literal["grabcut", "mediapipe", "fastsam", "onnx"]
# Range of the pixels that a segmentation model reads.
PixelRange = Literal["imagenet", "signed", "unit"]
# What an output stores: how it was made and the photo's path, the same with the photo's name only,
# or nothing.
Provenance = Literal["full", "style", "none"]
