//! The arenite command.
use arenite_core::Arenite;
#[global_allocator]
static GLOBAL: Arenite = Arenite::new();
fn main() {
    println!("hi");
}
