"""What a bundle can be compared with, one module each; found by a scan."""
