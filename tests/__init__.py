"""The promises of Penstock, as tests."""
