"""The survey of a network: its weights as matrices, its multiply-adds, and the memory of its activations."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Weight:
    """One weight as the matrix [outputs, inputs] of the product that it is used in; `macs` for one sample."""

    name: str
    operator: str  # the ONNX operator: Conv, ConvTranspose, Gemm or Gather
    outputs: int
    inputs: int
    macs: int
    timestep_only: bool = False  # depends on the timestep alone: it moves into the schedule

    @property
    def elements(self) -> int:
        return self.outputs * self.inputs


@dataclass(frozen=True)
class Survey:
    """One component: its weights in order of execution, the elements of all other constants, multiply-adds of one sample that
    multiply activations with each other, the peak of live activations in bytes for one sample (float32), and its operators'
    number, for what a file takes beside its weights."""

    component: str
    weights: tuple[Weight, ...]
    others: int
    products: int
    activations: int
    operators: int

    @property
    def parameters(self) -> int:
        """Elements of all constants."""
        return sum(weight.elements for weight in self.weights) + self.others

    @property
    def macs(self) -> int:
        """Multiply-adds of one evaluation of one sample."""
        return sum(weight.macs for weight in self.weights) + self.products
