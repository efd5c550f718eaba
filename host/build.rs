//! Builds `core-wasm` into the component that the server carries as its default core.
//!
//! The component goes into a target directory of its own: a nested cargo on the same one would wait for this
//! build to end. It is also written to `target/mailcell-core.wasm`, for those who want to inspect or change it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};
use wasm_encoder::ComponentSection;

const TARGET: &str = "wasm32-unknown-unknown";

fn main() {
    let workspace = PathBuf::from(var("CARGO_MANIFEST_DIR")).parent().expect("host/ lies in the workspace").to_owned();
    for input in ["core-wasm", "wit", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", workspace.join(input).display());
    }
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), |path| workspace.join(path));
    let component = match build(&workspace, &target.join("component")).and_then(|module| encode(&module)) {
        Ok(component) => component,
        // Cargo shows the line and ends the build; an exit code of ours would add pages to it.
        Err(error) => return println!("cargo::error={error}"),
    };
    write(&PathBuf::from(var("OUT_DIR")).join("mailcell-core.wasm"), &component);
    write(&target.join("mailcell-core.wasm"), &component);
}

/// Compiles `core-wasm` to a core module.
fn build(workspace: &Path, target: &Path) -> Result<Vec<u8>, String> {
    let output = Command::new(var("CARGO"))
        .current_dir(workspace)
        .args(["rustc", "--package", "mailcell-core", "--lib", "--features", "component"])
        .args(["--profile", "core", "--target", TARGET])
        // As a crate type of this one build: an rlib beside the cdylib would turn link-time optimisation off.
        .args(["--crate-type", "cdylib", "--target-dir"])
        .arg(target)
        // Flags of the outer build (its linker, its sanitizers, its coverage) are not for this target.
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTFLAGS")
        // Else the first of 17 pages would be a megabyte of stack, in every session. A memory that cannot grow has a bound that
        // compiled code need not look up; as large as a cell may have, it fits the arena of `component.rs`.
        .args(["--", "-C", "link-arg=-zstack-size=65536"])
        .args(["-C", "link-arg=--initial-memory=1048576", "-C", "link-arg=--max-memory=1048576"])
        .args(["-C", "target-feature=+simd128"])
        .output()
        .map_err(|error| format!("cannot run cargo to build the core: {error}"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        if errors.contains("target may not be installed") || errors.contains("can't find crate for `core`") {
            return Err(format!("the wasm target is missing: rustup target add {TARGET}"));
        }
        // A directive is one line; what rustc said comes as warnings in front of it.
        errors.lines().for_each(|line| println!("cargo::warning={line}"));
        return Err("the core does not build".to_owned());
    }
    let module = target.join(TARGET).join("core/mailcell_core.wasm");
    fs::read(&module).map_err(|error| format!("{}: {error}", module.display()))
}

fn encode(module: &[u8]) -> Result<Vec<u8>, String> {
    wit_component::ComponentEncoder::default()
        .validate(true)
        .module(module)
        .and_then(|encoder| encoder.encode())
        .map(|component| with_version(component, &var("CARGO_PKG_VERSION")))
        .map_err(|error| format!("the core is no component: {error:#}"))
}

/// Adds the custom section that the tools of the component model know as a component's version.
fn with_version(mut component: Vec<u8>, version: &str) -> Vec<u8> {
    wasm_encoder::CustomSection { name: "version".into(), data: version.as_bytes().into() }
        .append_to_component(&mut component);
    component
}

fn write(path: &Path, bytes: &[u8]) {
    // Unchanged bytes keep their time stamp, and what depends on them is not built again.
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return;
    }
    if let Err(error) = fs::write(path, bytes) {
        println!("cargo::error={}: {error}", path.display());
    }
}

fn var(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}
