#!/usr/bin/env bash
# node: buffers outside the heap of V8, worker threads, compression, a child.
source "${BASH_SOURCE%/*}/common.sh"

cat >work.js <<'END'
const { Worker, isMainThread, parentPort, workerData } = require("worker_threads");
const zlib = require("zlib"), crypto = require("crypto"), { execFileSync } = require("child_process");
const work = (seed) => {
  let sum = 0;
  for (let i = 0; i < 300; i++) {
    const data = Buffer.alloc((seed * 977 + i * 131) % 40000 + 1, "text " + i);
    const packed = zlib.deflateSync(data, { level: 6 });
    if (!zlib.inflateSync(packed).equals(data)) throw new Error("not the same");
    sum = (sum + packed.length * (i + 1)) % 1000000007;
  }
  return sum;
};
if (!isMainThread) parentPort.postMessage(work(workerData));
else Promise.all([1, 2, 3, 4].map((n) => new Promise((done, failed) => {
  const worker = new Worker(__filename, { workerData: n });
  worker.on("message", done); worker.on("error", failed);
}))).then((sums) => {
  const map = new Map(); for (let i = 0; i < 50000; i++) map.set("k" + i, { i, s: "v".repeat(i % 50) });
  const digest = crypto.createHash("sha1").update(JSON.stringify([...map])).digest("hex");
  const child = execFileSync(process.execPath, ["-p", "6 * 7"]).toString().trim();
  console.log(sums.join(" "), digest, child);
});
END
node work.js >plain.out
on_arenite node work.js >arenite.out
[ -s plain.out ] || fail "nothing printed"
cmp plain.out arenite.out || fail "node prints something else"
expect_blocks 5000
