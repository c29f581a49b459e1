"""The second client of tests/mongodb.rs: what must be in the database, by a parser of its own, and what is.

    mongo.py COMMAND SERVER FILE     COMMAND is a function below; FILE has its argument, JSON; prints its answer, JSON
    mongo.py mongos LISTEN SERVER    stands before a server and says that it is a cluster's mongos; it refuses messages with
                                     `refuse_message` in them
    mongo.py lines KIND SEED COUNT IN OUT    makes lines of a log

Nothing here comes from the program under test: lines are taken apart by regular expressions, parameters by urllib.
"""
import calendar, collections, ipaddress, json, random, re, socket, sys, threading, time
from urllib.parse import quote, unquote_to_bytes

import bson
import pymongo

# ---- what must be there ----

ORIGINAL = re.compile(rb'^(?P<host>\S+) (?P<ip>\S+) (?P<rest>\S+ \S+ \[.*)$', re.S)
REST = re.compile(rb'^\S+ .+? \[(\d\d)/(\w{3})/(\d{4}):(\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)\] "((?:[^"\\]|\\.)*)"(?: |$)', re.S)
MONTHS = b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
ESCAPES = {b'"': b'"', b"\\": b"\\", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"v": b"\v", b"f": b"\f"}


def unescaped(text):
    """Without what a web server escapes in what it logs."""
    def one(m):
        return ESCAPES[m.group(1)] if m.group(1) else bytes([int(m.group(2), 16)])
    return re.sub(rb'\\(?:(["\\nrtbvf])|x([0-9a-fA-F]{2}))', one, text)


def text(encoded):
    return unquote_to_bytes(encoded.replace(b"+", b" ")).decode("utf-8", "replace")


def field(name):
    """A name that the database can hold: `%` and what it cannot hold as %HH."""
    if name == "_id":
        return "%5Fid"
    name = name.replace("%", "%25").replace(".", "%2E").replace("\0", "%00")
    return "%24" + name[1:] if name.startswith("$") else name


def document(line, of):
    """The document of a line, without `_id`; None = it has no transaction id; "bad" = it is no line of a request."""
    if of["layout"] == "original":
        m = ORIGINAL.match(line)
        if not m:
            return "bad"
        host, ip, rest = m["host"], m["ip"], m["rest"]
    else:
        host, (ip, _, rest) = of["name"].encode(), line.partition(b" ")
    m = REST.match(rest)
    if not m:
        return "bad"
    day, month, year, hour, minute, second, sign, zh, zm, request = m.groups()
    if month not in MONTHS:
        return "bad"
    month = 1 + MONTHS.index(month)
    local = calendar.timegm((int(year), month, int(day), int(hour), int(minute), int(second)))
    zone = int(zh) * 3600 + int(zm) * 60
    words = unescaped(request).split(b" ")
    if len(words) > 1 and words[-1].startswith(b"HTTP/"):
        words.pop()
    url = b" ".join(words[1:]) if len(words) > 1 else words[0]
    query = url.partition(b"?")[2]
    key = of.get("transaction_id_key", "transaction_id")
    values = {}
    for pair in query.split(b"&"):
        name, _, value = pair.partition(b"=")
        if name:
            # The first of several.
            values.setdefault(text(name), text(value))
    if not values.get(key) and of.get("filter", True):
        return None
    try:
        address = ipaddress.ip_address(ip.decode())
        values["ipinlong"] = int(address) if address.version == 4 else str(int(address))
    except ValueError:
        values.pop("ipinlong", None)
    values["time"] = local - zone if sign == b"+" else local + zone
    values["day"] = int(year) * 10000 + month * 100 + int(day)
    values["hour"] = int(hour)
    before = host.decode("utf-8", "replace").split(".")[0] + "_" if of.get("prefix", "host") == "host" else ""
    return {name if name == key else field(before + name): value for name, value in values.items()}


def wanted(of):
    """The documents of a file's lines, in their order, and how many lines have none."""
    documents, counts = [], collections.Counter()
    with open(of["path"], "rb") as f:
        for line in f.read().split(b"\n")[:-1]:
            counts["lines"] += 1
            found = document(line, of)
            if found is None or found == "bad":
                counts["rejected" if found else "skipped"] += 1
            else:
                documents.append(found)
    return documents, counts


def exact(value):
    """Text that is equal only for values of the same type."""
    return json.dumps({k: [type(v).__name__.replace("Int64", "int"), v] for k, v in value.items()}, sort_keys=True)


def compare(client, spec):
    """Compares a database's documents with the lines of files: once each, field by field."""
    want, counts = collections.Counter(), collections.Counter()
    merged = {}
    for of in spec["files"]:
        documents, n = wanted(of)
        counts.update(n)
        key = of.get("transaction_id_key", "transaction_id")
        for d in documents:
            if d.get(key) in spec.get("refused", []):
                counts["refused"] += 1
            elif spec["upsert"] and d.get(key):
                merged.setdefault((of["db"], d[key]), {}).update(d)
            else:
                want[of["db"], exact(d)] += 1
    for (db, _), d in merged.items():
        want[db, exact(d)] += 1
    have = collections.Counter()
    for db in sorted({of["db"] for of in spec["files"]}):
        for d in client[db][spec["collection"]].find():
            d.pop("_id")
            have[db, exact(d)] += 1
    wrong = {"missing": list((want - have).elements()), "extra": list((have - want).elements())}
    return {"documents": sum(want.values()), "found": sum(have.values()), **counts,
            **{k: len(v) for k, v in wrong.items()}, "examples": {k: v[:3] for k, v in wrong.items()}}


# ---- simple questions ----

def count(client, a):
    return client[a["db"]][a["collection"]].count_documents(a.get("filter", {}))


def find(client, a):
    return [json.loads(json.dumps(d, default=str)) for d in client[a["db"]][a["collection"]].find(a.get("filter", {})).sort("_id", 1)]


def delete(client, a):
    which = client[a["db"]][a["collection"]]
    return which.delete_one(a["filter"]).deleted_count


def insert(client, a):
    client[a["db"]][a["collection"]].insert_one(a["document"])
    return 1


def drop(client, a):
    client[a["db"]][a["collection"]].drop()
    return 1


def validate(client, a):
    """Makes a collection that refuses the documents that its validator does not like."""
    client[a["db"]].create_collection(a["collection"], validator=a["validator"])
    return 1


def unique(client, a):
    client[a["db"]][a["collection"]].create_index(a["field"], unique=True)
    return 1


def indexes(client, a):
    return sorted([k for k, _ in i["key"].items()] for i in client[a["db"]][a["collection"]].list_indexes())


def databases(client, _):
    return sorted(n for n in client.list_database_names() if n not in ("admin", "config", "local"))


# ---- a mongos, for a client ----

def mongos(listen, server):
    def whole(stream):
        head = b""
        while len(head) < 16:
            part = stream.recv(16 - len(head))
            if not part:
                raise OSError("closed")
            head += part
        body = b""
        length = int.from_bytes(head[:4], "little") - 16
        while len(body) < length:
            part = stream.recv(length - len(body))
            if not part:
                raise OSError("closed")
            body += part
        return head, body

    def changed(head, body):
        operation = int.from_bytes(head[12:16], "little")
        # The document of an OP_REPLY stands behind 20 bytes; of an OP_MSG behind its flags and a kind.
        at = {1: 20, 2013: 5}.get(operation)
        if at is None or b"maxWireVersion" not in body:
            return head + body
        d = bson.decode(body[at:])
        for name in ("setName", "setVersion", "hosts", "passives", "arbiters", "secondary", "primary", "me", "electionId",
                     "lastWrite", "topologyVersion"):
            d.pop(name, None)
        d["msg"] = "isdbgrid"
        body = body[:at] + bson.encode(d)
        return (16 + len(body)).to_bytes(4, "little") + head[4:] + body

    def too_large(head):
        """What a server says to a message that has one document it does not like."""
        d = {"ok": 0.0, "errmsg": "object to insert too large", "code": 10334, "codeName": "BSONObjectTooLarge"}
        body = bytes(5) + bson.encode(d)
        return (16 + len(body)).to_bytes(4, "little") + bytes(4) + head[4:8] + (2013).to_bytes(4, "little") + body

    def answers(a, b):
        try:
            while True:
                a.sendall(changed(*whole(b)))
        except OSError:
            pass
        over(a, b)

    def over(*both):
        for s in both:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def serve(a):
        with a:
            try:
                b = socket.create_connection(server)
            except OSError:
                return
            with b:
                back = threading.Thread(target=answers, args=(a, b), daemon=True)
                back.start()
                try:
                    while True:
                        head, body = whole(a)
                        if b"refuse_message" in body:
                            a.sendall(too_large(head))
                        else:
                            b.sendall(head + body)
                except OSError:
                    pass
                over(a, b)
                back.join()

    listener = socket.create_server(listen)
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()


# ---- lines ----

def with_ids(line, rng, first, number):
    """A line of a real log with a transaction id in its query."""
    before, quote_mark, rest = line.partition(b'"')
    method, _, rest = rest.partition(b" ")
    url, space, rest = rest.partition(b" ")
    # Some ids come again, near and far, but in no other sender's part: between senders there is no order.
    id = b"t%d" % (number if rng.random() < 0.6 else rng.randrange(first, number + 1))
    url += (b"&" if b"?" in url else b"?") + b"transaction_id=%s&n=%d" % (id, number)
    return before + quote_mark + method + b" " + url + space + rest


NAMES = ["a", "b", "q", "a.b", "$set", "$", "a.$.b", "", "per%cent", "x y", "übung", "日志", "time", "day", "_id", "a[]", "nul\0", "..", "A", "n" * 60]
VALUES = ["", "1", "a b", "+", "&=?", "\"quoted\"", "\\", "über 日志 \U0001f600", "\0", "\t\n", "x" * 300, "%41", "null", "0.5"]


def made_up(rng, first, number):
    """A line in the original's layout; most of them have an id, one of a hundred is no line of a request."""
    host = rng.choice(["www.example.com", "img.example.com", "m.example.com", "localhost", "a-b.c.d"])
    ip = f"{rng.randrange(1, 256)}.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(256)}"
    pairs = [f"n={number}"]
    for _ in range(rng.randrange(5)):
        name, value = rng.choice(NAMES), rng.choice(VALUES)
        pairs.append(quote(name, safe="$[]") + ("" if rng.random() < 0.1 else "=" + quote(value, safe="")))
    if rng.random() < 0.1:
        pairs.append(rng.choice(["bad=%E4%zz%", "raw=%ff%fe", "&", "=", "c=a+b", "semi=a;b=c"]))
    if rng.random() < 0.9:
        id = number if rng.random() < 0.6 else rng.randrange(first, number + 1)
        pairs.append(f"transaction_id=t{id}")
    rng.shuffle(pairs)
    if rng.random() < 0.01:
        return rng.choice(["", "no line of a request", f"{host} {ip} - - [today] \"GET /?{'&'.join(pairs)} HTTP/1.1\" 200 1"]).encode()
    zone = rng.choice(["+0000", "+0000", "+0800", "-0330"])
    month = rng.choice(MONTHS).decode()
    when = f"{rng.randrange(1, 29):02}/{month}/{rng.randrange(2015, 2027)}:{rng.randrange(24):02}:{rng.randrange(60):02}:{rng.randrange(60):02}"
    path = "/" + quote("".join(rng.choice("abc/é.") for _ in range(rng.randrange(9))))
    return f'{host} {ip} - - [{when} {zone}] "GET {path}?{"&".join(pairs)} HTTP/1.1" 200 {number} "-" "agent {number}"'.encode()


def lines(kind, seed, count, source, out):
    """`ids`: a real log with ids; `plain`: as it is; `original`: made up, with running numbers from `count`'s first on."""
    rng = random.Random(seed)
    first, _, n = count.partition("+")
    first, n = int(first), int(n or 0)
    if kind == "original":
        made = [made_up(rng, first, i) for i in range(first, first + n)]
    else:
        with open(source, "rb") as f:
            real = f.read().split(b"\n")[:-1]
        real = real[first:first + n] if n else real
        made = real if kind == "plain" else [with_ids(l, rng, first, i) for i, l in enumerate(real, first)]
    with open(out, "wb") as f:
        f.write(b"".join(l + b"\n" for l in made))
    print(json.dumps({"lines": len(made)}))


def address(text):
    host, _, port = text.rpartition(":")
    return host, int(port)


def main():
    command, *arguments = sys.argv[1:]
    if command == "mongos":
        return mongos(*map(address, arguments))
    if command == "lines":
        return lines(*arguments)
    server, file = arguments
    with open(file) as f:
        argument = json.load(f)
    # It may have just been started.
    client = pymongo.MongoClient(f"mongodb://{server}/?directConnection=true", serverSelectionTimeoutMS=30000)
    known = {f.__name__: f for f in (compare, count, find, delete, drop, insert, validate, unique, indexes, databases)}
    print(json.dumps(known[command](client, argument)))
    client.close()


main()
