"""Speed, memory and quality of a bundle, measured in one run beside other ways to sample the same network."""
