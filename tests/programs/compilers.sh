#!/usr/bin/env bash
# gcc, g++ and rustc: the object files are the same as those made without Arenite, and what they
# build runs. rustc is Debian's: the one of rustup brings jemalloc.
source "${BASH_SOURCE%/*}/common.sh"

cat >tree.c <<'END'
#include <stdio.h>
#include <stdlib.h>
struct node { struct node *left, *right; int key; };
static struct node *insert(struct node *n, int key) {
    if (!n) { n = calloc(1, sizeof *n); n->key = key; return n; }
    if (key < n->key) n->left = insert(n->left, key); else n->right = insert(n->right, key);
    return n;
}
static long sum(struct node *n, int depth) {
    return n ? sum(n->left, depth + 1) + (long)n->key * depth + sum(n->right, depth + 1) : 0;
}
int main(void) {
    struct node *root = NULL; unsigned x = 1;
    for (int i = 0; i < 20000; i++) { x = x * 1103515245 + 12345; root = insert(root, x >> 8 & 0xfffff); }
    printf("%ld\n", sum(root, 0));
}
END
cat >words.cpp <<'END'
#include <algorithm>
#include <iostream>
#include <map>
#include <regex>
#include <sstream>
#include <string>
#include <vector>
int main() {
    std::map<std::string, std::vector<int>> words;
    std::ostringstream text;
    for (int i = 0; i < 3000; i++) text << "word" << i % 97 << (i % 7 ? " " : ", ");
    std::string s = text.str();
    std::regex word("[a-z]+([0-9]+)");
    int at = 0;
    for (std::sregex_iterator i(s.begin(), s.end(), word), end; i != end; ++i) words[(*i)[1]].push_back(at++);
    long sum = 0;
    for (auto &[key, places] : words) sum += std::stol(key) * (long)places.size() + places.back();
    std::cout << words.size() << ' ' << sum << '\n';
}
END
cat >shapes.rs <<'END'
use std::collections::{BTreeMap, HashMap};
use std::fmt;
#[derive(Debug, Clone, PartialEq)]
enum Shape { Circle(f64), Square(f64), Group(Vec<Shape>) }
impl Shape {
    fn area(&self) -> f64 {
        match self { Shape::Circle(r) => 3.0 * r * r, Shape::Square(a) => a * a, Shape::Group(all) => all.iter().map(Shape::area).sum() }
    }
}
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{:.1}", self.area()) }
}
fn main() {
    let mut groups: HashMap<u32, Vec<Shape>> = HashMap::new();
    for i in 0..500u32 {
        let shape = if i % 2 == 0 { Shape::Circle(f64::from(i)) } else { Shape::Square(f64::from(i)) };
        groups.entry(i % 11).or_default().push(shape);
    }
    let sorted: BTreeMap<_, _> = groups.into_iter().map(|(k, v)| (k, Shape::Group(v))).collect();
    println!("{} {}", sorted.len(), Shape::Group(sorted.into_values().collect()));
}
END

rustc=/usr/bin/rustc
build() { # FOLDER [RUNNER]
    mkdir "$1"
    "${@:2}" gcc -O2 -g -c tree.c -o "$1/tree.o"
    "${@:2}" gcc "$1/tree.o" -o "$1/tree"
    "${@:2}" g++ -O2 -std=c++17 -c words.cpp -o "$1/words.o"
    "${@:2}" g++ "$1/words.o" -o "$1/words"
    "${@:2}" "$rustc" -O -C codegen-units=4 --emit=obj -o "$1/shapes.o" shapes.rs
    "${@:2}" "$rustc" -O -o "$1/shapes" shapes.rs
}
build plain env
build arenite on_arenite
for object in tree.o words.o shapes.o; do
    cmp "plain/$object" "arenite/$object" || fail "$object is another one"
done
expect_blocks 50000
for program in tree words shapes; do
    "plain/$program" >plain.out
    on_arenite "arenite/$program" >arenite.out
    [ -s plain.out ] || fail "$program prints nothing"
    cmp plain.out arenite.out || fail "$program prints something else"
done
expect_blocks 2000
