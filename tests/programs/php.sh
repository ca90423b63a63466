#!/usr/bin/env bash
# php: objects, arrays, sorting, JSON, regular expressions; with its own allocator, and on malloc throughout.
# Debian's opens its extensions with RTLD_DEEPBIND.
source "${BASH_SOURCE%/*}/common.sh"

cat >words.php <<'END'
<?php
extension_loaded('pdo') or exit("no extension\n");
$all = [];
$x = 42;
for ($i = 0; $i < 40000; $i++) {
    $x = ($x * 1103515245 + 12345) % 2147483648;
    $word = new stdClass;
    $word->name = 'w' . md5((string)($x % 5000));
    $word->places = [$i, "p$i", [$x => $i]];
    $all[$word->name][] = $word;
}
ksort($all);
$json = json_encode($all);
$back = json_decode($json, true);
$matches = preg_match_all('/"p(\d)\1+"/', $json);
$upper = array_map(fn ($list) => strtoupper($list[0]['name']), array_reverse($back));
unset($all);
echo count($back), ' ', strlen($json), ' ', $matches, ' ', md5(implode(',', $upper)), "\n";
END
php words.php >plain.out
[ "$(wc -w <plain.out)" = 4 ] || fail "php does not do it without Arenite: $(head -c 500 plain.out)"
on_arenite php words.php >arenite.out
cmp plain.out arenite.out || fail "php prints something else"
on_arenite env USE_ZEND_ALLOC=0 php words.php >arenite.out
cmp plain.out arenite.out || fail "php on malloc prints something else"
expect_blocks 100000
