//! The house rules as tests: doors between rooms, exact versions, file sizes, docs that name only what exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

type AnyError = Box<dyn std::error::Error>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

fn files(extension: &str) -> Vec<PathBuf> {
    let skip = ["target", ".git", "runs", "node_modules"];
    let mut found: Vec<PathBuf> = WalkDir::new(root())
        .into_iter()
        .filter_entry(|e| e.depth() == 0 || !skip.contains(&e.file_name().to_string_lossy().as_ref()))
        .filter_map(Result::ok)
        .filter(|e| e.file_type().is_file() && e.path().extension().is_some_and(|x| x == extension))
        .map(|e| e.into_path())
        .collect();
    found.sort();
    assert!(!found.is_empty(), "no .{extension} file found under {}", root().display());
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

fn manifest(room: &str) -> Result<toml::Table, AnyError> {
    let path = if room.is_empty() { root().join("Cargo.toml") } else { root().join(room).join("Cargo.toml") };
    Ok(fs::read_to_string(&path)?.parse::<toml::Table>()?)
}

fn dependencies(room: &str) -> Result<BTreeSet<String>, AnyError> {
    let table = manifest(room)?;
    let deps = table.get("dependencies").and_then(|d| d.as_table()).ok_or("no [dependencies]")?;
    Ok(deps.keys().cloned().collect())
}

/// The table of doors in docs/architecture.md: which crates a room's shipped code may use.
const DOORS: &[(&str, &[&str])] = &[
    ("rollout", &["serde", "thiserror", "rand", "rand_chacha", "sha2"]),
    ("reward", &["rollout", "serde", "thiserror", "sha2", "ruff_python_ast", "ruff_python_parser", "ruff_text_size"]),
    (
        "model",
        &[
            "rollout",
            "burn",
            "tokenizers",
            "safetensors",
            "minijinja",
            "minijinja-contrib",
            "serde",
            "serde_json",
            "sha2",
            "thiserror",
            "rand",
            "rand_chacha",
            "half",
            "rayon",
            "libc",
            "rustix",
            "tempfile",
            "tracing",
            "crossbeam-channel",
            "burn-flex",
            "burn-autodiff",
            "gemm",
            "pulp",
        ],
    ),
    (
        "sandbox",
        &[
            "rollout",
            "tokio",
            "nvml-wrapper",
            "rustix",
            "libc",
            "serde",
            "serde_json",
            "sha2",
            "thiserror",
            "tempfile",
            "tracing",
            "landlock",
            "seccompiler",
        ],
    ),
];

#[test]
fn rooms_use_only_their_doors() -> Result<(), AnyError> {
    for (room, allowed) in DOORS {
        let allowed: BTreeSet<&str> = allowed.iter().copied().collect();
        for dep in dependencies(room)? {
            assert!(
                allowed.contains(dep.as_str()),
                "{room}/Cargo.toml: dependency '{dep}' is not in the room's doors (tests/tests/tidy.rs, docs/architecture.md)"
            );
        }
    }
    Ok(())
}

#[test]
fn pure_rooms_touch_no_world() -> Result<(), AnyError> {
    // A word in code (comments cut) of a pure room that reaches for the world.
    let banned = [
        "std::fs",
        "std::net",
        "std::process",
        "std::thread",
        "std::env",
        "Instant",
        "SystemTime",
        "tokio",
        "ractor",
        "burn::",
        "thread_rng",
        "OsRng",
        "async fn",
        "println!",
        "eprintln!",
    ];
    for room in ["rollout", "reward"] {
        let src = root().join(room).join("src");
        for path in files("rs").into_iter().filter(|p| p.starts_with(&src)) {
            for (number, line) in fs::read_to_string(&path)?.lines().enumerate() {
                if line.contains("#[cfg(test)]") {
                    break;
                }
                let code = line.split("//").next().unwrap_or_default();
                if code.contains('"') {
                    continue; // a rule's table of forbidden names is data
                }
                for word in banned {
                    assert!(!code.contains(word), "{}:{}: '{word}' in a pure room", relative(&path), number + 1);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn versions_are_exact() -> Result<(), AnyError> {
    let table = manifest("")?;
    let deps = table["workspace"]["dependencies"].as_table().ok_or("no workspace dependencies")?;
    for (name, value) in deps {
        let version = match value {
            toml::Value::String(v) => Some(v.as_str()),
            toml::Value::Table(t) if t.contains_key("path") => continue,
            toml::Value::Table(t) => t.get("version").and_then(|v| v.as_str()),
            _ => None,
        };
        let version = version.unwrap_or_default();
        assert!(version.starts_with('='), "Cargo.toml: {name} = \"{version}\" is not pinned with '='");
    }
    for room in ["rollout", "reward", "model", "sandbox", "actors", "tests"] {
        let room_table = manifest(room)?;
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(deps) = room_table.get(section).and_then(|d| d.as_table()) else {
                continue;
            };
            for (name, value) in deps {
                let workspace = value.get("workspace").and_then(|w| w.as_bool()).unwrap_or(false);
                assert!(workspace, "{room}/Cargo.toml [{section}]: {name} must say `.workspace = true`");
            }
        }
    }
    Ok(())
}

#[test]
fn every_main_dependency_has_its_reason() -> Result<(), AnyError> {
    let mut decisions = String::new();
    for path in files("md").into_iter().filter(|p| p.starts_with(root().join("docs/decisions"))) {
        decisions.push_str(&fs::read_to_string(path)?);
    }
    for name in [
        "burn",
        "ractor",
        "tokio",
        "crossbeam",
        "bincode",
        "nvml-wrapper",
        "rusqlite",
        "tokenizers",
        "safetensors",
        "minijinja",
        "ruff_python_parser",
        "clap",
        "toml",
        "indicatif",
        "proptest",
        "zstd",
        "rand_chacha",
        "include_dir",
    ] {
        assert!(decisions.contains(name), "docs/decisions: no page gives the reason for '{name}'");
    }
    Ok(())
}

#[test]
fn files_are_short_and_say_why_they_exist() -> Result<(), AnyError> {
    for path in files("rs") {
        let text = fs::read_to_string(&path)?;
        let lines = text.lines().count();
        assert!(lines <= 500, "{}: {lines} lines, the limit is 500", relative(&path));
        let first = text.lines().next().unwrap_or_default();
        assert!(
            first.starts_with("//!"),
            "{}: the first line must be a `//!` line that says why the file exists",
            relative(&path)
        );
    }
    Ok(())
}

#[test]
fn docs_name_only_files_that_exist() -> Result<(), AnyError> {
    let tops =
        ["rollout/", "reward/", "model/", "sandbox/", "actors/", "tasks/", "tests/", "docs/", "scripts/", ".ci/"];
    for path in files("md") {
        let shown = relative(&path);
        if shown.starts_with("tasks/examples") || shown == "CHANGELOG.md" {
            continue;
        }
        let text = fs::read_to_string(&path)?;
        for word in text.split(|c: char| c.is_whitespace() || "`()[]\"',;|".contains(c)) {
            let word = word.trim_end_matches(['.', ':']).split('#').next().unwrap_or_default();
            if !tops.iter().any(|t| word.starts_with(t)) || word.contains(['<', '*', '{', '$']) || word.contains("..") {
                continue;
            }
            assert!(root().join(word).exists(), "{shown}: names '{word}', which does not exist");
        }
    }
    Ok(())
}

#[test]
fn nothing_names_the_machine_it_was_written_on() -> Result<(), AnyError> {
    let marks = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];
    for extension in ["rs", "md", "toml", "py", "json"] {
        for path in files(extension) {
            let text = fs::read_to_string(&path)?;
            for mark in marks {
                assert!(!text.contains(mark), "{}: holds the machine path '{mark}'", relative(&path));
            }
        }
    }
    Ok(())
}

#[test]
fn unfinished_work_is_not_on_main() -> Result<(), AnyError> {
    for path in files("rs") {
        let text = fs::read_to_string(&path)?;
        for word in [concat!("to", "do!("), concat!("unimple", "mented!("), concat!("FIX", "ME"), concat!("XX", "X:")] {
            assert!(!text.contains(word), "{}: holds '{word}'", relative(&path));
        }
    }
    Ok(())
}

#[test]
fn ci_runs_the_test_command_of_the_readme() -> Result<(), AnyError> {
    let readme = fs::read_to_string(root().join("README.md"))?;
    assert!(readme.lines().any(|l| l.starts_with("cargo test ")), "README.md: no line starts with `cargo test`");
    assert!(readme.lines().any(|l| l.starts_with("cargo run ")), "README.md: no line starts with `cargo run`");
    let ci = fs::read_to_string(root().join(".ci/run"))?;
    assert!(ci.contains("readme_test"), ".ci/run must run the command that README.md gives");
    Ok(())
}
