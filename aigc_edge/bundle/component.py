"""A component of a bundle: one network in several formats, its engine plans, its torch weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from aigc_edge.bundle.sizes import Size, follows, number
from aigc_edge.bundle.spec import ComponentSpec, TensorSpec
from aigc_edge.errors import BundleError

DENOISER, DECODER, SCHEDULE = "denoiser", "decoder", "schedule"
TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
KINDS = (DENOISER, DECODER, SCHEDULE, *TEXT_ENCODERS)  # every name that a component may have


class PlanEntry(NamedTuple):
    """An engine plan of a component: its file, its target, and what its build log proves.

    `sm` is the compute capability (86 for 8.6), `built_with` the module and its version, `batches` the smallest, best and largest
    batch, `device` the GPU that the plan belongs to ("": every one of the capability).
    """

    engine: str
    format: str
    target: str
    file: str
    sm: int = 0
    built_with: str = ""
    batches: tuple[int, ...] = ()
    device: str = ""
    options: Mapping[str, Any] = {}
    precision: Mapping[str, Any] | str | None = None
    expected: tuple[Mapping[str, Any], ...] = ()
    surprises: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        """The module that built the plan, without its version."""
        return self.built_with.partition(" ")[0]

    @property
    def report(self) -> str:
        """The file of the build report beside the plan."""
        return self.file.removesuffix("plan") + "json"

    def to_json(self) -> dict[str, Any]:
        """The plan as an item of a component's "engines"."""
        value: dict[str, Any] = {name: getattr(self, name) for name in ("engine", "format", "target", "sm", "file", "built_with")}
        value["batches"] = list(self.batches)
        value |= {"device": self.device} if self.device else {}
        value |= {"options": dict(self.options)} if self.options else {}
        return value | {"precision": self.precision, "expected": list(self.expected), "surprises": list(self.surprises)}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> PlanEntry:
        """The plan of a manifest that the native reader has validated."""
        known = {name: value[name] for name in PlanEntry._fields if value.get(name) is not None}
        known |= {name: tuple(known[name]) for name in ("expected", "surprises") if name in known}
        return PlanEntry(**known | {"sm": int(known.get("sm", 0)), "batches": tuple(map(int, known.get("batches", ())))})


class Weights(NamedTuple):
    """A component's weights for torch: the file, the settings of its module, and the inputs of that (None: all)."""

    file: str
    model: Mapping[str, Any]
    inputs: tuple[str, ...] | None = None


class ConstantTable(NamedTuple):
    """The schedule's outputs at the timesteps of a bundle's programs: float32 rows in a file, and the increasing timesteps."""

    file: str
    timesteps: tuple[float, ...]


class Component(NamedTuple):
    """One network of a bundle: the "denoiser" is evaluated once a row, the "decoder" once at the end, the "schedule" once a
    timestep, text encoders once a prompt: tokens in, conditions out, which feed the denoiser's inputs of the same names.

    `spec` lists everything that the executor feeds. One network may be stored in two forms that take different inputs: the ONNX
    files and plans of a denoiser take constants in place of the timestep (`onnx_inputs`), the module that its weights belong to
    still takes the timestep (`weights.inputs`); None: all. `formats` maps a format to its files: "file", and one of its own for
    an engine that needs another graph. `schedule_constants` says what was split off into the schedule, or why nothing was.
    `receptive_field` is the distance in latents within which a pixel of a decoder depends on them. `dims` are the numbers that
    symbolic dimensions have at the size that the bundle was opened at.
    """

    spec: ComponentSpec
    formats: Mapping[str, Mapping[str, str]]
    engines: tuple[PlanEntry, ...] = ()
    weights: Weights | None = None
    onnx_inputs: tuple[str, ...] | None = None
    schedule_constants: Mapping[str, Any] | None = None
    table: ConstantTable | None = None
    receptive_field: int | None = None
    dims: Mapping[str, int] = {}
    extra: Mapping[str, Any] = {}

    @property
    def name(self) -> str:
        """The name in the manifest, which says what kind of network it is."""
        return self.spec.name

    @property
    def onnx(self) -> ComponentSpec:
        """What the ONNX files and plans take and return."""
        return self._taking(self.onnx_inputs)

    @property
    def module(self) -> ComponentSpec:
        """What the torch module of the weights takes and returns."""
        return self._taking(self.weights.inputs if self.weights else None)

    def file(self, format: str, engine: str = "") -> str:
        """The ONNX file in a format, the one for `engine` where there is one; raises BundleError that lists the formats."""
        if format not in self.formats:
            known = ", ".join(sorted(self.formats)) or "none"
            raise BundleError(f"no format {format!r} of {self.name!r}: it has {known}")
        return self.formats[format].get(engine) or self.formats[format]["file"]

    def at(self, size: Size) -> Component:
        """The component at an image size: every shape is numbers."""
        shapes = [dim for tensor in (*self.spec.inputs, *self.spec.outputs) for dim in tensor.shape if follows(dim)]
        if not shapes:
            return self
        return self._replace(spec=self.spec.at(size), dims={str(dim): int(number(dim, size)) for dim in shapes})

    def to_json(self) -> dict[str, Any]:
        """The component as a member of a manifest's "components"; optional members only where they are set."""
        value: dict[str, Any] = {
            **self.spec.to_json(),
            "formats": {name: dict(files) for name, files in self.formats.items()},
            "engines": [plan.to_json() for plan in self.engines],
        }
        if self.weights:
            inputs = {} if self.weights.inputs is None else {"inputs": list(self.weights.inputs)}
            value["weights"] = {"file": self.weights.file, "model": dict(self.weights.model), **inputs}
        if self.onnx_inputs is not None:
            value["onnx_inputs"] = list(self.onnx_inputs)
        if self.schedule_constants is not None:
            value["schedule_constants"] = dict(self.schedule_constants)
        if self.table:
            value["table"] = {"file": self.table.file, "timesteps": list(self.table.timesteps)}
        if self.receptive_field is not None:
            value["receptive_field"] = self.receptive_field
        return value | dict(self.extra)

    @staticmethod
    def from_json(name: str, value: Mapping[str, Any]) -> Component:
        """The component of a manifest that the native reader has validated."""
        inputs, outputs = (tuple(map(TensorSpec.from_json, value[kind])) for kind in ("inputs", "outputs"))
        formats = {format: {k: v for k, v in files.items() if isinstance(v, str)} for format, files in value["formats"].items()}
        weights, table = value.get("weights"), value.get("table")
        known = ["inputs", "outputs", "formats", "engines", "weights", "onnx_inputs", "schedule_constants", "table"]
        known.append("receptive_field")
        field = value.get("receptive_field")
        return Component(
            ComponentSpec(name, inputs, outputs),
            formats,
            tuple(map(PlanEntry.from_json, value.get("engines") or ())),
            Weights(weights["file"], weights["model"], _names(weights.get("inputs"))) if weights else None,
            _names(value.get("onnx_inputs")),
            value.get("schedule_constants"),
            ConstantTable(table["file"], tuple(table["timesteps"])) if name == SCHEDULE and table else None,
            None if field is None else int(field),
            extra={key: raw for key, raw in value.items() if key not in known},
        )

    def _taking(self, names: tuple[str, ...] | None) -> ComponentSpec:
        if names is None:
            return self.spec
        by_name = {tensor.name: tensor for tensor in self.spec.inputs}
        return self.spec._replace(inputs=tuple(by_name[name] for name in names))


def _names(value: list[str] | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(value)
