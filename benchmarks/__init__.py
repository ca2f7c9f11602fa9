"""Runs that give the figures Penstock is judged by; results are committed as JSON with the machine named."""
