"""The quixstreams Application both quix peers run in."""
import tempfile

import common as c

VERSION = c.client_version("quixstreams")


def application(**kw):
    from quixstreams import Application
    return Application(
        broker_address=c.BOOTSTRAP, consumer_group=c.GROUP, auto_offset_reset="earliest",
        auto_create_topics=False, processing_guarantee="at-least-once",
        state_dir=tempfile.mkdtemp(prefix="quix-"),
        consumer_extra_config=dict(c.RD_CONSUMER), producer_extra_config=dict(c.RD_PRODUCER),
        loglevel="WARNING", **kw)
