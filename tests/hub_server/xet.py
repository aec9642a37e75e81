"""Large files that a client with Xet has put into the Hub's folder, which it takes for the content-addressed store.

The Hub learns which sha256 belongs to which Xet hash from the shards (*.mdb) alone that the client wrote: a header of
48 bytes, then for each file an entry of 48, its segments, as many verifications, and its sha256.
"""

import hashlib
import pathlib
import struct
import tempfile
import time

HEADER = ENTRY = 48
HAS_VERIFICATION, HAS_SHA256 = 0x80000000, 0x40000000


def fetch(hub, sha256):
    """Reads the file into `hub.objects`; False where no client has put it there."""
    if hub.xet_folder is None:
        return False
    known = {}
    for shard in pathlib.Path(hub.xet_folder).rglob("*.mdb"):
        try:
            known.update(entries(shard.read_bytes()))
        except struct.error:  # its client was cut off
            continue
    if sha256 not in known:
        return False
    from hf_xet import XetFileInfo, XetSession

    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "file")
        expiry = int(time.time()) + 999
        place = f"local://{hub.xet_folder}"
        with XetSession().new_file_download_group(place, token="xet", token_expiry_unix_secs=expiry) as group:
            group.start_download_file(XetFileInfo(*known[sha256]), str(file))
        content = file.read_bytes()
    assert hashlib.sha256(content).hexdigest() == sha256
    hub.objects[sha256] = content
    return True


def entries(shard):
    """(sha256, (Xet hash, size)) of each file in a shard."""
    at = HEADER
    while at + ENTRY <= len(shard) and shard[at : at + 32] != b"\xff" * 32:
        file_hash = shard[at : at + 32]
        flags, segments = struct.unpack_from("<II", shard, at + 32)
        at += ENTRY
        size = sum(struct.unpack_from("<I", shard, at + ENTRY * number + 36)[0] for number in range(segments))
        at += ENTRY * segments * (2 if flags & HAS_VERIFICATION else 1)
        if flags & HAS_SHA256:
            yield in_words(shard[at : at + 32]), (in_words(file_hash), size)
            at += ENTRY


def in_words(digest):
    """Xet writes a hash as four little-endian words of 64 bits."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", digest))
