"""Scripts that train the models under models/; not needed to run or to test Penstock."""
