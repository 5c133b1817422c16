//! The house rules as tests: doors between rooms, exact versions, file sizes, docs that name only what exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

mod scan;
mod waits;

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

/// Every crate that what a room ships may link: all tables but the one for tests. (Build scripts run on the user's machine.)
fn dependencies(table: &toml::Table) -> BTreeSet<String> {
    let of = |t: &toml::Table, section: &str| -> Vec<String> {
        t.get(section).and_then(|d| d.as_table()).map(|d| d.keys().cloned().collect()).unwrap_or_default()
    };
    let sections = ["dependencies", "build-dependencies"];
    let mut found: BTreeSet<String> = sections.iter().flat_map(|s| of(table, s)).collect();
    let targets = table.get("target").and_then(|t| t.as_table()).into_iter().flat_map(|t| t.values());
    for target in targets.filter_map(|t| t.as_table()) {
        found.extend(sections.iter().flat_map(|s| of(target, s)));
    }
    found
}

/// The table of doors in docs/architecture.md: the crates a room's shipped code uses, no more.
const DOORS: &[(&str, &[&str])] = &[
    ("rollout", &["serde", "thiserror"]),
    (
        "reward",
        &[
            "rollout",
            "serde",
            "serde_json",
            "thiserror",
            "sha2",
            "ruff_python_ast",
            "ruff_python_parser",
            "ruff_text_size",
        ],
    ),
    (
        "model",
        &[
            "rollout",
            "burn",
            "cudarc",
            "gemm",
            "pulp",
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
        ],
    ),
    (
        "sandbox",
        &[
            "rollout",
            "tokio",
            "nvml-wrapper",
            "rustix",
            "serde",
            "serde_json",
            "sha2",
            "thiserror",
            "tempfile",
            "tracing",
        ],
    ),
    (
        "actors",
        &[
            "rollout",
            "reward",
            "model",
            "sandbox",
            "axum",
            "backon",
            "bincode",
            "blake3",
            "burn",
            "clap",
            "crc32c",
            "crossbeam-channel",
            "futures-util",
            "hyper",
            "hyper-util",
            "include_dir",
            "indicatif",
            "parquet",
            "prost",
            "rand",
            "rand_chacha",
            "ractor",
            "ratatui",
            "ractor_cluster",
            "reqwest",
            "rusqlite",
            "rustix",
            "rustls",
            "tokio-rustls",
            "serde",
            "serde_json",
            "sha2",
            "shlex",
            "similar",
            "strsim",
            "tempfile",
            "thiserror",
            "tokio",
            "toml",
            "tracing",
            "tracing-subscriber",
            "walkdir",
            "zstd",
        ],
    ),
];

/// Both ways: a crate more in a manifest is a new door, a crate less is a line to take out here and in the page.
/// Planted and seen to fail: a crate in `[target.'cfg(unix)'.dependencies]`, and one in `[build-dependencies]`.
#[test]
fn rooms_use_only_their_doors() -> Result<(), AnyError> {
    for (room, allowed) in DOORS {
        let allowed: BTreeSet<String> = allowed.iter().map(|s| s.to_string()).collect();
        let used = dependencies(&manifest(room)?);
        let new: Vec<&String> = used.difference(&allowed).collect();
        assert!(
            new.is_empty(),
            "{room}/Cargo.toml: {new:?} are not in the room's doors (tests/tests/tidy.rs, docs/architecture.md)"
        );
        let idle: Vec<&String> = allowed.difference(&used).collect();
        assert!(idle.is_empty(), "tests/tests/tidy.rs: DOORS lists {idle:?} for `{room}`, which does not use them");
    }
    Ok(())
}

#[test]
fn every_table_of_a_manifest_is_a_door() -> Result<(), AnyError> {
    let text = "[dependencies]\na = '1'\n[build-dependencies]\nb = '1'\n[dev-dependencies]\nz = '1'\n\
        [target.'cfg(unix)'.dependencies]\nc = '1'\n[target.x86_64-unknown-linux-gnu.build-dependencies]\nd = '1'\n";
    let found: Vec<String> = dependencies(&text.parse()?).into_iter().collect();
    assert_eq!(found, ["a", "b", "c", "d"]);
    Ok(())
}

/// Each crate of `DOORS` is in the row of its room.
#[test]
fn the_page_has_the_doors() -> Result<(), AnyError> {
    let page = fs::read_to_string(root().join("docs/architecture.md"))?;
    for (room, crates) in DOORS {
        let start = format!("| `{room}` |");
        let row = page.lines().find(|l| l.starts_with(&start)).ok_or(format!("no row {start}"))?;
        let named: BTreeSet<&str> = row.split('`').skip(1).step_by(2).collect();
        for name in *crates {
            assert!(named.contains(name), "docs/architecture.md: the row of `{room}` does not name `{name}`");
        }
    }
    Ok(())
}

#[test]
fn pure_rooms_touch_no_world() -> Result<(), AnyError> {
    for room in ["rollout", "reward"] {
        let src = root().join(room).join("src");
        for path in files("rs").into_iter().filter(|p| p.starts_with(&src)) {
            let found = scan::world(&fs::read_to_string(&path)?);
            assert!(found.is_empty(), "{}: reaches for the world in a pure room: {found:?}", relative(&path));
        }
    }
    Ok(())
}

#[test]
fn no_actor_is_asked_without_a_timeout() -> Result<(), AnyError> {
    let src = root().join("actors/src");
    for path in files("rs").into_iter().filter(|p| p.starts_with(&src)) {
        let found = waits::endless(&fs::read_to_string(&path)?);
        assert!(found.is_empty(), "{}: waits for an answer without a limit: {found:?}", relative(&path));
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

/// Whether a page names a crate: as a whole word, in backticks or in a heading.
fn names(page: &str, name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.';
    page.lines().any(|line| {
        let quoted = || line.split('`').skip(1).step_by(2).any(|q| q == name);
        let heading = || line.starts_with('#') && line.split(|c| !word(c)).any(|w| w == name);
        // `**clap 4.6.9, derive**`: a bold lead is a heading in a list.
        let bold = || line.split("**").skip(1).step_by(2).any(|b| b.split(|c| !word(c)).any(|w| w == name));
        quoted() || heading() || bold()
    })
}

#[test]
fn a_reason_is_a_whole_word() {
    assert!(names("- **toml 1.2.1**: places", "toml") && names("# 0053 toml", "toml") && names("`toml` gives", "toml"));
    for page in
        ["copy `cluster.toml`", "the toml crate", "# cluster.toml", "**cluster.toml**", "`toml_edit`", "# rand_chacha"]
    {
        assert!(!names(page, "toml") && !names(page, "rand"), "{page}");
    }
}

#[test]
fn every_main_dependency_has_its_reason() -> Result<(), AnyError> {
    let mut decisions = String::new();
    for path in files("md").into_iter().filter(|p| p.starts_with(root().join("docs/decisions"))) {
        decisions.push_str(&fs::read_to_string(path)?);
    }
    // All direct dependencies: a list of the main ones would go out of date.
    let table = manifest("")?;
    let all = table["workspace"]["dependencies"].as_table().ok_or("no workspace dependencies")?;
    let ours = ["rollout", "reward", "model", "sandbox", "actors"];
    let without: Vec<&String> = all.keys().filter(|n| !ours.contains(&n.as_str()) && !names(&decisions, n)).collect();
    assert!(without.is_empty(), "docs/decisions: no page gives the reason for {without:?}");
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
