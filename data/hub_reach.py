"""Is the Hub there? Asked first, for its libraries try again and again where it is not, for half a minute.

offline_where_no_hub_is()                # before something is fetched; without effect where a proxy is set
"""

import os
import socket
import threading
from contextlib import suppress
from urllib.parse import urlsplit
from urllib.request import getproxies

from yxanul.data.progress import insist

REACHING = 5.0  # seconds, within which the Hub answers or is not there


def offline_where_no_hub_is() -> None:
    """Sets HF_HUB_OFFLINE, also for the libraries that this process has imported already."""
    if "HF_HUB_OFFLINE" in os.environ or getproxies():
        return
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    place, reached = urlsplit(endpoint), threading.Event()

    def reach() -> None:
        with (
            suppress(OSError),
            socket.create_connection(
                (place.hostname, place.port or (80 if place.scheme == "http" else 443)), REACHING
            ),
        ):
            reached.set()

    thread = threading.Thread(target=reach, daemon=True)  # a resolver may take longer
    thread.start()
    thread.join(REACHING)
    if reached.is_set():
        return
    os.environ["HF_HUB_OFFLINE"] = "1"
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True
    insist(f"{endpoint} cannot be reached, so models and data sets must be on this machine.")
