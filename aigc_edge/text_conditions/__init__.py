"""Prompts and conditions: what a network takes beside the sample and the time, from text or from the caller."""
