"""Model families: what can be trained, exported and compiled; one file each."""
