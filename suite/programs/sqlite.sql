-- After a table "size" with the number of rows: inserts, an index, joins, updates, deletes, text functions.
PRAGMA temp_store = memory;
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, weight INTEGER, note TEXT);
INSERT INTO item
    WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < (SELECT value FROM size))
    SELECT i, 'item-' || (i * 7919 % 100003), i * 31 % 1009, substr(hex(zeroblob(i % 150)), 1, i % 300) FROM n;
CREATE INDEX item_name ON item (name);
CREATE INDEX item_weight ON item (weight, id);
SELECT count(*), sum(length(note)) FROM item;
SELECT count(*) FROM item a JOIN item b ON a.name = b.name WHERE a.weight < 300;
SELECT sum(length(names)) FROM (SELECT group_concat(name, ',') names FROM item GROUP BY weight);
UPDATE item SET note = upper(name) || note WHERE weight % 3 = 0;
DELETE FROM item WHERE weight % 5 = 1;
SELECT count(DISTINCT substr(name, 6, 3)), sum(length(note)) FROM item;
SELECT sum(length(json_group)) FROM (SELECT json_group_array(json_object('n', name, 'w', weight)) json_group FROM item GROUP BY id % 100);
