# Hashes of arrays, strings, regular expressions, sorts.
use strict;
use warnings;

my ($total, %kept) = (0);
for my $round (0 .. $ARGV[0] - 1) {
    my %by_item;
    for my $n (0 .. 3999) {
        my $number = $n + $round;
        my %order = (number => $number, customer => "customer " . $n % 101, note => "x" x ($number % 700));
        push @{ $by_item{ "item-" . ($number * 7 + $_) % 997 } }, { %order, count => $_ } for 1 .. $number % 9;
    }
    $kept{ $round % 3 } = \%by_item;
    my $text = join " ", map { "$_=" . scalar @{ $by_item{$_} } } sort keys %by_item;
    $text =~ s/item-(\d+)/entry<$1>/g;
    $total += length for split /-|</, $text;
}
print "$total\n";
