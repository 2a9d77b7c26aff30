"""The manifest of a bundle: what it holds and how its networks are sampled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from aigc_edge.bundle.component import DECODER, DENOISER, SCHEDULE, TEXT_ENCODERS, Component
from aigc_edge.bundle.sizes import Dim, Size, at, listed, named
from aigc_edge.bundle.spec import shape_of_json
from aigc_edge.diffusion import Program
from aigc_edge.errors import AigcEdgeError, BundleError, ProgramError

FORMAT = "aigc-edge-bundle"
VERSION = 1
Negative = Literal["encode", "zeros"]


class FileEntry(NamedTuple):
    """A file of a bundle: its length in bytes and its SHA-256, 64 hexadecimal digits."""

    bytes: int
    sha256: str


class TokenizerEntry(NamedTuple):
    """How a prompt becomes the tokens of an encoder: the tokenizer's file, the number of tokens, the padding token."""

    tokenizer: str
    length: int
    pad: int


class TextEntry(NamedTuple):
    """The tokenizers of the text encoders by component, the conditions without a negative prompt (those of "", or zeros), and
    the prompts that the formats were calibrated and measured with."""

    encoders: Mapping[str, TokenizerEntry]
    negative: Negative
    prompts: tuple[str, ...] = ()

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> TextEntry:
        """The member "text" of a manifest that the native reader has validated."""
        encoders = {
            name: TokenizerEntry(entry["tokenizer"], int(entry["length"]), int(entry["pad"]))
            for name, entry in value["encoders"].items()
        }
        return TextEntry(encoders, value["negative"], tuple(value.get("prompts") or ()))


class JudgeEntry(NamedTuple):
    """The classifier that scored the formats: its network, the features of real images, its held-out accuracy 0 … 1."""

    classifier: str
    features: str
    accuracy: float | None = None


class CalibrationEntry(NamedTuple):
    """What the formats were calibrated on: `inputs` of a program without rows ("normal", "uniform:-1:1", "sphere", "arrays"), and
    by input the range of its values, [low, high]."""

    inputs: str
    ranges: Mapping[str, tuple[float, float]]

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> CalibrationEntry:
        """The member "calibration" of a manifest that the native reader has validated."""
        return CalibrationEntry(value["inputs"], {name: (low, high) for name, (low, high) in value["ranges"].items()})


class ProgramTable(Mapping[str, Program]):
    """Programs by name; one that comes from JSON is parsed when it is first used."""

    def __init__(self, values: Mapping[str, Program | Mapping[str, Any]]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> Program:
        value = self._values[name]
        if not isinstance(value, Program):
            try:
                value = self._values[name] = Program.from_json(value)
            except ProgramError as error:
                raise BundleError(f"programs.{name}: {error}") from None
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class Manifest(NamedTuple):
    """The contents of a bundle's manifest.

    Shapes are [C, H, W] (or any) without the batch; with several `sizes`, of which the first is the default, their sides may be
    "H", "W" or a fraction of them until `at` makes them numbers. `num_classes` is 0 when unconditional. `output_range` is that of
    the decoded float32 images. `schedule` holds the settings of the noise schedule (`diffusion.build`), None for one evaluation.
    `quality` maps a format to its figures, `examples` a kind (such as inputs or conditions) and a name to a
    file. `extra` keeps unknown
    members.
    """

    sample_shape: tuple[Dim, ...] = ()
    output_shape: tuple[Dim, ...] = ()
    output_range: tuple[float, float] = (-1, 1)
    components: Mapping[str, Component] = {}
    programs: Mapping[str, Program] = {}
    default_program: str = ""
    default_format: str = ""
    files: Mapping[str, FileEntry] = {}
    name: str = ""
    family: str = ""
    sizes: tuple[Size, ...] = ()
    num_classes: int = 0
    class_names: tuple[str, ...] = ()
    schedule: Mapping[str, Any] | None = None
    text: TextEntry | None = None
    examples: Mapping[str, Mapping[str, str]] = {}
    calibration: CalibrationEntry | None = None
    judge: JudgeEntry | None = None
    quality: Mapping[str, Mapping[str, Any]] = {}
    targets: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    tools: Mapping[str, str] = {}
    provenance: Mapping[str, Any] = {}
    created: str = ""
    version: int = VERSION
    extra: Mapping[str, Any] = {}

    @property
    def denoiser(self) -> Component | None:
        """The network that the rows of programs evaluate."""
        return self.components.get(DENOISER)

    @property
    def decoder(self) -> Component | None:
        """The network that turns samples into images, or noise into samples if programs have no rows."""
        return self.components.get(DECODER)

    @property
    def main(self) -> Component:
        """The network that samples are made by: the denoiser, without one the decoder."""
        return self.components[DENOISER if DENOISER in self.components else DECODER]

    @property
    def networks(self) -> dict[str, Component]:
        """The components that exist in every format: all but the schedule, whose one file serves them all."""
        return {name: component for name, component in self.components.items() if name != SCHEDULE}

    @property
    def text_encoders(self) -> dict[str, Component]:
        """The text encoders, in order."""
        return {name: self.components[name] for name in TEXT_ENCODERS if name in self.components}

    @property
    def default_size(self) -> Size | None:
        """The size that a bundle opens at; None where it has one alone."""
        return self.sizes[0] if self.sizes else None

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return sum(entry.bytes for entry in self.files.values())

    def bytes_of(self, network: str) -> int:
        """Bytes of an ONNX file with the weights beside it; 0 for a file that is not listed."""
        return sum(self.files[file].bytes for file in (network, f"{network}.data") if file in self.files)

    def at(self, size: Size | None = None, *, tile: Size | None = None, denoising_tile: Size | None = None) -> Manifest:
        """The manifest at one of its sizes (None: the first): every shape is numbers, see `Component.dims`.

        With `tile` or `denoising_tile`, which the native reader has validated, the decoder or the denoiser takes that part of the
        image, and `size` may be larger. Raises AigcEdgeError for a size that the bundle does not have.
        """
        if tile is not None or denoising_tile is not None:
            return self._in_tiles(size, tile, denoising_tile)
        if not self.sizes:
            if size is not None and tuple(size) != self.output_shape[1:]:
                raise AigcEdgeError(
                    f"the size {named(size)} was requested, but this bundle has {named(self.output_shape[1:])} alone: compile it "  # type: ignore[arg-type]
                    "with both"
                )
            return self
        chosen = self.sizes[0] if size is None else tuple(size)
        if chosen not in self.sizes:
            raise AigcEdgeError(f"this bundle has no size {named(chosen)}: choose one of {listed(self.sizes)}")
        return self._replace(
            sample_shape=at(self.sample_shape, chosen),
            output_shape=at(self.output_shape, chosen),
            components={name: component.at(chosen) for name, component in self.components.items()},
        )

    def _in_tiles(self, size: Size | None, tile: Size | None, denoising_tile: Size | None) -> Manifest:
        first = self.at()
        channels, *latent = map(int, first.sample_shape)
        colours, *own = map(int, first.output_shape)
        image = size or (own[0], own[1])
        whole = image if image in (self.sizes or [tuple(own)]) else denoising_tile or tile
        sizes = {name: denoising_tile or whole for name in self.components} | {DECODER: tile or whole}
        components = self.components
        if self.sizes:
            components = {name: component.at(at_size) for name, component in components.items() if (at_size := sizes[name])}
        sample = (side // (pixels // entries) for side, pixels, entries in zip(image, own, latent, strict=True))
        return self._replace(sample_shape=(channels, *sample), output_shape=(colours, *image), components=components)

    def to_json(self) -> dict[str, Any]:
        """The members of manifest.json in their order; null or left out where there is nothing to say."""
        value: dict[str, Any] = {"format": FORMAT, "version": self.version, "family": self.family}
        value |= {"sample_shape": list(self.sample_shape), "output_shape": list(self.output_shape)}
        value |= {"sizes": [list(size) for size in self.sizes]} if self.sizes else {}
        value |= {
            "output_range": list(self.output_range),
            "classes": {"count": self.num_classes, "names": list(self.class_names)} if self.num_classes else None,
            "schedule": None if self.schedule is None else dict(self.schedule),
            "default_format": self.default_format,
            "targets": list(self.targets),
            "notes": list(self.notes),
            "judge": self.judge._asdict() if self.judge else None,
            "tools": dict(self.tools),
            "provenance": dict(self.provenance),
            "created": self.created,
        }
        if self.text:
            encoders = {name: entry._asdict() for name, entry in self.text.encoders.items()}
            value["text"] = {"encoders": encoders, "negative": self.text.negative, "prompts": list(self.text.prompts)}
        if self.calibration:
            ranges = {name: list(bounds) for name, bounds in self.calibration.ranges.items()}
            value["calibration"] = {"inputs": self.calibration.inputs, "ranges": ranges}
        if self.examples:
            value["examples"] = {kind: dict(files) for kind, files in self.examples.items()}
        return value | {
            "name": self.name,
            "components": {name: component.to_json() for name, component in self.components.items()},
            "default_program": self.default_program,
            "programs": {name: program.to_json() for name, program in self.programs.items()},
            "quality": {name: dict(figures) for name, figures in self.quality.items()},
            **self.extra,
            "files": {name: entry._asdict() for name, entry in self.files.items()},
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Manifest:
        """The manifest of a JSON object that the native reader has validated; its programs are parsed when they are used."""
        as_they_are = ("name", "family", "created", "schedule", "provenance", "default_program", "default_format")
        plain = {name: value[name] for name in as_they_are if value.get(name) is not None}
        plain |= {name: tuple(value[name]) for name in ("targets", "notes") if value.get(name)}
        plain |= {name: shape_of_json(value[name]) for name in ("sample_shape", "output_shape")}
        plain |= {name: value.get(name) or {} for name in ("examples", "quality", "tools")}
        judge, text, classes = (value.get(name) for name in ("judge", "text", "classes"))
        calibration = value.get("calibration")
        if classes:
            plain |= {"num_classes": int(classes["count"]), "class_names": tuple(classes.get("names") or ())}
        low, high = value["output_range"]
        return Manifest(
            output_range=(low, high),
            components={name: Component.from_json(name, component) for name, component in value["components"].items()},
            programs=ProgramTable(value["programs"]),
            files={name: FileEntry(int(entry["bytes"]), entry["sha256"]) for name, entry in value["files"].items()},
            sizes=tuple((int(height), int(width)) for height, width in value.get("sizes") or ()),
            text=TextEntry.from_json(text) if text else None,
            calibration=CalibrationEntry.from_json(calibration) if calibration else None,
            judge=JudgeEntry(judge["classifier"], judge["features"], judge.get("accuracy")) if judge else None,
            version=int(value["version"]),
            extra={name: raw for name, raw in value.items() if name not in MEMBERS},
            **plain,
        )


MEMBERS = {
    "format", "version", "family", "sample_shape", "output_shape", "sizes", "output_range", "classes", "schedule",
    "default_format", "targets", "notes", "judge", "tools", "provenance", "created", "text", "calibration", "examples", "name",
    "components",
    "default_program", "programs", "quality", "files",
}  # fmt: skip
