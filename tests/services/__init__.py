"""Real Kafka and Redis for the tests, found or started, and never left running."""

from __future__ import annotations

from tests.services.apicurio import start_registry
from tests.services.found import Services, kafka_address, real_services, redis_address
from tests.services.kafka_broker import start_broker
from tests.services.kafka_cluster import Cluster, start_cluster
from tests.services.processes import Service, Unavailable
from tests.services.redis_server import start_redis

__all__ = [
    "Cluster",
    "Service",
    "Services",
    "Unavailable",
    "kafka_address",
    "real_services",
    "redis_address",
    "start_broker",
    "start_cluster",
    "start_redis",
    "start_registry",
]
