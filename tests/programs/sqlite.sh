#!/usr/bin/env bash
# sqlite3: tables, indices, joins, a large sort, and a check of the file.
source "${BASH_SOURCE%/*}/common.sh"

cat >work.sql <<'END'
CREATE TABLE a(id INTEGER PRIMARY KEY, k INT, v TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40000)
  INSERT INTO a SELECT i, (i * 7919) % 10007, printf('%.*c', i % 300, 'x') || i FROM n;
CREATE INDEX a_k ON a(k);
CREATE INDEX a_v ON a(v);
CREATE TABLE b AS SELECT k, count(*) AS n, max(v) AS m, group_concat(id) AS ids FROM a GROUP BY k;
DELETE FROM a WHERE id % 3 = 0;
UPDATE a SET v = upper(v) || v WHERE id % 5 = 0;
SELECT count(*), sum(length(v)), sum(k) FROM a;
SELECT count(*), sum(n), sum(length(ids)) FROM b;
SELECT count(*) FROM a JOIN b USING (k) WHERE b.n > 3 AND a.v LIKE '%9%';
SELECT sum(length(v)) FROM (SELECT v FROM a ORDER BY v DESC LIMIT 5000);
SELECT json_group_array(k) FROM (SELECT k FROM b ORDER BY n DESC, k LIMIT 20);
VACUUM;
PRAGMA integrity_check;
END
sqlite3 plain.db <work.sql >plain.out
on_arenite sqlite3 arenite.db <work.sql >arenite.out
[ "$(tail -n 1 plain.out)" = ok ] || fail "no check of the file"
cmp plain.out arenite.out || fail "sqlite3 prints something else"
cmp <(sqlite3 plain.db .dump) <(sqlite3 arenite.db .dump) || fail "another database"
expect_blocks 1000
