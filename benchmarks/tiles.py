"""Decoding and denoising in tiles: what differs from the whole, the seams, and the memory.

    python benchmarks/tiles.py [--work FOLDER] [--only seams denoising memory] [-o benchmarks/results/tiles]

- seams: two autoencoders of a photograph, trained here for a few hundred steps: one of convolutions alone (AutoencoderTiny), and
  one of Stable Diffusion's structure, smaller (AutoencoderKL: GroupNorm, and attention in the middle, which see the whole). The
  latents of a photograph are decoded whole and in tiles.
- denoising: a diffusion model of crops of 32 x 32 of that photograph and another, sampled at 64 x 192 in tiles of its own size.
- memory: a decoder of Stable Diffusion's structure (random weights; --width 128 is its real size) decodes 256 x 256 and
  1024 x 1024 pixels, each time in a process of its own: the peak less the same process's memory after opening.

A seam is measured by the gradients across the borders of tiles: the mean of |difference of neighbouring pixels| there, relative
to the same pixels of the whole image (1: no seam), or relative to all other places where there is no whole image.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from processes import child, peak

from aigc_edge.bench.machine import fingerprint
from aigc_edge.files import write_json

STRUCTURES = ("convolutions", "Stable Diffusion's structure")
SIZE, TILES = (256, 384), ((128, 128), (192, 192))
CORNER = (100, 128)  # of the photograph
STEPS, BATCH, CROP = 200, 4, 48
PHOTOS = ["--steps", "250", "--batch", "32", "--widths", "32,64", "--blocks", "1,2", "--no-judge"]
LARGE = 1024
Image = NDArray[np.float64]


def autoencoder(structure: str) -> Any:
    """An untrained autoencoder, seed 0."""
    import diffusers
    import torch

    torch.manual_seed(0)
    if structure == STRUCTURES[0]:
        widths, blocks = (16, 16, 16, 16), (1, 1, 1, 1)
        return diffusers.AutoencoderTiny(
            encoder_block_out_channels=widths,
            decoder_block_out_channels=widths,
            num_encoder_blocks=blocks,
            num_decoder_blocks=blocks,
        )
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 32, 32),
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
    )


def photograph() -> NDArray[np.float32]:
    """A part of a photograph, [1, 3, 256, 384] in -1 ... 1."""
    from sklearn.datasets import load_sample_images

    pixels = load_sample_images().images[0][CORNER[0] :, CORNER[1] :][: SIZE[0], : SIZE[1]]
    image: NDArray[np.float32] = pixels.transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1
    return image


def trained(structure: str, threads: int) -> tuple[Any, Any]:
    """The decoder, trained on crops of the photograph, and the latents of it."""
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    vae, image = autoencoder(structure), torch.from_numpy(photograph())
    tiny = structure == STRUCTURES[0]

    def latents_of(x: Any) -> Any:
        return vae.encode(x).latents if tiny else vae.encode(x).latent_dist.mean

    class Decode(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.post, self.decoder = (nn.Identity(), vae.decoder) if tiny else (vae.post_quant_conv, vae.decoder)

        def forward(self, latents: Any) -> Any:
            return self.decoder(self.post(latents))

    decoder, rng = Decode(), np.random.default_rng(0)
    optimiser = torch.optim.Adam(vae.parameters(), 2e-3)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=STEPS)
    for _ in range(STEPS):
        corners = [(int(rng.integers(SIZE[0] - CROP)), int(rng.integers(SIZE[1] - CROP))) for _ in range(BATCH)]
        crops = torch.cat([image[:, :, top : top + CROP, left : left + CROP] for top, left in corners])
        loss = (decoder(latents_of(crops)) - crops).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rates.step()
    print(f"{structure}: loss {loss.item():.3f}", file=sys.stderr)
    with torch.no_grad():
        return decoder.eval(), latents_of(image)


def bundle_of(structure: str, work: Path, threads: int) -> Path:
    """A bundle of a trained decoder, and its latents beside it."""
    from aigc_edge.compile import compile_source
    from aigc_edge.sources.generator import Generator

    path = work / f"structure-{STRUCTURES.index(structure)}.aigc"
    if not path.exists():
        decoder, latents = trained(structure, threads)
        np.save(path.with_suffix(".npy"), latents.numpy())
        sizes = [SIZE, TILES[0]]
        source = Generator(sample=latents, decoder=decoder, sizes=sizes, name=path.stem, inputs={"sample": latents.numpy()})
        compile_source(source, path, formats=["fp32"], samples=2, threads=threads)
    return path


def psnr(image: Image, whole: Image) -> float | None:
    """Decibels below the whole image's own range; None for equal images."""
    error = float(np.square(image - whole).mean())
    return round(float(10 * np.log10((whole.max() - whole.min()) ** 2 / error)), 2) if error else None


def starts(length: int, tile: int, overlap: int, unit: int) -> list[int]:
    """Where tiles begin, in pixels; `unit` pixels are one entry of the sample."""
    length, tile, overlap = length // unit, tile // unit, overlap // unit
    gaps = -(-(length - tile) // (tile - overlap)) if length > tile else 0
    return [unit * ((length - tile) * i // gaps) if gaps else 0 for i in range(gaps + 1)]


def borders(length: int, tile: int, overlap: int, unit: int) -> list[int]:
    """The pixels that are the first of a tile within the image, or the first after one: where its weight begins or ends."""
    places = starts(length, tile, overlap, unit)
    return sorted({*places[1:], *(place + tile for place in places[:-1])})


def gradients(image: Image, axis: int) -> Image:
    """Mean |difference| between pixel k - 1 and k, for every k from 1 on, along an axis of [N, C, H, W]."""
    other = tuple(i for i in range(4) if i != axis)
    found: Image = np.abs(np.diff(image, axis=axis)).mean(axis=other)
    return found


def seam(image: Image, whole: Image | None, tile: tuple[int, int], overlap: int, unit: int) -> float:
    """Gradients across borders, relative to the whole image's there, or without one to those of the other places."""
    at, compared = [], []
    for axis in (2, 3):
        places = [k - 1 for k in borders(image.shape[axis], tile[axis - 2], overlap, unit)]
        own = gradients(image, axis)
        at += list(own[places])
        compared += list(gradients(whole, axis)[places] if whole is not None else np.delete(own, places))
    return float(np.mean(at) / np.mean(compared))


def seams(work: Path, threads: int) -> tuple[list[dict[str, Any]], dict[str, Image]]:
    """Figures of decoding in tiles, and pictures."""
    import aigc_edge
    from aigc_edge.bundle.bundle import Bundle

    rows, pictures = [], {}
    for structure in STRUCTURES:
        path = bundle_of(structure, work, threads)
        latents = np.load(path.with_suffix(".npy"))

        def decode(path: Path = path, latents: NDArray[np.float32] = latents, **tiles: Any) -> Image:
            with aigc_edge.open(path, threads=threads, **tiles) as pipeline:
                return pipeline.sample(1, latents=latents, output="float32").astype(np.float64)

        whole = pictures[f"{structure} whole"] = decode()
        decoder = Bundle.open(path).manifest.components["decoder"]
        field = 8 * (decoder.receptive_field or 0)
        for tile in TILES:
            default = max(tile[0] // 4, min(2 * field, tile[0] // 2))
            for overlap in sorted({0, tile[0] // 8, tile[0] // 4, default}):
                image = decode(tile=tile, overlap=overlap)
                row = {"structure": structure, "tile": list(tile), "overlap": overlap, "default": overlap == default}
                row |= {"receptive_field": field}
                row |= {"psnr": psnr(image, whole), "seam": round(seam(image, whole, tile, overlap, 8), 4)}
                row["largest_difference"] = float(f"{np.abs(image - whole).max():.3g}")
                rows.append(row)
                print(row, file=sys.stderr)
                if tile == TILES[0] and overlap in (0, default):
                    pictures[f"{structure} overlap {overlap}"] = image
    return rows, pictures


def denoising(work: Path, threads: int) -> tuple[list[dict[str, Any]], dict[str, Image]]:
    """Figures of sampling beyond the trained size, and pictures."""
    import aigc_edge
    from aigc_edge.cli import main
    from aigc_edge.compile import compile_source
    from aigc_edge.sources.run import RunSource

    run, path = work / "photos", work / "photos.aigc"
    if not path.exists():
        main(["train", "diffusion", "--data", "photos", "--out", str(run), "--threads", str(threads), *PHOTOS])
        source = RunSource(run)
        source.images, source.data = None, lambda: None  # type: ignore[method-assign]  # what is measured needs no classifier
        compile_source(source, path, formats=["fp32"], samples=2, threads=threads)
    rows, pictures = [], {}
    for overlap in (0, 8, 16, 24):
        with aigc_edge.open(path, threads=threads, size=(64, 192), denoising_tile=(32, 32), overlap=overlap) as pipeline:
            image = pipeline.sample(8, seed=1, steps=12, output="float32").astype(np.float64)
            evaluations = int(pipeline.stats["evaluations"])
        row = {"tile": [32, 32], "overlap": overlap, "default": overlap == 16, "evaluations": evaluations}
        row["seam"] = round(seam(image, None, (32, 32), overlap, 1), 3)
        rows.append(row)
        print(row, file=sys.stderr)
        pictures[f"denoised, overlap {overlap}"] = image[:2]
    return rows, pictures


def wide_decoder(work: Path, threads: int, width: int) -> Path:
    """A bundle of Stable Diffusion's decoder with random weights, of `width` in place of 128, compiled for 256 x 256 alone."""
    path = work / f"decoder-{width}.aigc"
    if not path.exists():
        import diffusers
        import torch
        from diffusers_networks import STABLE_DIFFUSION_VAE
        from torch import nn

        from aigc_edge.compile import compile_source
        from aigc_edge.sources.generator import Generator

        class Decode(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                widths = tuple(width * each for each in (1, 2, 4, 4))
                options = STABLE_DIFFUSION_VAE | {"block_out_channels": widths, "norm_num_groups": min(32, width)}
                vae = diffusers.AutoencoderKL(**options)
                self.post, self.decoder = vae.post_quant_conv, vae.decoder

            def forward(self, latents: Any) -> Any:
                return self.decoder(self.post(latents))

        torch.manual_seed(0)
        source = Generator(sample=torch.randn(1, 4, 32, 32), decoder=Decode(), name="decoder")
        compile_source(source, path, formats=["fp32"], samples=2, threads=threads)
    return path


def decode_one(bundle: str, threads: int, size: int, tile: int) -> dict[str, Any]:
    """Decode one image in this process, which does nothing else."""
    import aigc_edge

    tiles: dict[str, Any] = {"tile": (tile, tile)} if tile != size else {}
    with aigc_edge.open(bundle, threads=threads, size=(size, size), **tiles) as pipeline:
        opened, started = peak(), time.perf_counter()
        pipeline.sample(1, seed=0)
        return {"opened_bytes": opened, "peak_bytes": peak(), "seconds": round(time.perf_counter() - started, 1)}


def memory(work: Path, threads: int, width: int) -> list[dict[str, Any]]:
    """Peak memory of decoding, each in a process of its own."""
    bundle, rows = str(wide_decoder(work, threads, width)), []
    for size, tile in ((256, 256), (LARGE, 256)):
        row = {"width": width, "size": size, "tile": tile}
        row |= child(__file__, "decode_one", bundle, str(threads), str(size), str(tile))
        row["above_bytes"] = row["peak_bytes"] - row["opened_bytes"]
        rows.append(row)
        print(row, file=sys.stderr)
    return rows


def picture(parts: dict[str, Image], file: Path) -> None:
    """Crops of decoded images, then samples, one row each, as a PNG."""
    from aigc_edge.images import write_png

    rows = []
    for name, image in parts.items():
        if not name.startswith("denoised"):
            rows.append(image[0])
        else:
            rows.append(np.concatenate(list(image), axis=2))
    width = max(row.shape[2] for row in rows)
    padded = [np.pad(row, [(0, 0), (0, 6), (0, width - row.shape[2])], constant_values=1) for row in rows]
    pixels = np.clip(np.concatenate(padded, axis=1) * 127.5 + 127.5, 0, 255)
    write_png(file, pixels.round().astype(np.uint8).transpose(1, 2, 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="keeps the trained networks for another run (default: a temporary folder)")
    parser.add_argument("--only", nargs="*", choices=("seams", "denoising", "memory"), default=("seams", "denoising", "memory"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--width", type=int, default=128, help="of the decoder whose memory is measured (default: the real one's)"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "tiles")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {"machine": fingerprint(), "threads": arguments.threads}
    file = arguments.output.with_suffix(".json")
    if file.exists():  # a part is measured again
        figures = json.loads(file.read_text()) | figures
    with tempfile.TemporaryDirectory() as folder:
        work = arguments.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        pictures: dict[str, Image] = {}
        for name, measure in (("seams", seams), ("denoising", denoising)):
            if name in arguments.only:
                figures[name], made = measure(work, arguments.threads)
                pictures |= made
        if "memory" in arguments.only:
            figures["memory"] = memory(work, arguments.threads, arguments.width)
    write_json(file, figures)
    if {"seams", "denoising"} <= set(arguments.only):
        picture(pictures, arguments.output.with_suffix(".png"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(decode_one(sys.argv[3], *map(int, sys.argv[4:]))))
    else:
        main()
