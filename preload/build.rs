//! How libarenite.so is linked.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // dlclose(3) must not unload it: threads that used it end later, the helper thread may be asleep in it,
    // and blocks of it may be in use.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
