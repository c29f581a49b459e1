#!/usr/bin/env python3
"""Makes the frames beside this file, from the description of the wire format alone.

They are committed; run it only to add one. What each must decode to stands in tests/properties/wire.rs.
"""
import hashlib
import json
import os
import zlib

os.chdir(os.path.dirname(os.path.abspath(__file__)))


def sha(raw):
    return hashlib.sha256(raw).hexdigest()


def sealed(name, hour, gen, id, raw, lines, **more):
    entry = {"ip": name, "hour": hour, "id": str(id), "lines": str(lines), "v": "1", "bytes": str(len(raw)),
             "crc32": "%08x" % zlib.crc32(raw), "sha256": sha(raw), "stage": "make pack",
             "st": "2026-11-22 05:10:00.001", "ed": "2026-11-22 05:10:00.002", "elapse": "1ms", **more}
    if gen:
        entry["gen"] = str(gen)
    return entry, ("%s|%s|%s|%s" % (name, hour, gen, id)).encode()


def frame(header, body):
    n, length = len(header), b""
    while n >= 128:
        length += bytes([n & 127 | 128])
        n >>= 7
    length += bytes([n])
    return length.ljust(4, b"\0") + header + body


def write(file, route, body):
    header = json.dumps({"Route": route, "PackLen": len(body)}, ensure_ascii=False, separators=(",", ":")).encode()
    open(file, "wb").write(frame(header, body))


# The first pack of an hour, two-byte and three-byte characters in it.
one = "GET /café 200\nGET /日志 404\n\n".encode()
entry, tag = sealed("web1", "2026112205", 0, 1, one, 3)
write("first.bin", [entry], zlib.compress(one) + tag)

# Its last pack, with the totals of both; the hour does not end with a newline.
two = b"GET / 200\nGET /cut"
totals = dict(done="1", total_lines="5", total_bytes=str(len(one + two)), day_hours="24",
              total_sha256=sha(hashlib.sha256(one).digest() + hashlib.sha256(two).digest()))
entry, tag = sealed("web1", "2026112205", 0, 2, two, 2, **totals)
write("last.bin", [entry], zlib.compress(two, 9) + tag)

# An hour without a line: the zlib stream of nothing, and `repull` as the original needs it.
totals = dict(done="1", repull="1", total_lines="0", total_bytes="0", total_sha256=sha(hashlib.sha256(b"").digest()))
entry, tag = sealed("10.0.0.7", "2026112206", 0, 1, b"", 0, **totals)
write("empty.bin", [entry], zlib.compress(b"") + tag)

# A later copy of a daily file of a stream, closed with a reason why it is no proof.
raw = b"a\nb\n"
totals = dict(done="1", total_lines="2", total_bytes="4", total_sha256=sha(hashlib.sha256(raw).digest()),
              state="partial,loss", loss="4-17,30-31")
entry, tag = sealed("web1+access", "20261122", 1795327200, 1, raw, 2, **totals)
write("copy.bin", [entry], zlib.compress(raw) + tag)

# A pack of an original sender with a name, passed on by a relay of ours.
raw = b"line 1\nline 2\n"
route = [{"ed": "2026-11-22 07:54:28.821", "elapse": "12µs", "hour": "2026112207", "id": "9", "ip": "10.0.0.8",
          "lines": "2", "st": "2026-11-22 07:54:28.820", "stage": "make pack"},
         {"ip": "relay1", "stage": "tcp recv", "st": "2026-11-22 07:54:29.000", "ed": "2026-11-22 07:54:29.001",
          "elapse": "1ms", "v": "1"}]
write("relayed.bin", route, zlib.compress(raw))

# JSON as others write it: blanks, escapes, another order, keys that nobody knows. The zlib stream has several
# blocks, an empty one among them, and one that is stored as it is.
raw = b"x\n" * 5000
z = zlib.compressobj(6)
body = z.compress(raw[:4000]) + z.flush(zlib.Z_SYNC_FLUSH) + z.flush(zlib.Z_FULL_FLUSH)
body += z.compress(raw[4000:]) + z.flush()
entry, tag = sealed("web1", "2026112208", 0, 1000000000, raw, 5000)
entry["from a later version"] = "\u00e9 \" \\ / \u2028 \U0001f600"
text = json.dumps({"PackLen": len(body + tag), "Later": [1, {"a": None}], "Route": [entry]}, indent=1)
open("odd.bin", "wb").write(frame(text.replace("2026112208", "\\u0032026112208").encode(), body + tag))

# The longest header that we may send: 1,200 bytes with its length, most of them the way through relays.
raw = b"z\n"
entry, tag = sealed("w" * 64, "2026112209", 1795327200, 123456789, raw, 1)
body = zlib.compress(raw, 0) + tag
hop = {"ip": "r", "stage": "tcp recv", "v": "1"}
route = [entry] + [dict(hop) for _ in range(14)]
size = len(json.dumps({"Route": route, "PackLen": len(body)}, separators=(",", ":"))) + 4
route[1]["ip"] = "r" * (1 + 1200 - size)
write("longest.bin", route, body)
assert len(open("longest.bin", "rb").read()) == 1200 + len(body)
