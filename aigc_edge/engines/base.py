"""What every engine is: one loaded network (one component in one format) that is evaluated on buffers of the caller."""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aigc_edge.bundle.bundle import Bundle
from aigc_edge.bundle.component import Component
from aigc_edge.bundle.references import check_references
from aigc_edge.bundle.spec import BATCH, ComponentSpec, TensorSpec
from aigc_edge.bundle.storage import Files
from aigc_edge.errors import AigcEdgeError, BundleError, EngineUnavailable
from aigc_edge.registry import Registry

Buffers = Mapping[str, NDArray[Any]]
EXACT: Final = "exact"  # the precision of float32 arithmetic where networks use float32
INTEGER_FORMATS = ("int8", "w4a8")  # of networks whose activations are integers


class EngineSource(NamedTuple):
    """Where an engine finds its network: a component of a bundle in one format.

    `files` are those of the bundle, `family` names the module that the component's weights belong to. `verified` says that the
    files of the component were held to the manifest's hashes.
    """

    files: Files
    component: Component
    format: str
    family: str = ""
    verified: bool = False

    @staticmethod
    def of(bundle: Bundle, name: str, format: str, *, verified: bool = False) -> EngineSource:
        """The component of that name."""
        return EngineSource(bundle, bundle.manifest.components[name], format, bundle.manifest.family, verified)

    @property
    def bundle(self) -> Path:
        """The path of the bundle."""
        return self.files.path

    @property
    def spec(self) -> ComponentSpec:
        """What the component's ONNX files take and return."""
        return self.component.onnx

    def model_file(self, engine: str = "") -> str:
        """The relative path of the ONNX file in this format, the one made for `engine` where there is one.

        Raises BundleError that lists the formats of the component.
        """
        try:
            return self.component.file(self.format, engine)
        except BundleError as error:
            raise BundleError(f"{self.bundle} has {error}") from None

    @contextlib.contextmanager
    def loadable(self, engine: str = "") -> Iterator[tuple[str, str | bytes]]:
        """The relative path of `engine`'s ONNX file, and what it loads: a path, weights beside it, or of a packed bundle bytes.

        Where weights of a packed bundle are in a file of their own, both are copied to a temporary folder. Raises BundleError
        when the file is missing or damaged, or refers to another file than its weights.
        """
        relative = self.model_file(engine)
        weights, listed = f"{relative}.data", self.files.listed
        beside = Path(weights).name if weights in (listed or ()) or (listed is None and not self.files.packed) else None
        what = f"{relative} of {self.bundle}"
        if not self.files.packed:
            if not (self.bundle / relative).is_file():
                raise BundleError(f"{self.bundle} lacks {relative}: make or copy the bundle again")
            check_references(self.bundle / relative, beside, what)
            with _in_unicode(self.bundle) as folder:
                yield relative, str(folder / relative)
        elif beside is None:
            data = self.files.read(relative)
            check_references(data, None, what)
            yield relative, data
        else:
            with self.files.extract((relative, weights)) as folder:
                check_references(folder / relative, beside, what)
                yield relative, str(folder / relative)


@contextlib.contextmanager
def _in_unicode(folder: Path) -> Iterator[Path]:
    """The folder under a name that engines take: they know paths in Unicode alone."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        import tempfile

        with tempfile.TemporaryDirectory() as place:
            link = Path(place) / "bundle"
            link.symlink_to(folder.absolute())
            yield link
        return
    yield folder


class Engine(ABC):
    """One loaded network: `load` it, `bind` it to buffers once, call the binding as often as needed."""

    name: ClassVar[str]
    devices: ClassVar[tuple[str, ...]] = ("cpu",)  # where it computes: "cpu" from host memory, "cuda" on a GPU
    batch_invariant: ClassVar[bool] = False  # whether a sample's bits are the same in every batch, for any number of threads
    # Numeric formats of layers in ONNX files that it has kernels for: "fp32", "fp16", "bf16"; "int8", "w4a8", "fp8", "w4a4" of
    # weights and activations; "int8w", "fp8w", "int4", "nvfp4" of weights only; further ones by names of their own. The value is
    # the compute capability, times ten, from which a GPU runs it (0: any device).
    features: ClassVar[Mapping[str, int]] = {"fp32": 0}
    auto: ClassVar[bool] = False  # whether engine="auto" measures it against the others that compute on the CPU
    schedule_engine: ClassVar[str] = ""  # what evaluates schedule constants: too small a network to build a plan for; "": this
    spec: ComponentSpec

    @classmethod
    @abstractmethod
    def unavailable(cls) -> str | None:
        """None when this engine can run on this machine, else the sentence that says why not and what to do."""

    @classmethod
    def deviates(cls, format: str) -> str | None:
        """Why a format's results here would not be those whose quality was measured, so that "auto" leaves the engine out; else
        None."""
        return None

    @classmethod
    def precisions(cls) -> Collection[str]:
        """The reduced precisions ("bf16", "fp16") in which it computes what stays in float on this machine, if so loaded."""
        return ()

    @classmethod
    @abstractmethod
    def load(cls, source: EngineSource, *, threads: int) -> Engine:
        """Load the network; raises EngineUnavailable (not here) or BundleError (not this file).

        An engine with `precisions` takes one of them, or "exact", as the keyword `precision` too (default: "exact").
        """

    @abstractmethod
    def bind(self, inputs: Buffers, outputs: Buffers) -> Callable[[], None]:
        """Return a call that evaluates the network from `inputs` into `outputs`.

        The buffers are C-contiguous, of the dtypes of the spec and of one batch size N; the binding keeps them alive and reads
        them anew at each call. Raises AigcEdgeError when a buffer does not fit the spec.
        """

    def on_device(self, device: str) -> Callable[..., Any]:
        """The network as a function of torch tensors on `device` ("cuda:0", …), evaluated on torch's current stream.

        `network(sample, timestep, **conditions)` takes conditions by the names of the spec's inputs; its `dtype` is that of the
        sample. Where it has `uncapturable(batch)`, that says why a batch cannot be part of a CUDA graph, or None. Raises
        EngineUnavailable where the engine cannot compute there.
        """
        raise EngineUnavailable(
            f"the engine {self.name!r} computes on arrays in host memory, not on torch tensors on {device!r}: give NumPy arrays, "
            "or choose the engine torch or tensorrt"
        )

    def close(self) -> None:  # noqa: B027 - most engines have nothing to give back
        """Give back what the engine holds (device memory, threads)."""

    def evaluate(self, inputs: Buffers) -> dict[str, NDArray[Any]]:
        """Evaluate once and return fresh outputs; arrays are converted to the dtypes of the spec."""
        try:
            ready = {t.name: np.ascontiguousarray(inputs[t.name], dtype=t.dtype) for t in self.spec.inputs if t.name in inputs}
        except (TypeError, ValueError) as error:
            raise AigcEdgeError(f"the inputs of {self.spec.name!r} must be arrays of numbers ({error})") from None
        unknown = set(inputs) - set(ready)
        if unknown or len(ready) != len(self.spec.inputs):
            raise AigcEdgeError(_names_message(self.spec.name, "inputs", inputs, self.spec.inputs))
        batch = ready[self.spec.inputs[0].name].shape[0]
        outputs = {t.name: np.empty(shape_of(t, batch), dtype=t.dtype) for t in self.spec.outputs}
        self.bind(ready, outputs)()
        return outputs


def made_as(file: str, format: str) -> str:
    """The format that a network's file is in, by its name: beside a denoiser in int8 a text encoder may be in int8w."""
    parts = Path(file).name.split(".")
    return parts[1] if len(parts) > 2 else format


ENGINES: Registry[type[Engine]] = Registry("engine", "aigc_edge.engines", "aigc_edge.engines", Engine)


def require(name: str) -> type[Engine]:
    """The engine class called `name`, or EngineUnavailable with the engine's own sentence."""
    engine = ENGINES[name]
    reason = engine.unavailable()
    if reason is not None:
        raise EngineUnavailable(reason)
    return engine


def load_engine(name: str, source: EngineSource, *, threads: int, precision: str = EXACT) -> Engine:
    """Load a network with the engine called `name`, with a reduced precision where it is not "exact"."""
    options: dict[str, Any] = {} if precision == EXACT else {"precision": precision}
    return require(name).load(source, threads=threads, **options)


def shape_of(tensor: TensorSpec, batch: int) -> tuple[int, ...]:
    """The shape of `tensor` for a batch of `batch` samples."""
    return tuple(batch if size == BATCH else int(size) for size in tensor.shape)


def arrange(spec: ComponentSpec, sample: Any, timestep: Any, conditions: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of the spec by their names, in its order; raises AigcEdgeError for a condition too few or too many."""
    found = {}
    for tensor in spec.inputs:
        given = {"sample": sample, "timestep": timestep}.get(tensor.role, conditions.get(tensor.name))
        if given is None:
            raise AigcEdgeError(f"the network {spec.name!r} needs the input {tensor.name!r}: give it among the conditions")
        found[tensor.name] = given
    unknown = sorted(set(conditions) - set(found))
    if unknown:
        raise AigcEdgeError(f"the network {spec.name!r} has no input {unknown[0]!r}: it has {', '.join(found)}")
    return found


def sample_dtype(spec: ComponentSpec) -> str:
    """The dtype of the sample that the network takes."""
    return next(tensor.dtype for tensor in spec.inputs if tensor.role == "sample")


def check_buffers(spec: ComponentSpec, inputs: Buffers, outputs: Buffers) -> int:
    """Return the batch size N that all buffers agree on; raises AigcEdgeError for a buffer that does not fit the spec."""
    batch: int | None = None
    for kind, buffers, tensors in (("inputs", inputs, spec.inputs), ("outputs", outputs, spec.outputs)):
        if set(buffers) != {t.name for t in tensors}:
            raise AigcEdgeError(_names_message(spec.name, kind, buffers, tensors))
        for tensor in tensors:
            array = buffers[tensor.name]
            if batch is None and array.ndim:
                batch = array.shape[0]
            wanted = shape_of(tensor, batch or 0)
            if not batch or array.shape != wanted or array.dtype != np.dtype(tensor.dtype) or not array.flags.c_contiguous:
                layout = "" if array.flags.c_contiguous else " non-contiguous"
                shape = ", ".join(str(s) for s in tensor.shape)
                raise AigcEdgeError(
                    f"{kind[:-1]} {tensor.name!r} of {spec.name!r} is{layout} {array.dtype} {list(array.shape)}: it must be "
                    f"contiguous {tensor.dtype} [{shape}] with one batch size N >= 1 for all buffers"
                )
            if kind == "outputs" and not array.flags.writeable:
                raise AigcEdgeError(f"output {tensor.name!r} of {spec.name!r} is read-only: give an array that can be written")
    return batch or 0


def _names_message(component: str, kind: str, given: Buffers, tensors: tuple[TensorSpec, ...]) -> str:
    wanted = ", ".join(t.name for t in tensors)
    return f"{kind} of {component!r} were given as {', '.join(sorted(given)) or 'nothing'}: they must be exactly {wanted}"


def check_signature(source: EngineSource, what: str, actual: Mapping[str, str], declared: Mapping[str, str]) -> None:
    """Raise BundleError unless the tensors of a loaded network, by name, are those that the manifest declares."""
    if actual != declared:
        listed = [
            ", ".join(f"{name}: {kind}" for name, kind in sorted(tensors.items())) or "none" for tensors in (actual, declared)
        ]
        raise BundleError(
            f"{what} of {source.bundle} has the tensors {listed[0]}, but its manifest declares {listed[1]}: the bundle is "
            "inconsistent, compile it again"
        )


def physical_cores() -> int:
    """How many physical cores this process may use (affinity and cgroup quota counted in): the default number of threads."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
    siblings = set()
    for cpu in allowed:
        try:
            siblings.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:
            siblings.add(str(cpu))
    return max(1, min(len(siblings), _quota()))


def _quota() -> int:
    # A container with half the machine would otherwise be throttled by threads that wait for each other.
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, int(limit) // int(period))
    except (OSError, ValueError):
        return 1 << 30
