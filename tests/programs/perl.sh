#!/usr/bin/env bash
# perl: hashes, strings, regular expressions, sort, fork.
source "${BASH_SOURCE%/*}/common.sh"

cat >words.pl <<'END'
use strict; use warnings;
my (%count, @order); my $x = 42;
for my $i (1 .. 60000) {
    $x = ($x * 1103515245 + 12345) % 2147483648;
    my $word = "w" . ($x % 5000); push @order, $word unless $count{$word}++;
}
my $text = join ",", map { "$_=$count{$_}" } sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count;
my $matches = () = $text =~ /w(\d+)=1\d\b/g;
my @copies = map { $text x 3 } 1 .. 20; my $length = 0; $length += length for @copies; undef @copies;
my $pid = open(my $child, "-|") // die; if (!$pid) { print scalar reverse substr($text, 0, 40); exit }
my $line = <$child>; close $child or die;
my %deep; $deep{$_ % 10}{$_ % 100}{$_} = [$_, "v$_"] for 1 .. 20000; my $sum = 0;
for my $a (values %deep) { for my $b (values %$a) { $sum += $_->[0] for values %$b } }
print scalar(@order), " $matches $length $line $sum\n";
END
perl words.pl >plain.out
on_arenite env PERL_HASH_SEED=0 perl words.pl >arenite.out
[ -s plain.out ] || fail "nothing printed"
cmp plain.out arenite.out || fail "perl prints something else"
expect_blocks 20000
