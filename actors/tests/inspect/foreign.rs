//! Whoever looks leaves nothing behind: at an ended run, a crashed one, a copy, and as another user.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use actors::inspect::Run;
use actors::inspect::query::Query;

use crate::cli_common::{Place, got};
use crate::fixture;

/// Nobody in particular.
const OTHER: u32 = 65534;

/// Of each file: name, size, owner, when it was changed (nanoseconds).
fn files(dir: &Path) -> Vec<(String, u64, u32, i64)> {
    let mut all: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let about = entry.metadata().unwrap();
            (entry.file_name().to_string_lossy().into_owned(), about.size(), about.uid(), about.mtime_nsec())
        })
        .collect();
    all.sort();
    all
}

fn copy(from: &Path, to: &Path, names: &[&str]) {
    std::fs::create_dir_all(to).unwrap();
    for name in names {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

/// Folders below `place`: a run that ended, and copies of one that goes on, as a crash leaves it, with and without what its readers
/// share. All with the same rollouts.
fn folders(place: &Path) -> [std::path::PathBuf; 3] {
    let [ended, crashed, copied] = ["ended", "crashed", "copied"].map(|name| place.join(name));
    let writer = fixture::begin(&ended).unwrap();
    let first = fixture::hostile(&writer.handle()).unwrap();
    writer.handle().send(fixture::issued(first)).unwrap();
    writer.handle().flush(std::time::Duration::from_secs(30)).unwrap();
    copy(&ended, &crashed, &["run.sqlite", "run.sqlite-wal", "run.sqlite-shm"]);
    copy(&ended, &copied, &["run.sqlite", "run.sqlite-wal"]);
    writer.stop().unwrap();
    assert!(!ended.join("run.sqlite-wal").exists(), "it is merged when the last one leaves");
    [ended, crashed, copied]
}

/// Planted and seen to fail: every store opened beside its writer, as one that goes on.
#[test]
fn a_run_that_nobody_writes_is_looked_at_without_a_trace() {
    let place = tempfile::tempdir().unwrap();
    let mut seen = Vec::new();
    for folder in folders(place.path()) {
        let before = files(&folder);
        for _ in 0..2 {
            let run = Run::open(&folder).unwrap();
            run.catch_up().unwrap();
            run.overview().unwrap();
            run.timeline(3600).unwrap();
            let page =
                run.page(&Query { filter: "not answer ~ nowhere".into(), limit: 100, ..Query::default() }).unwrap();
            seen.push(format!("{:?} {:?}", page.rollouts, run.rollout_page(2).unwrap()));
        }
        // Of a crashed run the index that readers share was there, and is theirs to write.
        let but_shared = |all: Vec<(String, u64, u32, i64)>| -> Vec<_> {
            all.into_iter().map(|f| if f.0.ends_with("-shm") { (f.0, 0, f.2, 0) } else { f }).collect()
        };
        assert_eq!(but_shared(files(&folder)), but_shared(before), "{}", folder.display());
    }
    seen.dedup();
    assert_eq!(seen.len(), 1, "{seen:#?}");
}

#[test]
fn another_user_sees_the_same_and_leaves_nothing_for_the_owner_to_stumble_over() {
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: another user can only be tried as root");
    }
    let place = Place::new();
    let all = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    // Where the program is built that user may not look.
    let program = place.path().join("troupe");
    std::fs::copy(env!("CARGO_BIN_EXE_troupe"), &program).unwrap();
    all(place.path(), 0o755);
    let mut said = Vec::new();
    for folder in folders(place.path()) {
        // A folder in which everybody may write, one in which nobody else may, and files that are anybody's.
        for (mode, of_files) in [(0o777, 0o644), (0o755, 0o644), (0o777, 0o666)] {
            all(&folder, mode);
            for (name, ..) in files(&folder) {
                all(&folder.join(name), of_files);
            }
            let before = files(&folder);
            let mut command = std::process::Command::new(&program);
            command.args(["rollouts", "--jsonl"]).arg(&folder).current_dir("/").env_clear().uid(OTHER).gid(OTHER);
            let got = got(command);
            said.push(got.succeeds().out.clone());
            let named = |all: Vec<(String, u64, u32, i64)>| all.into_iter().map(|f| (f.0, f.2)).collect::<Vec<_>>();
            assert_eq!(named(files(&folder)), named(before), "{} {mode:o}", folder.display());
        }
        // Its owner goes on there.
        let writer = actors::store::Writer::start(actors::store::StoreConfig::new(folder), Box::new(|_| {})).unwrap();
        writer.handle().send(fixture::issued(500)).unwrap();
        writer.stop().unwrap();
    }
    said.dedup();
    assert_eq!((said.len(), said[0].lines().count()), (1, fixture::HOSTILE.len() + 1), "{said:#?}");
}

/// Who looks at a run that ended sees it go on.
#[test]
fn a_run_that_goes_on_is_followed_by_whoever_looked_at_it_before() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    let place = tempfile::tempdir().unwrap();
    let [ended, ..] = folders(place.path());
    let run = Arc::new(Run::open(&ended).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let thread = run.follow(stop.clone()).unwrap();
    let until = |holds: &dyn Fn() -> bool| {
        let began = std::time::Instant::now();
        while !holds() {
            assert!(began.elapsed().as_secs() < 30, "it did not come to hold");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    };
    until(&|| run.pulse().loaded);
    let steps = run.overview().unwrap().steps.x.len();
    let config = actors::store::StoreConfig::new(ended.clone());
    let writer = actors::store::Writer::start(config, Box::new(|_| {})).unwrap();
    writer.handle().send(fixture::issued(900)).unwrap();
    writer.handle().send(vec![fixture::step(9)]).unwrap();
    until(&|| run.table().row(900).is_some());
    until(&|| run.overview().unwrap().steps.x.len() == steps + 1);
    stop.store(true, Ordering::Relaxed);
    thread.join().unwrap();
    writer.stop().unwrap();
}
