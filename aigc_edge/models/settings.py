"""Training settings shared by all families; a family's dataclass extends them and sets its defaults."""

from __future__ import annotations

from dataclasses import dataclass

from aigc_edge.config import option


@dataclass(frozen=True)
class TrainSettings:
    """How a family is trained. One step sees `batch` images."""

    steps: int = option(1200, "optimiser steps", low=1)
    batch: int = option(128, "images per step", low=1)
    seed: int = option(0, "seed of weights, split, order, noise and augmentation", low=0, high=2**63 - 1)
    lr: float = option(4e-3, "peak learning rate of Adam", above=0)
    lr_floor: float = option(0.02, "learning rate at the end, as a share of the peak (cosine decay; 1 = constant)", low=0, high=1)
    warmup: int = option(100, "steps of linear learning-rate warm-up", low=0)
    beta1: float = option(0.9, "Adam's first decay", low=0, high=0.9999)
    beta2: float = option(0.99, "Adam's second decay", low=0, high=0.9999)
    weight_decay: float = option(0.0, "decoupled weight decay", low=0)
    clip: float = option(1.0, "largest gradient norm of a network; larger gradients are scaled down", above=0)
    ema: float = option(20_000.0, "half-life of the averaged weights, in images", above=0)
    ema_rampup: float = option(0.1, "the half-life is at most this share of the images seen", above=0)
    validation: float = option(0.1, "share of each class that is held out for the validation loss", above=0, high=0.5)
    flip: bool = option(False, "mirror images at random (not for digits or text)")
    shift: float = option(0.0, "random shift, up to this share of the size", low=0, high=0.5)
    rotate: float = option(0.0, "random rotation, up to this many degrees", low=0, high=180)
    zoom: float = option(0.0, "random zoom, up to this share in or out", low=0, high=0.5)
    precision: str = option("auto", "auto uses bfloat16 on CUDA, otherwise float32", choices=("auto", "float32", "bfloat16"))
    device: str = option("auto", "auto uses CUDA if available", choices=("auto", "cpu", "cuda"))
    log_every: int = option(20, "steps between TensorBoard values", low=1)
    check_every: int = option(400, "steps between checkpoints with validation loss and a sample grid", low=1)
