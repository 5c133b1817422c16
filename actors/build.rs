//! Compiles the crate again when a task or example was added: `include_dir!` alone notices changed files only.

fn main() {
    println!("cargo::rerun-if-changed=../tasks");
}
