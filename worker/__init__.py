"""The straight line from a Kafka record to a score."""

__version__ = "0.2.0.dev0"  # the only place; docs/releasing.md says what each part means
