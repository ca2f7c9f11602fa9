"""Faults against running workers, and the proof that no outcome was lost, doubled or changed by them."""
