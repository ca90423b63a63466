// JSON, objects, buffers. V8 has its own heap; buffers, zlib and parts of the engine use malloc.
const zlib = require("node:zlib");

let total = 0;
const kept = [];
for (let round = 0; round < Number(process.argv[2]); round++) {
  const orders = [];
  for (let n = 0; n < 4000; n++) {
    const lines = [];
    for (let i = 0; i < (n + round) % 9; i++) lines.push({ item: `item-${(n * 7 + i) % 997}`, count: i + 1 });
    orders.push({ number: n + round, lines, note: "x".repeat(n % 300) });
  }
  const text = JSON.stringify(orders);
  for (let at = 0; at < text.length; at += 5000) {
    const buffer = Buffer.from(text.slice(at, at + 5000));
    kept[(at / 5000) % 64] = buffer;
    total += buffer.length;
  }
  total += zlib.inflateSync(zlib.deflateSync(text, { level: 1 })).length + JSON.parse(text).length;
}
console.log(total);
