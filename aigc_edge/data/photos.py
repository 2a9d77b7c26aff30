"""Crops of the two colour photographs that come with scikit-learn."""

from __future__ import annotations

import numpy as np
from PIL import Image

from aigc_edge.data.image_set import ImageSet
from aigc_edge.data.load import DATASETS, scikit_learn
from aigc_edge.errors import DataError

LICENCE = (
    "CC BY 2.0: china.jpg (danielbuechele, flickr.com/photos/danielbuechele/6061409035) and flower.jpg (vultilion, "
    "flickr.com/photos/vultilion/6056698931), as packaged by scikit-learn (load_sample_images)"
)
LARGEST = 96
_GRID = (4, 5)  # regions down and across a photograph of 427 × 640
_ZOOMS = ((1.0, 8), (1.5, 12), (2.0, 16), (3.0, 16))  # pixels of the photograph for one of the crop; distance of the crops
_PLAIN = 8.0  # a crop with a smaller standard deviation (levels 0 … 255) in every channel is sky or blur


@DATASETS.register("photos")
def photos(size: int | None = None) -> ImageSet:
    """Crops [N, 3, `size`, `size`] (32 when None) of two photographs at several scales, unconditional.

    Plain crops (sky, blurred background; about a third) are excluded. Every crop lies within one of 20 regions of a
    photograph, and crops of a region stay together when the set is split: no held-out image shares a pixel with a training
    image. Raises DataError for a size above 96.
    """
    load_sample_images = scikit_learn("load_sample_images", "photos")
    size = size or 32
    if size > LARGEST:
        raise DataError(f"photos of {size} pixels were requested: the crops have at most {LARGEST}, give a smaller size")
    crops, groups = [], []
    for number, photo in enumerate(load_sample_images().images):
        for index, region in enumerate(_regions(photo)):
            region_crops = list(_crops(region, size))
            crops += region_crops
            groups += [number * _GRID[0] * _GRID[1] + index] * len(region_crops)
    images = np.stack(crops).transpose(0, 3, 1, 2)
    labels = np.zeros(len(images), np.int64)
    return ImageSet(np.ascontiguousarray(images), labels, (), "photos", LICENCE, groups=np.array(groups, np.int64))


def _regions(photo: np.ndarray) -> list[np.ndarray]:
    return [part for band in np.array_split(photo, _GRID[0]) for part in np.array_split(band, _GRID[1], axis=1)]


def _crops(region: np.ndarray, size: int) -> list[np.ndarray]:
    """Crops [size, size, 3] of a region at every zoom that fits into it."""
    crops = []
    for zoom, distance in _ZOOMS:
        side = round(zoom * size)
        height, width = region.shape[0] - side, region.shape[1] - side
        for top in range(0, height + 1, distance):
            for left in range(0, width + 1, distance):
                crop = Image.fromarray(region[top : top + side, left : left + side])
                pixels = np.asarray(crop if zoom == 1 else crop.resize((size, size), Image.Resampling.LANCZOS))
                if pixels.std(axis=(0, 1)).max() >= _PLAIN:
                    crops.append(pixels)
    return crops
