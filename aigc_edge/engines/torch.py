"""The reference engine: the family's own network, rebuilt from the bundle's weights and run by torch on a CPU or GPU."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from aigc_edge.bundle.component import Weights
from aigc_edge.bundle.spec import ComponentSpec
from aigc_edge.engines.base import ENGINES, Buffers, Engine, EngineSource, arrange, check_buffers, sample_dtype
from aigc_edge.errors import BundleError, EngineUnavailable


@ENGINES.register("torch")
class TorchEngine(Engine):
    """The component's module in eval mode without gradients; fp32 only (the other formats exist only as ONNX files)."""

    name, devices = "torch", ("cpu", "cuda")
    features: ClassVar[Mapping[str, int]] = {}  # it reads its own copy of the weights instead of an ONNX file

    def __init__(self, spec: ComponentSpec, module: Any, threads: int) -> None:
        self.spec = spec
        self._module = module
        self._threads = threads

    @classmethod
    def unavailable(cls) -> str | None:
        missing = [name for name in ("torch", "safetensors") if importlib.util.find_spec(name) is None]
        if missing:
            return f"the engine 'torch' needs {' and '.join(missing)}: pip install 'aigc-edge[train]', or choose another engine"
        return None

    @classmethod
    def load(cls, source: EngineSource, *, threads: int) -> Engine:
        reason = cls.unavailable()
        if reason is not None:
            raise EngineUnavailable(reason)
        if source.format != "fp32":
            raise EngineUnavailable(
                f"the engine 'torch' runs fp32 only, not {source.format!r}: choose --format fp32 or --engine onnxruntime"
            )
        weights = source.component.weights
        if weights is None:
            raise BundleError(f"{source.bundle} has no torch weights for {source.spec.name!r}: use --engine onnxruntime")
        return cls(source.component.module, _rebuild(source, weights), threads)

    def bind(self, inputs: Buffers, outputs: Buffers) -> Callable[[], None]:
        import torch

        check_buffers(self.spec, inputs, outputs)
        # from_numpy shares memory: the module reads the caller's buffers, only its result is copied.
        arguments = [torch.from_numpy(inputs[t.name]) for t in self.spec.inputs]
        results = [torch.from_numpy(outputs[t.name]) for t in self.spec.outputs]
        module, threads = self._module, self._threads

        def call() -> None:
            if torch.get_num_threads() != threads:  # a process-wide setting
                torch.set_num_threads(threads)
            with torch.inference_mode():
                value = module(*arguments)
                for result, computed in zip(results, value if isinstance(value, tuple) else (value,), strict=True):
                    result.copy_(computed)

        return call

    def on_device(self, device: str) -> Callable[..., Any]:
        """The module in float32; whether matrix products use TF32 is left to torch's global setting."""
        import torch

        if torch.device(device).type == "cuda" and not torch.cuda.is_available():
            raise EngineUnavailable(
                f"torch cannot compute on {device!r} here: choose the device 'cpu', or install torch with CUDA"
            )
        # A copy: the original module stays on the device of the buffers of `bind`.
        return TorchNetwork(self.spec, self._module if device == "cpu" else copy.deepcopy(self._module).to(device))


class TorchNetwork:
    """A module as a function of torch tensors with the inputs of the spec."""

    def __init__(self, spec: ComponentSpec, module: Any) -> None:
        self.spec, self.dtype = spec, sample_dtype(spec)
        self._module = module

    def __call__(self, sample: Any, timestep: Any, **conditions: Any) -> Any:
        value = self._module(*arrange(self.spec, sample, timestep, conditions).values())
        return value[0] if isinstance(value, tuple) else value


def _rebuild(source: EngineSource, weights: Weights) -> Any:
    import safetensors.torch

    from aigc_edge.models.base import FAMILIES

    data = source.files.read(weights.file)
    try:
        state = safetensors.torch.load(data)
        family = FAMILIES[source.family].from_config(dict(weights.model))
        module = next(c.module for c in family.components() if c.spec.name == source.spec.name)
        module.load_state_dict(state)
    except StopIteration:
        message = f"the family {source.family!r} has no component {source.spec.name!r}: compile the bundle again"
        raise BundleError(message) from None
    except (safetensors.SafetensorError, RuntimeError, TypeError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise BundleError(f"{weights.file} of {source.bundle} does not fit the model in its manifest: {reason}") from error
    return module.eval().requires_grad_(False)
