"""Step by step, does a bundle compute what another implementation does with the same network? `aigc-edge verify`."""

from aigc_edge.verify.run import verify
from aigc_edge.verify.trace import PEERS
from aigc_edge.verify.verification import Verification

__all__ = ["PEERS", "Verification", "verify"]
