"""Training images: named data sets, any folder of images, augmentation, splits."""

from __future__ import annotations

from aigc_edge.data.image_set import ImageSet
from aigc_edge.data.load import DATASETS, load

__all__ = ["DATASETS", "ImageSet", "load"]
