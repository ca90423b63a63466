#!/usr/bin/env bash
# ruby: garbage collection with compaction, threads, fork, large strings.
source "${BASH_SOURCE%/*}/common.sh"

cat >work.rb <<'END'
require "json"; require "digest"
words = Hash.new { |h, k| h[k] = [] }
80_000.times { |i| words["k#{i * 7919 % 4001}"] << "v#{i}" * (i % 9) }
GC.start; GC.compact if GC.respond_to?(:compact)
threads = 6.times.map { |t| Thread.new { (1..4000).map { |i| (i * t).to_s * (i % 20) }.sort.join.size } }
sizes = threads.map(&:value)
json = JSON.generate(words); back = JSON.parse(json)
reader, writer = IO.pipe
pid = fork { reader.close; writer.write(Digest::SHA1.hexdigest(json)); exit!(0) }
writer.close; digest = reader.read; Process.wait(pid)
big = 30.times.map { |i| "x" * (i * 50_000) }; total = big.sum(&:size); big = nil; GC.start
puts [words.size, sizes.inspect, json.size, back == words, digest, total, $?.success?].join(" ")
END
ruby work.rb >plain.out
on_arenite ruby work.rb >arenite.out
[ -s plain.out ] || fail "nothing printed"
cmp plain.out arenite.out || fail "ruby prints something else"
expect_blocks 50000
