"""The handwritten digits that come with scikit-learn."""

from __future__ import annotations

import numpy as np
from PIL import Image

from aigc_edge.data.image_set import ImageSet
from aigc_edge.data.load import DATASETS, scikit_learn

LICENCE = (
    "CC BY 4.0: Optical Recognition of Handwritten Digits (test part), E. Alpaydin and C. Kaynak, 1998, "
    "UCI Machine Learning Repository, doi 10.24432/C50P49; as packaged by scikit-learn (load_digits)"
)


@DATASETS.register("digits")
def digits(size: int | None = None) -> ImageSet:
    """1,797 real handwritten digits, 8 × 8 with 17 grey levels, bicubically resampled to `size` (16 when None), 10 classes."""
    load_digits = scikit_learn("load_digits", "digits")
    size = size or 16
    bunch = load_digits()
    images = np.stack([_resample(image.astype(np.float32) / 16, size) for image in bunch.images])
    return ImageSet(images[:, None], bunch.target.astype(np.int64), tuple("0123456789"), "digits", LICENCE)


def _resample(image: np.ndarray, size: int) -> np.ndarray:
    # In float: resampling bytes would round between the two passes.
    resized = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)
    return np.clip(np.rint(np.asarray(resized) * 255), 0, 255).astype(np.uint8)
