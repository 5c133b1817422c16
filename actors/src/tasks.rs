//! Kernel tasks and warm-start examples, from a folder or from those that ship with Troupe (compiled in).
//!
//! A folder is `<split>/level<N>/<task id>.py` with the splits `train`, `validation` and `held_out`, or a KernelBench
//! checkout: `level<N>/*.py`, in the folder itself or in its `KernelBench` folder. All of a checkout's tasks are held
//! out: it is a benchmark, nothing trains on it. Their ids get the level in front, `level1_19_ReLU`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use include_dir::{Dir, include_dir};
use rollout::id::TaskId;
use rollout::task::{Split, TaskSpec};

use crate::errors::{UserError, nearest};

mod apart;
mod mix;

pub use apart::{WarmStartExamples, leaks, warm_start_examples};
pub use mix::{level_mix, mixed, require_levels};

/// Why tasks or examples could not be loaded.
pub type TaskError = UserError;

static BUILTIN: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/../tasks");

/// A warm-start answer to a task of the training split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    pub task: TaskId,
    /// `<think>` plan `</think>` and one Python block.
    pub text: String,
}

/// Tasks of `dir`, or the built-in ones, ordered by id.
///
/// # Errors
/// The first file that is not a task, an id that is there twice, or a folder without tasks.
pub fn load_tasks(dir: Option<&Path>) -> Result<Vec<TaskSpec>, TaskError> {
    let mut tasks = Vec::new();
    let mut seen: BTreeMap<String, PathBuf> = BTreeMap::new();
    let (root, files) = match dir {
        Some(dir) => task_files(dir)?,
        None => (PathBuf::from("built-in tasks"), embedded("", "py")?),
    };
    for file in files {
        let Some(place) = placed(&root, &file.path)? else { continue };
        let at = root.join(&file.path);
        check_source(&at, &file.text)?;
        if let Some(first) = seen.insert(place.id.clone(), at.clone()) {
            return Err(UserError::new(format!("the task `{}` is there twice", place.id))
                .at(at.display())
                .found(format!("also {}", first.display()))
                .expected("each file name once over all splits and levels")
                .hint("rename one of them, or remove the copy"));
        }
        tasks.push(TaskSpec {
            id: TaskId(place.id),
            level: place.level,
            split: place.split,
            tags: tags(&file.text),
            source: file.text,
        });
    }
    if tasks.is_empty() {
        return Err(UserError::new("no tasks found")
            .at(root.display())
            .found("no `.py` file where a task would be")
            .expected("`<split>/level<N>/*.py`, or `level<N>/*.py` of a KernelBench checkout")
            .hint("splits are `train`, `validation` and `held_out`"));
    }
    tasks.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(tasks)
}

/// One task from its file, as `troupe verify` and `troupe lint` take it. The level comes from the folder's name, if it
/// is `level<N>`, else it is 1.
pub fn load_task(path: &Path) -> Result<TaskSpec, TaskError> {
    let source = std::fs::read_to_string(path).map_err(|e| UserError::io("read the task file", path, &e))?;
    check_source(path, &source)?;
    let folder = path.parent().and_then(Path::file_name).and_then(|n| n.to_str()).unwrap_or("");
    Ok(TaskSpec {
        id: TaskId(path.file_stem().and_then(|s| s.to_str()).unwrap_or("task").to_string()),
        level: level_of(folder).unwrap_or(1),
        split: Split::HeldOut,
        tags: tags(&source),
        source,
    })
}

/// An RL run needs something to train on.
///
/// # Errors
/// When no task is in the training split.
pub fn require_training_tasks(tasks: &[TaskSpec], dir: Option<&Path>) -> Result<(), TaskError> {
    if tasks.iter().any(|t| t.split == Split::Train) {
        return Ok(());
    }
    Err(UserError::new("there is nothing to train on")
        .at(format!("tasks.dir = \"{}\"", dir.unwrap_or(Path::new("")).display()))
        .found(format!("{} tasks, none in the training split", tasks.len()))
        .expected("tasks in `train/level<N>/`")
        .hint("a KernelBench checkout is for evaluation only; bring training tasks, or use the built-in ones"))
}

/// Examples `<task id>__<n>.md` of `dir`, or the built-in ones, ordered by task and number. Every one belongs to a
/// task of the training split.
///
/// # Errors
/// A file name of another form, an unknown task, a task outside the training split, a folder without examples.
pub fn load_examples(dir: Option<&Path>, tasks: &[TaskSpec]) -> Result<Vec<Example>, TaskError> {
    let (root, files) = match dir {
        Some(dir) => (dir.to_path_buf(), walk(dir, "read the folder of examples", "md")?),
        None => (PathBuf::from("built-in examples"), embedded("examples", "md")?),
    };
    let mut examples: Vec<(TaskId, u64, Example)> = Vec::new();
    for file in files {
        let at = root.join(&file.path);
        let stem = file.path.file_stem().and_then(|s| s.to_str()).unwrap_or("");
        let Some((id, number)) = stem.rsplit_once("__").and_then(|(t, n)| Some((t, n.parse().ok()?))) else {
            return Err(UserError::new("this file name is not that of an example")
                .at(at.display())
                .found(format!("`{stem}.md`"))
                .expected("`<task id>__<n>.md`, n a number")
                .hint("for example `l1_relu_16x64__1.md`"));
        };
        let Some(task) = tasks.iter().find(|t| t.id.0 == id) else {
            let near = nearest(id, tasks.iter().map(|t| t.id.0.as_str()));
            return Err(UserError::new("this example belongs to no task")
                .at(at.display())
                .found(format!("task `{id}`"))
                .expected("the id of a task of `tasks.dir`")
                .hint(near.map_or("set `tasks.dir` and `sft.examples` together".into(), |n| {
                    format!("did you mean `{n}`?")
                })));
        };
        if task.split != Split::Train {
            return Err(UserError::new("this example would leak a task that is not for training")
                .at(at.display())
                .found(format!("`{id}` is in the split `{}`", split_name(task.split)))
                .expected("examples of tasks in `train` only")
                .hint("remove the example"));
        }
        examples.push((task.id.clone(), number, Example { task: task.id.clone(), text: file.text }));
    }
    if examples.is_empty() {
        return Err(UserError::new("no examples found")
            .at(root.display())
            .found("no `.md` file")
            .expected("`<task id>__<n>.md`")
            .hint("leave out the warm start with `sft.enabled = false`"));
    }
    examples.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    Ok(examples.into_iter().map(|(_, _, e)| e).collect())
}

/// The folder's name of a split.
pub fn split_name(split: Split) -> &'static str {
    match split {
        Split::Train => "train",
        Split::Validation => "validation",
        Split::HeldOut => "held_out",
    }
}

/// KernelBench's problem names, one a line as `level<N>/<problem>`; names only, for [`contamination`].
pub fn kernelbench_names() -> Vec<&'static str> {
    let text = BUILTIN.get_file("kernelbench_names.txt").and_then(|f| f.contents_utf8()).unwrap_or("");
    text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).collect()
}

/// Tasks whose name is that of a benchmark problem: `(task, problem)`. Numbers, shapes and levels do not count:
/// `l1_softmax_rows_16x128` is compared as `softmaxrows`, `level1/23_Softmax` as `softmax`.
pub fn contamination(tasks: &[TaskSpec], names: &[&str]) -> Vec<(TaskId, String)> {
    let names: BTreeMap<String, &str> = names.iter().map(|n| (bare_name(n), *n)).collect();
    tasks
        .iter()
        .filter_map(|t| names.get(&bare_name(&t.id.0)).map(|name| (t.id.clone(), (*name).to_string())))
        .collect()
}

/// A name without level, number and shape, letters only.
fn bare_name(name: &str) -> String {
    let name = name.rsplit('/').next().unwrap_or(name);
    let words = name.split('_').filter(|word| {
        let shape = word.split('x').all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
        let level = word.strip_prefix('l').is_some_and(|n| n.len() == 1 && n.bytes().all(|b| b.is_ascii_digit()));
        !shape && !level
    });
    words.flat_map(str::chars).filter(char::is_ascii_alphabetic).map(|c| c.to_ascii_lowercase()).collect()
}

struct SourceFile {
    /// Relative to the root.
    path: PathBuf,
    text: String,
}

struct Place {
    id: String,
    level: u8,
    split: Split,
}

/// What a file's path says; `None` for a file that is no task (`examples/`, a checkout's own modules).
fn placed(root: &Path, path: &Path) -> Result<Option<Place>, TaskError> {
    let parts: Vec<&str> = path.iter().filter_map(|p| p.to_str()).collect();
    let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or("").to_string();
    match parts[..] {
        [level, _] => {
            let Some(n) = level_of(level) else { return Ok(None) };
            Ok(Some(Place { id: format!("level{n}_{stem}"), level: n, split: Split::HeldOut }))
        }
        [folder, level, _] => {
            let Some(n) = level_of(level) else { return Ok(None) };
            let all = [Split::Train, Split::Validation, Split::HeldOut];
            let Some(split) = all.into_iter().find(|s| split_name(*s) == folder) else {
                return Err(UserError::new(format!("unknown split `{folder}`"))
                    .at(root.join(path).display())
                    .found(format!("the folder `{folder}`"))
                    .expected("`train`, `validation` or `held_out`")
                    .hint("rename the folder; nothing of a split that is not named here would ever be used"));
            };
            Ok(Some(Place { id: stem, level: n, split }))
        }
        _ => Ok(None),
    }
}

fn level_of(folder: &str) -> Option<u8> {
    folder.strip_prefix("level").and_then(|n| n.parse().ok())
}

/// Parses, and defines what KernelBench's format asks for.
fn check_source(path: &Path, source: &str) -> Result<(), TaskError> {
    if let Err(problem) = reward::lint::syntax::parse(source) {
        let line = source.lines().nth((problem.line as usize).saturating_sub(1)).unwrap_or("").trim_end();
        return Err(UserError::new("the task file is not valid Python")
            .at(format!("{}, line {}", path.display(), problem.line))
            .found(line)
            .expected(problem.message)
            .hint("a task is a Python file that defines `class Model`, `get_inputs()` and `get_init_inputs()`"));
    }
    for (what, starts) in [
        ("class Model", &["class Model(", "class Model:", "Model ="][..]),
        ("get_inputs()", &["def get_inputs(", "get_inputs ="][..]),
        ("get_init_inputs()", &["def get_init_inputs(", "get_init_inputs ="][..]),
    ] {
        if !source.lines().any(|line| starts.iter().any(|s| line.starts_with(s))) {
            return Err(UserError::new(format!("the task file defines no `{what}`"))
                .at(path.display())
                .found("no such definition at the top level")
                .expected("`class Model`, `get_inputs()` and `get_init_inputs()`")
                .hint("the format is KernelBench's; the built-in tasks are examples of it"));
        }
    }
    Ok(())
}

/// The words of the `# tags:` comment.
fn tags(source: &str) -> Vec<String> {
    let line = source.lines().find_map(|l| l.trim_start().strip_prefix('#')?.trim_start().strip_prefix("tags:"));
    line.into_iter().flat_map(|l| l.split(',')).map(|t| t.trim().to_string()).filter(|t| !t.is_empty()).collect()
}

/// The root and the Python files below it, three levels deep at most.
fn task_files(dir: &Path) -> Result<(PathBuf, Vec<SourceFile>), TaskError> {
    let inner = dir.join("KernelBench");
    let root = if inner.join("level1").is_dir() { inner } else { dir.to_path_buf() };
    let files = walk(&root, "read the folder of tasks", "py")?;
    Ok((root, files))
}

/// Files with this extension below `dir`, in the order of their paths; folders that start with a dot are left out.
fn walk(dir: &Path, doing: &str, extension: &str) -> Result<Vec<SourceFile>, TaskError> {
    // The folder itself first: walkdir's own error text names the path twice.
    std::fs::read_dir(dir).map_err(|e| UserError::io(doing, dir, &e))?;
    let entries = walkdir::WalkDir::new(dir).max_depth(3).follow_links(true).sort_by_file_name().into_iter();
    let visible = |e: &walkdir::DirEntry| e.depth() == 0 || !e.file_name().to_string_lossy().starts_with('.');
    let mut files = Vec::new();
    for entry in entries.filter_entry(visible) {
        let entry = entry.map_err(|e| {
            let path = e.path().unwrap_or(dir).to_path_buf();
            let found = e.to_string();
            UserError::io(doing, &path, &e.into_io_error().unwrap_or_else(|| std::io::Error::other(found)))
        })?;
        let path = entry.path();
        if !entry.file_type().is_file() || path.extension().and_then(|e| e.to_str()) != Some(extension) {
            continue;
        }
        let text = std::fs::read_to_string(path).map_err(|e| UserError::io("read the file", path, &e))?;
        files.push(SourceFile { path: path.strip_prefix(dir).unwrap_or(path).to_path_buf(), text });
    }
    Ok(files)
}

/// Compiled-in files below `folder` with this extension; paths relative to `folder`.
fn embedded(folder: &str, extension: &str) -> Result<Vec<SourceFile>, TaskError> {
    let mut files = Vec::new();
    let start = if folder.is_empty() { Some(&BUILTIN) } else { BUILTIN.get_dir(folder) };
    let mut open: Vec<&Dir<'static>> = start.into_iter().collect();
    while let Some(dir) = open.pop() {
        open.extend(dir.dirs());
        for file in dir.files().filter(|f| f.path().extension().and_then(|e| e.to_str()) == Some(extension)) {
            let path = file.path().strip_prefix(folder).unwrap_or(file.path()).to_path_buf();
            let text = file.contents_utf8().ok_or_else(|| UserError::new("not UTF-8").at(path.display()))?;
            files.push(SourceFile { path, text: text.to_string() });
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TASK: &str = "# tags: softmax, row reduction\nimport torch\nclass Model(torch.nn.Module):\n    pass\n\ndef get_inputs():\n    return []\n\ndef get_init_inputs():\n    return []\n";

    fn put(dir: &Path, path: &str, text: &str) {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn a_folder_of_splits_gives_ids_levels_splits_and_tags() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "train/level2/b.py", TASK);
        put(dir.path(), "held_out/level1/a.py", TASK);
        put(dir.path(), "examples/b__1.md", "x");
        let tasks = load_tasks(Some(dir.path())).unwrap();
        let seen: Vec<_> = tasks.iter().map(|t| (t.id.0.as_str(), t.level, t.split)).collect();
        assert_eq!(seen, [("a", 1, Split::HeldOut), ("b", 2, Split::Train)]);
        assert_eq!(tasks[0].tags, ["softmax", "row reduction"]);
    }

    #[test]
    fn a_kernelbench_checkout_is_all_held_out() {
        for inner in ["", "KernelBench/"] {
            let dir = tempfile::tempdir().unwrap();
            put(dir.path(), &format!("{inner}level1/19_ReLU.py"), TASK);
            put(dir.path(), &format!("{inner}level2/19_ReLU.py"), TASK);
            put(dir.path(), "setup.py", "this is not a task");
            let tasks = load_tasks(Some(dir.path())).unwrap();
            let seen: Vec<_> = tasks.iter().map(|t| (t.id.0.as_str(), t.level)).collect();
            assert_eq!(seen, [("level1_19_ReLU", 1), ("level2_19_ReLU", 2)]);
            assert!(tasks.iter().all(|t| t.split == Split::HeldOut));
            let e = require_training_tasks(&tasks, Some(dir.path())).unwrap_err().to_string();
            assert!(e.contains("none in the training split") && e.contains("train/level<N>/"), "{e}");
        }
    }

    #[test]
    fn a_syntax_error_names_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "train/level1/good.py", TASK);
        put(dir.path(), "train/level1/bad.py", "import torch\n\ndef get_inputs(:\n    return []\n");
        let e = load_tasks(Some(dir.path())).unwrap_err().to_string();
        assert!(e.contains("bad.py, line 3") && e.contains("def get_inputs(:") && e.contains("class Model"), "{e}");
    }

    #[test]
    fn a_missing_definition_a_double_id_an_unknown_split_and_an_empty_folder_are_errors() {
        let missing = TASK.replace("def get_init_inputs", "def other");
        let cases: [(&[(&str, &str)], &str); 4] = [
            (&[("train/level1/a.py", &missing)], "defines no `get_init_inputs()`"),
            (&[("train/level1/a.py", TASK), ("held_out/level2/a.py", TASK)], "`a` is there twice"),
            (&[("test/level1/a.py", TASK)], "unknown split `test`"),
            (&[("readme.py", TASK)], "no tasks found"),
        ];
        for (files, expected) in cases {
            let dir = tempfile::tempdir().unwrap();
            for (path, text) in files {
                put(dir.path(), path, text);
            }
            let e = load_tasks(Some(dir.path())).unwrap_err().to_string();
            assert!(e.contains(expected) && e.contains("hint:"), "{e}");
        }
        let e = load_tasks(Some(Path::new("/nowhere"))).unwrap_err().to_string();
        assert!(e.contains("cannot read the folder of tasks") && e.contains("/nowhere"), "{e}");
    }

    #[test]
    fn examples_belong_to_training_tasks_and_are_ordered_by_number() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "t/train/level1/a.py", TASK);
        put(dir.path(), "t/held_out/level1/h.py", TASK);
        let tasks = load_tasks(Some(&dir.path().join("t"))).unwrap();
        let load = |files: &[&str]| {
            let folder = tempfile::tempdir().unwrap();
            for (n, name) in files.iter().enumerate() {
                put(folder.path(), name, &n.to_string());
            }
            load_examples(Some(folder.path()), &tasks)
        };
        let texts: Vec<String> =
            load(&["a__10.md", "a__2.md"]).unwrap().into_iter().map(|e| format!("{}{}", e.task, e.text)).collect();
        assert_eq!(texts, ["a1", "a0"]);
        for (name, expected) in
            [("a.md", "<task id>__<n>.md"), ("b__1.md", "belongs to no task"), ("h__1.md", "leak a task")]
        {
            let e = load(&[name]).unwrap_err().to_string();
            assert!(e.contains(expected) && e.contains(name), "{e}");
        }
    }

    #[test]
    fn the_built_in_tasks_load_and_no_fusion_has_the_name_of_a_kernelbench_problem() {
        let tasks = load_tasks(None).unwrap();
        for split in [Split::Train, Split::Validation, Split::HeldOut] {
            assert!(tasks.iter().any(|t| t.split == split), "no built-in task in {split:?}");
        }
        assert!(tasks.iter().all(|t| !t.tags.is_empty()));
        let names = kernelbench_names();
        assert!(names.len() >= 250, "{} names", names.len());
        // A single operator is called what it is called; a fusion with a benchmark's name would be the benchmark's.
        let fused: Vec<TaskSpec> = tasks.iter().filter(|t| t.level > 1).cloned().collect();
        assert_eq!(contamination(&fused, &names), []);
        assert!(!load_examples(None, &tasks).unwrap().is_empty());
    }

    #[test]
    fn contamination_ignores_numbers_shapes_and_levels() {
        let task = |id: &str| TaskSpec {
            id: TaskId(id.into()),
            level: 1,
            split: Split::Train,
            tags: vec![],
            source: String::new(),
        };
        let tasks = [task("l1_re_lu_4x4"), task("l1_softmax_rows_16x128"), task("l2_matmul_max_pool_sum_scale_8x8")];
        let names = ["level1/19_ReLU", "level1/23_Softmax", "level2/55_Matmul_MaxPool_Sum_Scale"];
        let found = contamination(&tasks, &names);
        assert_eq!(
            found.iter().map(|(t, _)| t.0.as_str()).collect::<Vec<_>>(),
            ["l1_re_lu_4x4", "l2_matmul_max_pool_sum_scale_8x8"]
        );
    }
}
