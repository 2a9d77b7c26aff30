"""Speed, memory and quality of a bundle, measured in one interleaved run with peers that sample the same network."""
