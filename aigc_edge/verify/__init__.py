"""Compares a bundle, step by step, with another implementation around the same network (`aigc-edge verify`)."""

from aigc_edge.verify.base import PEERS, Verification
from aigc_edge.verify.run import verify

__all__ = ["PEERS", "Verification", "verify"]
