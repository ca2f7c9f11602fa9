"""Avro schemas, and the codec between record bytes and columns."""
