"""A TensorRT plan as a function of torch tensors: evaluated on torch's current stream, in torch's memory."""

from __future__ import annotations

from typing import Any

from aigc_edge.bundle.spec import ComponentSpec
from aigc_edge.engines.base import arrange, sample_dtype, shape_of
from aigc_edge.engines.plans.module import accepted
from aigc_edge.errors import AigcEdgeError, EngineUnavailable


class TensorRTNetwork:
    """One execution context and output buffer per batch size, so that one CUDA graph may contain evaluations of several sizes.

    After a first run with its shapes a context only enqueues kernels, as graph capture requires (a new shape updates the context
    during the next run). Batches larger than the profile's maximum run in several evaluations.
    """

    def __init__(self, spec: ComponentSpec, engine: Any, largest: int, device: str) -> None:
        import torch

        torch_device = torch.device(device)
        if torch_device.type != "cuda" or (torch_device.index or 0) != 0:
            raise EngineUnavailable(f"a TensorRT plan runs on the first GPU, not on {device!r}: choose the device 'cuda'")
        if not torch.cuda.is_available():
            raise EngineUnavailable(
                "torch has no CUDA here, which GPU tensors need: pass NumPy arrays, or install torch with CUDA"
            )
        self.spec, self.dtype = spec, sample_dtype(spec)
        self._engine, self._largest, self._torch = engine, largest, torch
        self._contexts: dict[int, Any] = {}
        self._outputs: dict[int, Any] = {}
        self._uncapturable: set[int] = set()  # batch sizes whose context cannot be captured

    def uncapturable(self, batch: int) -> str | None:
        """Why a batch cannot be part of a CUDA graph; None when it can."""
        if batch <= self._largest:
            return None
        return f"a batch of {batch} exceeds {self._largest}, the maximum of the plan's profile, and runs in several evaluations"

    def __call__(self, sample: Any, timestep: Any, **conditions: Any) -> Any:
        torch, (output,) = self._torch, self.spec.outputs
        arguments = arrange(self.spec, sample, timestep, conditions)
        inputs = {t.name: arguments[t.name].to(getattr(torch, t.dtype)).contiguous() for t in self.spec.inputs}
        batch = len(sample)
        if batch not in self._outputs:
            self._outputs[batch] = sample.new_empty(shape_of(output, batch), dtype=getattr(torch, output.dtype))
        result = self._outputs[batch]
        for first in range(0, batch, self._largest):
            part = slice(first, first + self._largest)
            self._evaluate({name: value[part] for name, value in inputs.items()}, {output.name: result[part]})
        return result

    def _evaluate(self, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
        batch, stream = len(next(iter(inputs.values()))), self._torch.cuda.current_stream().cuda_stream
        context: Any = self._contexts.get(batch)
        fresh = context is None
        if fresh:
            context = self._engine.create_execution_context()
            if context is None:
                raise EngineUnavailable(f"no memory left on the GPU to run {self.spec.name!r}: free some, or use a smaller batch")
            for name, value in inputs.items():
                accepted(context.set_input_shape(name, tuple(value.shape)), f"the shape of {name!r}")
            self._contexts[batch] = context
        elif batch in self._uncapturable and self._torch.cuda.is_current_stream_capturing():
            raise AigcEdgeError(
                "this plan manages memory of its own while it runs and cannot be captured: build it with caller-managed memory"
            )
        for name, value in {**inputs, **outputs}.items():
            accepted(context.set_tensor_address(name, value.data_ptr()), f"the address of {name!r}")
        accepted(context.execute_async_v3(stream), "the evaluation")
        if fresh and hasattr(context, "is_stream_capturable") and not context.is_stream_capturable(stream):
            self._uncapturable.add(batch)
