"""The straight line from a Kafka record to a score."""
