"""Any folder of images: classes, colours, orientation, and everything that can be wrong with it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aigc_edge.data import load
from aigc_edge.errors import DataError


def write(path: Path, pixels: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def grey(rng: np.random.Generator, height: int = 16, width: int = 16) -> np.ndarray:
    return rng.integers(0, 256, (height, width), dtype=np.uint8)


def colour(rng: np.random.Generator, height: int = 16, width: int = 16) -> np.ndarray:
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_subfolders_are_classes(tmp_path: Path, rng: np.random.Generator) -> None:
    wanted = {}
    for name in ("b/deep/2.png", "a/1.PNG", "c/3.bmp", "a/0.webp"):
        wanted[name] = grey(rng)
        write(tmp_path / name, wanted[name], **({"lossless": True} if name.endswith("webp") else {}))
    (tmp_path / "empty").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    write(tmp_path / "a" / ".hidden.png", grey(rng))
    write(tmp_path / ".thumbnails" / "x.png", grey(rng))
    data = load(str(tmp_path), 16)
    assert data.class_names == ("a", "b", "c")
    assert data.labels.tolist() == [0, 0, 1, 2]
    assert data.images.shape == (4, 1, 16, 16)
    for image, name in zip(data.images, ("a/0.webp", "a/1.PNG", "b/deep/2.png", "c/3.bmp"), strict=True):
        assert np.array_equal(image[0], wanted[name]), name
    assert data.source == str(tmp_path)
    assert data.describe()["count"] == 4


@pytest.mark.parametrize("names", [("1.png", "2.png"), ("only/1.png", "only/2.png")])
def test_one_folder_is_unconditional(tmp_path: Path, rng: np.random.Generator, names: tuple[str, ...]) -> None:
    for name in names:
        write(tmp_path / name, grey(rng))
    data = load(str(tmp_path), 16)
    assert (data.num_classes, data.class_names, data.labels.tolist()) == (0, (), [0, 0])


def test_colour_is_decided_by_the_data(tmp_path: Path, rng: np.random.Generator) -> None:
    same = grey(rng)
    write(tmp_path / "1.png", np.repeat(same[..., None], 3, 2))  # RGB that is grey
    write(tmp_path / "2.png", grey(rng))
    assert load(str(tmp_path), 16).images.shape == (2, 1, 16, 16)
    pixels = colour(rng)
    write(tmp_path / "3.png", pixels)
    data = load(str(tmp_path), 16)
    assert data.images.shape == (3, 3, 16, 16)
    assert np.array_equal(data.images[2], pixels.transpose(2, 0, 1))
    assert np.array_equal(data.images[0], np.repeat(same[None], 3, 0))


def test_centre_crop_and_resize(tmp_path: Path, rng: np.random.Generator) -> None:
    wide = np.repeat(rng.integers(0, 256, (1, 12), dtype=np.uint8), 4, 0)
    write(tmp_path / "wide.png", wide)
    write(tmp_path / "tall.png", wide.T)
    data = load(str(tmp_path), 4)
    assert np.array_equal(data.images[1, 0], wide[:, 4:8])
    assert np.array_equal(data.images[0, 0], wide.T[4:8])
    flat = write(tmp_path / "flat.png", np.full((90, 50), 77, np.uint8))
    assert flat.exists()
    assert (load(str(tmp_path), 8).images[0] == 77).all()
    assert load(str(tmp_path)).images.shape[2:] == (32, 32)


def test_large_photographs_keep_their_look(tmp_path: Path) -> None:
    """JPEGs are decoded at reduced size: the result must be what a full decode gives, to within resampling."""
    x, y = np.meshgrid(np.linspace(0, 1, 640), np.linspace(0, 1, 480))
    pixels = np.stack([255 * x, 255 * y, 127 + 127 * np.sin(9 * x * y)], 2).astype(np.uint8)
    write(tmp_path / "1.jpg", pixels, quality=95)
    write(tmp_path / "2.png", pixels)
    first, second = load(str(tmp_path), 32).images.astype(int)
    assert np.abs(first - second).mean() < 3


def test_exif_orientation(tmp_path: Path, rng: np.random.Generator) -> None:
    pixels = colour(rng)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter, clockwise
    write(tmp_path / "1.png", pixels, exif=exif)
    assert np.array_equal(load(str(tmp_path), 16).images[0], np.rot90(pixels, -1).transpose(2, 0, 1))


def test_transparency_is_laid_on_white(tmp_path: Path, rng: np.random.Generator) -> None:
    pixels = np.dstack([colour(rng), np.zeros((16, 16), np.uint8)])
    pixels[:8, :, 3] = 255
    write(tmp_path / "1.png", pixels)
    image = load(str(tmp_path), 16).images[0]
    assert np.array_equal(image[:, :8], pixels[:8, :, :3].transpose(2, 0, 1))
    assert (image[:, 8:] == 255).all()


def test_sixteen_bits_and_palettes(tmp_path: Path, rng: np.random.Generator) -> None:
    deep = rng.integers(0, 65536, (16, 16), dtype=np.uint16)
    write(tmp_path / "1.png", deep)
    assert np.array_equal(load(str(tmp_path), 16).images[0, 0], deep // 257)
    flat = grey(rng) // 128 * 255
    Image.fromarray(flat).convert("1").save(tmp_path / "1.png")
    assert np.array_equal(load(str(tmp_path), 16).images[0, 0], flat)
    Image.fromarray(flat).convert("RGB").quantize(4).save(tmp_path / "1.png")
    assert np.array_equal(load(str(tmp_path), 16).images[0, 0], flat)


def corrupt_files(folder: Path, rng: np.random.Generator) -> list[Path]:
    whole = write(folder / "a.png", colour(rng, 64, 64)).read_bytes()
    photo = write(folder / "b.jpg", colour(rng, 64, 64)).read_bytes()
    bad = {
        "c.png": whole[: len(whole) // 2],
        "d.jpg": photo[:300],
        "e.png": b"",
        "f.bmp": b"this is text",
        "g.webp": os.urandom(500),
    }
    for name, data in bad.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in bad]


def test_each_corrupt_image_is_named(tmp_path: Path, rng: np.random.Generator) -> None:
    for bad in corrupt_files(tmp_path, rng):
        with pytest.raises(DataError, match=r"cannot read the image .*: remove or replace it.*--skip-corrupt") as caught:
            load(str(tmp_path), 16)
        assert str(bad) in str(caught.value)
        assert "\n" not in str(caught.value)
        bad.unlink()
    assert len(load(str(tmp_path), 16)) == 2


def test_corrupt_images_are_left_out_on_request(tmp_path: Path, rng: np.random.Generator) -> None:
    bad = corrupt_files(tmp_path, rng)
    data = load(str(tmp_path), 16, skip_corrupt=True)
    assert (len(data), data.skipped, data.describe()["skipped"]) == (2, len(bad), len(bad))
    for name in ("a.png", "b.jpg"):
        (tmp_path / name).unlink()
    with pytest.raises(DataError, match="none of the 5 images"):
        load(str(tmp_path), 16, skip_corrupt=True)


def test_a_class_without_readable_images_is_no_class(tmp_path: Path, rng: np.random.Generator) -> None:
    for name in ("a/1.png", "b/1.png", "c/1.png"):
        write(tmp_path / name, grey(rng))
    (tmp_path / "b" / "1.png").write_bytes(b"")
    data = load(str(tmp_path), 16, skip_corrupt=True)
    assert (data.class_names, data.labels.tolist()) == (("a", "c"), [0, 1])


def test_folders_that_hold_nothing(tmp_path: Path, rng: np.random.Generator) -> None:
    with pytest.raises(DataError, match="is empty: give a folder with images"):
        load(str(tmp_path))
    (tmp_path / "a.gif").write_bytes(b"GIF89a")
    with pytest.raises(DataError, match="contains 1 other files but no images"):
        load(str(tmp_path))
    with pytest.raises(DataError, match="is not a folder"):
        load(str(tmp_path / "a.gif"))
    with pytest.raises(DataError, match=r"data .*nowhere.* does not exist.*digits"):
        load(str(tmp_path / "nowhere"))


def test_loose_images_beside_subfolders_are_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    write(tmp_path / "1.png", grey(rng))
    write(tmp_path / "cats" / "1.png", grey(rng))
    with pytest.raises(DataError, match=r"directly in it and in subfolders \(cats\).*one per class"):
        load(str(tmp_path))


def test_unreadable_folder(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "open" / "1.png", grey(rng))
    (tmp_path / "secret").mkdir()
    scan = os.scandir

    def guarded(path: str) -> object:  # permissions mean nothing to root, who may run this
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(DataError, match=r"cannot read the folder .*secret: Permission denied; allow reading or give another"):
        load(str(tmp_path))


def test_links_are_followed_once(tmp_path: Path, rng: np.random.Generator) -> None:
    write(tmp_path / "store" / "1.png", grey(rng))
    root = tmp_path / "set"
    root.mkdir()
    (root / "a").symlink_to(tmp_path / "store", target_is_directory=True)
    (tmp_path / "store" / "up").symlink_to(root, target_is_directory=True)
    assert len(load(str(root), 16)) == 1
