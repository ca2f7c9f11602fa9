"""Inputs from outside, damaged at random: nothing of them may crash, hang or fill a worker."""
