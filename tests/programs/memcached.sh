#!/usr/bin/env bash
# memcached with four threads under load from several connections.
source "${BASH_SOURCE%/*}/common.sh"

port=$((20000 + RANDOM % 20000))
serve memcached -u root -l 127.0.0.1 -p "$port" -t 4 -m 64

cat >load.py <<'END'
import random, socket, sys, threading, time

port = int(sys.argv[1])
wrong = []
ended = []

def connect():
    for _ in range(100):
        try:
            return socket.create_connection(("127.0.0.1", port))
        except OSError:
            time.sleep(0.1)
    raise SystemExit("memcached does not listen")

def value(key, version):
    rng = random.Random(key * 1000 + version)
    return bytes(rng.randrange(256) for _ in range(rng.choice([8, 100, 700, 3000]))) * 3

def client(number):
    stream = connect().makefile("rwb")
    rng = random.Random(number)
    known = {}
    for _ in range(4000):
        key = number * 1000 + rng.randrange(200)
        if rng.random() < 0.4:
            data = value(key, known.get(key, 0) + 1)
            stream.write(b"set %d 0 0 %d\r\n%s\r\n" % (key, len(data), data))
            stream.flush()
            if stream.readline() != b"STORED\r\n":
                wrong.append(key)
            known[key] = known.get(key, 0) + 1
        else:
            stream.write(b"get %d\r\n" % key)
            stream.flush()
            line = stream.readline()
            got = None
            if line.startswith(b"VALUE"):
                got = stream.read(int(line.split()[3]))
                stream.readline(), stream.readline()
            if got != (value(key, known[key]) if key in known else None):
                wrong.append(key)
    ended.append(number)

threads = [threading.Thread(target=client, args=(n,)) for n in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print("ended:", len(ended), "wrong:", len(wrong))
END
python3 load.py "$port" >load.log
expect load.log "ended: 8 wrong: 0"
kill -TERM "$server"
wait "$server" || fail "the server ended with status $?"
expect_blocks 500
