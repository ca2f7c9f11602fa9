"""Load is sent in the format that a pipeline reads, and its outcomes are read in the same."""

import pytest

from loadgen.arrivals import arrivals
from loadgen.bus import FETCH_WAIT_MS, embedded_bus
from loadgen.run import Load, Target
from loadgen.sources import simulated_fraud
from schemas.codec import Codec
from schemas.form import Format
from schemas.schema import load_schema
from tests.pipeline.test_loadgen_bus import TOPICS, WORLD, StandIn, read_all, scoring


@pytest.mark.parametrize("form", ["json", "protobuf"])
def test_a_run_in_another_format_leaves_nothing_unaccounted(form: Format) -> None:
    schema = load_schema("transaction")
    with embedded_bus(TOPICS) as bus:
        stand_in = StandIn(bus, "transactions", "fraud")
        stand_in._decode = Codec(schema, "raw", format=form)
        stand_in._score = Codec(load_schema("score"), "raw", format=form)
        source = simulated_fraud(arrivals("constant", 2000), world=WORLD, labels=False)
        target = Target(bootstrap=bus, format=form, wire="raw", fetch_wait_ms=FETCH_WAIT_MS)
        load = Load(target, [source], max_events=500)

        with scoring(stand_in):
            load.start()
            found = load.finish(20.0)
        values = [message.value() for message in read_all(bus, "transactions", TOPICS["transactions"], 500)]

    assert (found["unaccounted"], found["streams"]["fraud"]["scores"]) == (0, 500)
    assert Codec(schema, "raw", format=form).decode(values).table.num_rows == 500
