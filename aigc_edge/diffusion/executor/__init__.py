"""The executor of rows around any network, on NumPy arrays or torch tensors."""
