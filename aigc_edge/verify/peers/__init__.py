"""Peers that a bundle can be compared with: one module each, found by name in PEERS."""
