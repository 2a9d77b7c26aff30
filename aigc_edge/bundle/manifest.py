"""The manifest of a bundle: what it holds and how its networks are sampled, parsed and validated once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from aigc_edge.bundle.component import DECODER, DENOISER, SCHEDULE, TEXT_ENCODERS, Component
from aigc_edge.bundle.parsing import Value, is_safe, parse_json
from aigc_edge.bundle.sizes import Dim, Size, at, listed, named
from aigc_edge.bundle.spec import parse_shape
from aigc_edge.diffusion import Program
from aigc_edge.errors import AigcEdgeError, BundleError, ProgramError

FORMAT = "aigc-edge-bundle"
VERSION = 1
MAX_SIDE, MAX_SIZES = 1 << 16, 1024
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


@dataclass(frozen=True)
class Manifest:
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
    components: Mapping[str, Component] = field(default_factory=dict)
    programs: Mapping[str, Program] = field(default_factory=dict)
    default_program: str = ""
    default_format: str = ""
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    name: str = ""
    family: str = ""
    sizes: tuple[Size, ...] = ()
    num_classes: int = 0
    class_names: tuple[str, ...] = ()
    schedule: Mapping[str, Any] | None = None
    text: TextEntry | None = None
    examples: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    calibration: CalibrationEntry | None = None
    judge: JudgeEntry | None = None
    quality: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    targets: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    tools: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""
    version: int = VERSION
    extra: Mapping[str, Any] = field(default_factory=dict)

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

    def at(self, size: Size | None = None) -> Manifest:
        """The manifest at one of its sizes (None: the first): every shape is numbers, see `Component.dims`.

        Raises AigcEdgeError for a size that the bundle does not have.
        """
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
        return replace(
            self,
            sample_shape=at(self.sample_shape, chosen),
            output_shape=at(self.output_shape, chosen),
            components={name: component.at(chosen) for name, component in self.components.items()},
        )

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

    def to_text(self) -> bytes:
        """The bytes of manifest.json; raises ValueError for NaN and infinity, which are not JSON."""
        return json.dumps(self.to_json(), indent=1, allow_nan=False, ensure_ascii=False).encode() + b"\n"

    @staticmethod
    def parse(text: bytes | str, *, validated: bool = False) -> Manifest:
        """The manifest of these bytes; see `from_json`."""
        strict = text.encode() if isinstance(text, str) else text
        return Manifest.from_json(json.loads(text) if validated else parse_json(strict, "manifest.json"), validated=validated)

    @staticmethod
    def from_json(value: Any, *, validated: bool = False) -> Manifest:
        """The manifest of a JSON object, validated as the native reader does.

        `validated` says that the native reader took it already: programs are then parsed when they are used. Raises BundleError
        naming the member that is wrong, such as components.denoiser.inputs[0].shape.
        """
        manifest = _parse(Value(value, "manifest"))
        if not validated:
            from aigc_edge.bundle.validation import validate  # here: the native reader has validated what it opens

            validate(manifest)
        return manifest


MEMBERS = {
    "format", "version", "family", "sample_shape", "output_shape", "sizes", "output_range", "classes", "schedule",
    "default_format", "targets", "notes", "judge", "tools", "provenance", "created", "text", "calibration", "examples", "name",
    "components",
    "default_program", "programs", "quality", "files",
}  # fmt: skip


def _parse(root: Value) -> Manifest:
    """The manifest with every member of the right type."""
    if root["format"].string() != FORMAT:
        raise root["format"].error(f'must be "{FORMAT}"')
    version = root["version"].integer(1, 1 << 30)
    if version > VERSION:
        raise BundleError(f"its format version is {version}, this aigc-edge reads up to {VERSION}: install a newer aigc-edge")
    components, programs = (Value(root[name].object(), name) for name in ("components", "programs"))
    plain: dict[str, Any] = {name: item.string() for name in ("name", "family", "created") if (item := root.get(name))}
    plain |= {name: item.object() for name in ("schedule", "provenance") if (item := root.get(name))}
    plain |= {name: item.strings() for name in ("targets", "notes") if (item := root.get(name))}
    judge, text, tools = root.get("judge"), root.get("text"), root.get("tools")
    examples, quality, calibration = root.get("examples"), root.get("quality"), root.get("calibration")
    if classes := root.get("classes"):
        names = classes.get("names")
        plain |= {"num_classes": classes["count"].integer(1, 1 << 30), "class_names": names.strings() if names else ()}
    return Manifest(
        sample_shape=parse_shape(root["sample_shape"]),
        output_shape=parse_shape(root["output_shape"]),
        output_range=_range(root["output_range"]),
        components={name: Component.parse(name, item) for name, item in components.members()},
        programs=ProgramTable({name: item.object() for name, item in programs.members()}),
        default_program=root["default_program"].string(),
        default_format=root["default_format"].string(),
        files=_files(root["files"]),
        sizes=_sizes(root.get("sizes")),
        text=_text(text) if text else None,
        examples={kind: _strings(files) for kind, files in examples.members()} if examples else {},
        calibration=_calibration(calibration) if calibration else None,
        judge=_judge(judge) if judge else None,
        quality={name: figures.object() for name, figures in quality.members()} if quality else {},
        tools=_strings(tools) if tools else {},
        version=version,
        extra={name: raw for name, raw in root.object().items() if name not in MEMBERS},
        **plain,
    )


def _files(value: Value) -> dict[str, FileEntry]:
    files = {}
    for name, entry in value.members():
        if not is_safe(name):
            raise entry.error("leads out of the bundle")
        files[name] = FileEntry(entry["bytes"].integer(0, 1 << 52), entry["sha256"].string())
    return files


def _strings(value: Value) -> dict[str, str]:
    return {name: item.string() for name, item in value.members()}


def _range(value: Value) -> tuple[float, float]:
    items = value.items()
    if len(items) != 2:
        raise value.error("must be [low, high]")
    return items[0].number(), items[1].number()


def _sizes(value: Value | None) -> tuple[Size, ...]:
    if value is None:
        return ()
    items = value.items()
    if not 1 <= len(items) <= MAX_SIZES:
        raise value.error(f"must hold 1 to {MAX_SIZES} sizes")
    sizes = []
    for item in items:
        sides = item.items()
        if len(sides) != 2:
            raise item.error("must be [height, width]")
        sizes.append((sides[0].integer(1, MAX_SIDE), sides[1].integer(1, MAX_SIDE)))
    return tuple(sizes)


def _calibration(value: Value) -> CalibrationEntry:
    return CalibrationEntry(value["inputs"].string(), {name: _range(item) for name, item in value["ranges"].members()})


def _judge(value: Value) -> JudgeEntry:
    accuracy = value.get("accuracy")
    return JudgeEntry(value["classifier"].string(), value["features"].string(), accuracy.number() if accuracy else None)


def _text(value: Value) -> TextEntry:
    negative, prompts, highest = value["negative"], value.get("prompts"), 2**31 - 1
    if negative.string() not in ("encode", "zeros"):
        raise negative.error(f'is "{negative.raw}", known are encode and zeros')
    encoders = {
        name: TokenizerEntry(entry["tokenizer"].string(), entry["length"].integer(1, highest), entry["pad"].integer(0, highest))
        for name, entry in value["encoders"].members()
    }
    return TextEntry(encoders, negative.raw, prompts.strings() if prompts else ())
