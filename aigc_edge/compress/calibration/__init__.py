"""The inputs that a network meets along its trajectory, and what is kept of its activations."""
