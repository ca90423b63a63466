"""Writes the generated inputs of the suite into a folder: the same bytes every time.

    inputs.py FOLDER

Each is written twice: NAME, and quick-NAME, which is smaller.
"""
import pathlib
import sys

folder = pathlib.Path(sys.argv[1])


def c_source(functions):
    """Functions with loops, switches and arrays, for gcc."""
    yield "struct record { int key; unsigned values[16]; struct record *next; };"
    for f in range(functions):
        yield f"int function{f}(struct record *r, int n) {{"
        yield "    int sum = 0;"
        yield f"    for (int i = 0; i < n; i++) {{ r->values[i & 15] += i * {f + 3}u; sum ^= r->values[(i + {f}) & 15]; }}"
        yield "    switch (r->key & 15) {"
        for case in range(16):
            yield f"    case {case}: for (int i = {case}; i < n; i += {case + 1}) sum += r->values[i & 15] / (i + {f % 7 + 1}); break;"
        yield "    }"
        callee = f"function{f - 1}(r->next, n - 1)" if f else "n"
        yield f"    return r->next ? sum + {callee} : sum;"
        yield "}"


def cxx_source(types):
    """The standard library's containers and algorithms, instantiated for many types."""
    for header in ("algorithm", "functional", "map", "memory", "numeric", "regex", "string", "tuple", "unordered_map", "vector"):
        yield f"#include <{header}>"
    yield "template <int N> struct key { int value; bool operator<(const key &o) const { return value < o.value + N % 2; } };"
    yield "template <int N> long work(int n) {"
    yield "    std::map<key<N>, std::vector<std::tuple<int, std::string, key<N>>>> map;"
    yield "    for (int i = 0; i < n; i++) map[key<N>{i % 7}].emplace_back(i, std::to_string(i + N), key<N>{i});"
    yield "    std::function<long(long)> f = [&](long x) { return x + (long)map.size() * N; };"
    yield "    long sum = 0;"
    yield "    for (auto &[k, v] : map) {"
    yield "        std::sort(v.begin(), v.end(), [](auto &a, auto &b) { return std::get<2>(a) < std::get<2>(b); });"
    yield "        sum = std::accumulate(v.begin(), v.end(), f(sum), [](long s, auto &t) { return s + (long)std::get<1>(t).size(); });"
    yield "    }"
    yield "    return sum;"
    yield "}"
    yield "long all(int n) { return " + " + ".join(f"work<{t}>(n)" for t in range(types)) + "; }"


def rust_source(types):
    """Generic code, traits, collections and strings, for rustc."""
    yield "use std::collections::{BTreeMap, HashMap};"
    yield "pub trait Shape { fn area(&self) -> f64; fn name(&self) -> String; }"
    for t in range(types):
        yield f"#[derive(Clone, Debug, PartialEq, PartialOrd, Default)] pub struct Shape{t} {{ pub a: f64, pub b: Vec<u{(8, 16, 32, 64)[t % 4]}>, pub c: Option<String> }}"
        yield f"impl Shape for Shape{t} {{"
        yield f"    fn area(&self) -> f64 {{ self.b.iter().map(|&x| x as f64 * self.a).filter(|x| *x > {t}.5).sum::<f64>() + {t}.0 }}"
        yield f"    fn name(&self) -> String {{ format!(\"shape {{}} {{:?}} {{:?}}\", {t}, self.c, self.b.first()) }}"
        yield "}"
        yield f"pub fn group{t}(all: &[Shape{t}]) -> BTreeMap<String, HashMap<usize, Vec<Shape{t}>>> {{"
        yield "    let mut out: BTreeMap<String, HashMap<usize, Vec<_>>> = BTreeMap::new();"
        yield "    for s in all { out.entry(s.name()).or_default().entry(s.b.len()).or_default().push(s.clone()); }"
        yield "    out"
        yield "}"
    yield "pub fn all() -> Vec<Box<dyn Shape>> { vec![" + ", ".join(f"Box::new(Shape{t}::default())" for t in range(types)) + "] }"


def smt_problem(queens):
    """Queens on a board, as integers with disjunctions, and a bit-vector product."""
    yield "(set-logic ALL)"
    yield "(set-option :smt.random_seed 1)"
    for q in range(queens):
        yield f"(declare-const q{q} Int)"
        yield f"(assert (and (<= 0 q{q}) (< q{q} {queens})))"
    yield "(assert (distinct " + " ".join(f"q{q}" for q in range(queens)) + "))"
    for a in range(queens):
        for b in range(a + 1, queens):
            yield f"(assert (and (not (= (- q{a} q{b}) {b - a})) (not (= (- q{b} q{a}) {b - a}))))"
    yield "(check-sat)"
    yield "(reset)"
    yield "(declare-const x (_ BitVec 32))"
    yield "(declare-const y (_ BitVec 32))"
    product = 40093 * 46399 if queens > 8 else 251 * 241
    limit = 65535 if queens > 8 else 255
    yield f"(assert (and (= (bvmul x y) (_ bv{product} 32)) (bvule x (_ bv{limit} 32)) (bvule y (_ bv{limit} 32)) (bvult (_ bv1 32) x) (bvule x y)))"
    yield "(check-sat)"


def postscript(pages):
    """Pages of text, curves and shaded boxes."""
    yield "%!PS-Adobe-3.0"
    for page in range(pages):
        yield f"/Times-Roman findfont {8 + page % 5} scalefont setfont"
        for line in range(60):
            yield f"40 {760 - line * 12} moveto (Page {page}, line {line}: the quick brown fox jumps over {page * line % 97} lazy dogs) show"
        for curve in range(120):
            x, y = curve * 37 % 500 + 40, curve * 53 % 700 + 40
            yield f"{curve % 10 / 10} {page % 7 / 7:.3f} 0.5 setrgbcolor newpath {x} {y} moveto {x + 90} {y + 10} {x - 50} {y + 80} {x + 40} {y + 90} curveto closepath {'fill' if curve % 3 else 'stroke'}"
        yield "showpage"


def write(name, maker, size, quick):
    for file, amount in ((name, size), ("quick-" + name, quick)):
        (folder / file).write_text("\n".join(maker(amount)) + "\n")


def sqlite_script(rows):
    yield f"CREATE TABLE size AS SELECT {rows} value;"
    yield (pathlib.Path(__file__).parent / "programs/sqlite.sql").read_text().rstrip()


write("source.c", c_source, 30, 4)
write("source.cpp", cxx_source, 3, 1)
write("source.rs", rust_source, 2, 1)
write("problem.smt2", smt_problem, 20, 6)
write("pages.ps", postscript, 250, 8)
write("script.sql", sqlite_script, 200000, 10000)
