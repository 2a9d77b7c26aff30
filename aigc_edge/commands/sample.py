"""`aigc-edge sample`: generate images from a bundle, as a PNG grid or as arrays."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc_edge.commands import values
from aigc_edge.commands.parser import Parser, option
from aigc_edge.errors import AigcEdgeError
from aigc_edge.runtime.request import FLAGS, Flag, SampleRequest

if TYPE_CHECKING:
    import numpy as np

CHUNK = 128  # images between two progress reports
ORDER = 30
HELP = "generate images from a bundle"
DESCRIPTION = """\
Generate images from a bundle.

Image i has the seed SEED + i: it does not depend on -n or --threads.

  aigc-edge sample digits.aigc -n 64 --seed 0 --class 7 --steps 10 --solver dpmpp_2m --guidance 2 -o sevens.png
  aigc-edge sample digits.aigc -n 120 --class all -o grid.png      one row per class
  aigc-edge sample digits.aigc -n 1000 --npz samples.npz           images uint8 [N, H, W, C], classes, seeds
  aigc-edge sample ecg.aigc -n 8 -o ecg.npy                        signals float32 [N, C, L]
  aigc-edge sample sd15.aigc --prompt "a red cat on the moon" -n 4 --negative-prompt "blurred" -o cats.png"""


def configure(parser: Parser) -> None:
    option(parser, "bundle BUNDLE", "a bundle (folder or packed file)")
    what = parser.add_argument_group("what to generate")
    option(what, "-n --count N", "number of images (default: 16, 8 for each --class, or 1 for each --prompt)", type=values.count)
    option(what, "--seed S", "seed of the first image, 0 to 2^64-1 (default: 0)", type=values.seed, default=0)
    option(
        what,
        "--class C",
        "class index or name, a comma-separated list, 'all', or 'none' (unconditional); may be repeated; -n is divided "
        "evenly among them, in this order (default: random classes, from the seeds)",
        dest="classes",
        type=values.listed,
        action="append",
    )
    option(
        what,
        "--prompt TEXT",
        "what the images show, for a bundle with text encoders; may be repeated; -n is divided evenly, in this order",
        dest="prompts",
        action="append",
    )
    how = parser.add_argument_group("how to generate it")
    for name, flag in FLAGS.items():
        default = getattr(SampleRequest, name)
        how.add_argument(flag.name, dest=name, type=_type_of(flag), default=default, metavar=flag.metavar, help=flag.help)
    option(
        how, "--negative-class C", "the class that guidance steers away from (default: none)", dest="negative", type=values.listed
    )
    option(
        how,
        "--size HxW",
        "height and width of the images, one of the bundle's, or with --denoising-tile a larger one (default: its first)",
        type=values.size,
    )
    option(how, "--tile HxW", "decode in overlapping tiles of this size, in less memory (default: the whole)", type=values.size)
    option(
        how,
        "--denoising-tile HxW",
        "denoise in overlapping tiles of this size, one of the bundle's, which changes the images (default: the whole)",
        type=values.size,
    )
    option(
        how,
        "--overlap N",
        "of tiles, in pixels (default: a quarter of --tile, half of --denoising-tile)",
        type=values.whole(0, 1 << 16),
    )
    option(how, "--format NAME", "precision of the networks: fp32, int8 … (default: the bundle's)")
    option(
        how,
        "--engine NAME",
        "onnxruntime, openvino, tensorrt, torch, or auto: the fastest CPU engine here (default: %(default)s)",
        default="onnxruntime",
    )
    option(
        how,
        "--device",
        "cuda: the whole loop on the first GPU, with --engine torch or tensorrt (default: auto, the CPU unless the "
        "engine needs a GPU)",
        choices=("auto", "cpu", "cuda"),
        default="auto",
    )
    option(
        how,
        "--precision",
        "what stays in float: exact is float32, bf16 and fp16 half precision on CPUs that have it (default: half precision where "
        "the bundle was measured to hold its budget with it, else exact)",
        choices=("default", "exact", "bf16", "fp16"),
        default="default",
    )
    option(how, "--threads N", "threads of the engine (default: all physical cores)", type=values.threads)
    out = parser.add_argument_group("output")
    option(
        out,
        "-o --output FILE",
        "a .png grid, a .npz file, or a .npy file: float32 [N, C, H, W] in the bundle's output range, signals [N, C, L] "
        "(default: samples.png, or samples.npy where a sample is no picture)",
        type=values.output_file,
    )
    option(out, "--png FILE", "also write a PNG grid", type=values.output_file)
    option(
        out,
        "--npz FILE",
        "also write a NumPy archive: images uint8 [N, H, W, C], classes [N], prompts [N], seeds [N]",
        type=values.output_file,
    )
    option(
        out, "--columns N", "columns of the grid (default: one row per class or prompt, else nearly square)", type=values.count
    )


def _type_of(flag: Flag) -> Callable[[str], Any]:
    """The function that parses the value of a flag."""
    if flag.kind == "whole":
        return values.whole(int(flag.low), int(flag.high))
    return values.real(flag.low, flag.high) if flag.kind == "real" else str


def kind_of(file: str) -> str:
    """The type of an output file: png, npz or npy; raises AigcEdgeError for any other."""
    kind = Path(file).suffix.lower().lstrip(".")
    if kind not in ("png", "npz", "npy"):
        raise AigcEdgeError(f"the output {file} has an unknown file type: use .png (a grid), .npz (bytes) or .npy (floats)")
    return kind


@dataclass(frozen=True)
class OutputFiles:
    """The files to write, by type."""

    png: list[Path]
    npz: list[Path]
    npy: list[Path]

    @staticmethod
    def of(arguments: argparse.Namespace, shape: Sequence[Any]) -> OutputFiles:
        """Those that the options ask for, for samples of `shape` (C, H, W).

        Raises AigcEdgeError for other file types, for floats beside bytes, and for a picture of what is none.
        """
        picture = shape[0] in (1, 3)
        main = arguments.output or (None if arguments.png or arguments.npz else "samples.png" if picture else "samples.npy")
        files = [Path(file) for file in (arguments.png, arguments.npz, main) if file]
        kinds = ["png"] * bool(arguments.png) + ["npz"] * bool(arguments.npz)
        kinds += [kind_of(main)] if main else []
        if "npy" in kinds and len(files) > 1:
            raise AigcEdgeError(f"{main} holds floats and {files[0]} bytes: write one of them, then the other")
        if "png" in kinds and not picture:
            raise AigcEdgeError(f"a sample has {shape[0]} channels, a picture 1 or 3: write a .npy file (-o samples.npy)")
        return OutputFiles(*([file for file, kind in zip(files, kinds, strict=True) if kind == k] for k in ("png", "npz", "npy")))

    def __str__(self) -> str:
        return ", ".join(map(str, [*self.png, *self.npz, *self.npy]))


def divided(count: int, indices: list[int]) -> list[int]:
    """`count` items: each of `indices` in turn, repeated equally often (the first ones once more if there is a remainder)."""
    each, remainder = divmod(count, len(indices))
    return [index for i, index in enumerate(indices) for _ in range(each + (i < remainder))]


def run(arguments: argparse.Namespace) -> int:
    if arguments.output:
        kind_of(arguments.output)  # before the bundle is opened
    if arguments.program and (arguments.solver or arguments.steps):
        raise AigcEdgeError("--program was given with --solver or --steps: a program fixes both, pass one or the other")
    import numpy as np

    from aigc_edge.runtime import pipeline

    opened = pipeline.open(
        arguments.bundle,
        engine=arguments.engine,
        format=arguments.format,
        threads=arguments.threads,
        device=arguments.device,
        size=arguments.size,
        precision=arguments.precision,
        tile=arguments.tile,
        denoising_tile=arguments.denoising_tile,
        overlap=arguments.overlap,
    )
    with opened as pipe:
        files = OutputFiles.of(arguments, pipe.manifest.output_shape)
        names = pipe.manifest.class_names
        indices: list[int] = []
        if arguments.classes:
            indices = values.class_indices(arguments.classes, names, pipe.manifest.num_classes, arguments.bundle)
        negative = None
        if arguments.negative:
            chosen = values.class_indices([arguments.negative], names, pipe.manifest.num_classes, arguments.bundle)
            if len(chosen) != 1:
                raise AigcEdgeError(f"--negative-class was given {len(chosen)} classes: one is allowed")
            negative = chosen[0]
        texts: list[str] = arguments.prompts or []
        count = arguments.count or (8 * len(indices) if indices else len(texts) or 16)
        classes = divided(count, indices) if indices else None
        prompts = [texts[i] for i in divided(count, list(range(len(texts))))] if texts else None
        flags = {name: getattr(arguments, name) for name in FLAGS}
        flags |= {"output": "float32"} if files.npy else {}
        request = SampleRequest(
            count=count, seed=arguments.seed, classes=classes, negative_classes=negative, prompt=prompts, **flags
        )
        started = time.perf_counter()
        parts = []
        for first in range(0, count, CHUNK):
            size = min(CHUNK, count - first)
            parts.append(pipe.sample(request.part(first, size)))
            progress(first + size, count)
        seconds = time.perf_counter() - started
        slower = pipe.reason if arguments.device == "cuda" or pipe.device == "cuda" else None
    if slower:
        print(f"note: the loop did not run as one CUDA graph: {slower}", file=sys.stderr)
    images = np.concatenate(parts)
    write(images, classes, prompts, arguments, files, rows=len(indices or texts))
    print(f"{count} images in {seconds:.2f} s ({count / seconds:.1f} images/s): {files}")
    return 0


def progress(done: int, total: int) -> None:
    """Count up on one line of a terminal; nothing in a log."""
    if sys.stderr.isatty():
        print(f"\r{done}/{total} images", end="\n" if done == total else "", file=sys.stderr, flush=True)


def write(
    images: np.ndarray[Any, Any],
    classes: list[int] | None,
    prompts: list[str] | None,
    arguments: argparse.Namespace,
    files: OutputFiles,
    *,
    rows: int,
) -> None:
    """Write samples, each file atomically: uint8 [N, H, W, C] as grids and archives, float32 [N, C, H, W] as an array."""
    import numpy as np

    from aigc_edge.files import atomic_file
    from aigc_edge.images import grid, write_png

    columns = arguments.columns or (-(-len(images) // rows) if rows > 1 else None)
    for path in files.npy:
        with atomic_file(path) as part, open(part, "wb") as file:
            np.save(file, images[:, :, 0] if images.shape[2] == 1 else images, allow_pickle=False)
    for path in files.png:
        write_png(path, grid(images, columns=columns))
    seeds = np.uint64(arguments.seed) + np.arange(len(images), dtype=np.uint64)  # wraps around 2^64 as the seeds do
    extra: dict[str, Any] = {} if classes is None else {"classes": np.asarray(classes, dtype=np.int64)}
    extra |= {} if prompts is None else {"prompts": np.asarray(prompts, dtype=np.str_)}
    for path in files.npz:
        with atomic_file(path) as part, open(part, "wb") as file:
            np.savez_compressed(file, images=images, seeds=seeds, **extra)
