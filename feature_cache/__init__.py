"""What is known about each entity: packed rows, window aggregates, durable stores."""
