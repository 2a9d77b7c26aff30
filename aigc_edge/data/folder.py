"""Any folder of images as training data."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from aigc_edge.data.image_set import ImageSet
from aigc_edge.errors import DataError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
Watch = Callable[[list[Path]], Iterable[Path]]
LICENCE = "not known to aigc-edge: the terms of the images' authors apply"


def load_folder(root: Path, size: int | None = None, *, skip_corrupt: bool = False, watch: Watch = iter) -> ImageSet:
    """Read every image below `root`, centre-cropped and resized to squares of `size` pixels (32 when None).

    If the images are in subfolders, the first level of folders defines the classes, sorted by name; a single folder, or images
    directly in `root`, are an unconditional set. Greyscale if every image is grey, otherwise RGB; transparency is composited on
    white, and the EXIF orientation is applied. `watch` may wrap the list of files to display progress. Raises
    DataError for an empty or unreadable folder, for images both in `root` and in subfolders, and for a corrupt image
    unless `skip_corrupt`.
    """
    size = size or 32
    files = _find(root)
    groups = {file.relative_to(root).parts[0] if len(file.relative_to(root).parts) > 1 else "" for file in files}
    if "" in groups and len(groups) > 1:
        raise DataError(
            f"{root} has images both directly in it and in subfolders ({', '.join(sorted(groups - {''})[:3])}): "
            "put all of them into subfolders, one per class, or all directly into one folder"
        )
    images: list[npt.NDArray[np.uint8]] = []
    readable: list[Path] = []
    for file in watch(files):
        try:
            images.append(_read(file, size))
            readable.append(file)
        except (
            OSError,
            ValueError,
            SyntaxError,
            EOFError,
            Image.DecompressionBombError,
        ) as error:  # what Pillow's decoders raise
            if not skip_corrupt:
                message = f"cannot read the image {file} ({_reason(error)}): remove or replace it"
                raise DataError(f"{message}, or leave out such files with --skip-corrupt") from error
    if not images:
        raise DataError(f"none of the {len(files)} images in {root} can be read: give a folder with intact images")
    stack = np.stack(images)
    if bool((stack == stack[..., :1]).all()):
        stack = stack[..., :1]
    labels_by_file = [file.relative_to(root).parts[0] for file in readable] if "" not in groups else [""] * len(readable)
    names = sorted(set(labels_by_file))
    labels = np.array([names.index(group) for group in labels_by_file], np.int64)
    classes = tuple(names) if len(names) > 1 else ()
    pixels = np.ascontiguousarray(stack.transpose(0, 3, 1, 2))
    return ImageSet(pixels, labels, classes, str(root), LICENCE, skipped=len(files) - len(readable))


def _find(root: Path) -> list[Path]:
    """All image files below `root`, sorted; hidden files and folders are skipped, links are followed once."""
    if not root.is_dir():
        raise DataError(f"{root} is not a folder: give a folder of images ({', '.join(EXTENSIONS)})")
    images, other_files, seen = [], 0, set()

    def unreadable(error: OSError) -> None:
        raise DataError(
            f"cannot read the folder {error.filename}: {error.strerror}; allow reading or give another folder"
        ) from error

    for folder, folders, names in os.walk(root, onerror=unreadable, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to an ancestor
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        for name in names:
            if name.startswith("."):
                continue
            if name.lower().endswith(EXTENSIONS):
                images.append(Path(folder) / name)
            else:
                other_files += 1
    if not images:
        what = f"contains {other_files} other files but no images" if other_files else "is empty"
        raise DataError(
            f"the folder {root} {what}: give a folder with images ({', '.join(EXTENSIONS)}), in subfolders for classes"
        )
    return sorted(images, key=lambda file: file.relative_to(root).parts)


def _read(file: Path, size: int) -> npt.NDArray[np.uint8]:
    """One image as [size, size, 3]."""
    with Image.open(file) as opened:
        opened.draft(None, (2 * size, 2 * size))  # a large JPEG is decoded at a fraction of its size
        image: Image.Image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I"):  # 16-bit grey: convert() would cut instead of scale
            image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.LANCZOS))


def _reason(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return "not an image of a known format" if "cannot identify image" in text else text.splitlines()[0]
