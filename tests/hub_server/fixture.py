"""The pytest fixture `loopback_hub`: a running Hub of one test, with two users who are strangers to each other."""

import pytest
from hub_server.repositories import User
from hub_server.server import serve

OWNER, READER, STRANGER = "hf_loopbackOwner", "hf_loopbackReader", "hf_loopbackStranger"  # tokens; of no real Hub


@pytest.fixture
def loopback_hub():
    users = {
        OWNER: User("owner", organisations=("team",)),
        READER: User("owner", may_write=False),
        STRANGER: User("stranger"),
    }
    hub, stop = serve(users)
    yield hub
    stop()
