"""Compares a bundle, step by step, with another implementation around the same network (`aigc-edge verify`)."""

from aigc_edge.verify.base import PEERS
from aigc_edge.verify.run import verify
from aigc_edge.verify.verification import Verification

__all__ = ["PEERS", "Verification", "verify"]
