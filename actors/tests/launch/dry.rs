//! What `--dry-run` shows, what is refused, and that neither makes anything.

use crate::cli_common::{PARTS, Place};

const SLURM: &str =
    "[launch]\nexecutors = 3\nexecutor_cpus = 16\nslurm_partition = \"gpu\"\nslurm_time = \"1-00:00:00\"\n";

#[test]
fn a_dry_run_shows_who_is_where_and_makes_nothing() {
    let place = Place::new();
    let before = || std::fs::read_dir(place.path()).unwrap().count();
    let count = before();
    let local = place.troupe(&["launch", "local", "--dry-run", "--set", "launch.executors=2"]);
    for text in ["head ", "executor-1", "executor-2", "this machine", "--role executor", "# resolved configuration"] {
        assert!(local.succeeds().out.contains(text), "`{text}` in\n{}", local.out);
    }
    let hosts = "launch.hosts=[\"gpu1\", \"me@gpu2\"]";
    let ssh = place.troupe(&[
        "launch",
        "ssh",
        "--dry-run",
        "--set",
        hosts,
        "--set",
        "cluster.listen=0.0.0.0:7440",
        "--set",
        "launch.advertise=head.example",
    ]);
    for text in ["host gpu1", "host me@gpu2", "ssh -T", "BatchMode=yes", "join head.example:7440", "--tied"] {
        assert!(ssh.succeeds().out.contains(text), "`{text}` in\n{}", ssh.out);
    }
    assert_eq!(before(), count, "something was made");
    place.put("cluster.toml", SLURM);
    let slurm = place.troupe(&["launch", "slurm", "--dry-run"]);
    for text in [
        "a Slurm job array of 3",
        "#SBATCH --cpus-per-task=16",
        "#SBATCH --partition=gpu",
        "#SBATCH --time=1-00:00:00",
        "#SBATCH --signal=B:INT@120",
        "--array=0-2",
        "head.address",
    ] {
        assert!(slurm.succeeds().out.contains(text), "`{text}` in\n{}", slurm.out);
    }
    assert_eq!(before(), count + 1, "something was made");
}

#[test]
fn what_cannot_be_launched_is_one_error() {
    let place = Place::new();
    place
        .troupe(&["launch", "ssh", "--set", "cluster.listen=127.0.0.1:7440"])
        .fails(2, PARTS)
        .fails(2, &["launch.hosts"]);
    place.put("slurm.toml", SLURM);
    let idle = place.troupe(&["launch", "local", "-c", "slurm.toml"]);
    idle.fails(2, PARTS)
        .fails(2, &["`launch.executor_cpus` has no effect on `troupe launch local`", "slurm.toml, line 3"]);
    // One run file for a launch and for a plain run: a run does not look at it. Set for a run, it is an error.
    place.troupe(&["run", "-c", "slurm.toml", "--dry-run"]).succeeds();
    place.troupe(&["run", "--set", "launch.executors=2"]).fails(2, PARTS).fails(2, &["no effect on `troupe run`"]);
    place.troupe(&["launch", "local", "--resume", "nowhere"]).fails(2, &["error: ", "nowhere"]);
    place.troupe(&["launch", "slurm", "--grow", "2", "--run-dir", "nowhere"]).fails(2, &["error: ", "hint:"]);
    place.troupe(&["launch", "k8s"]).fails(2, PARTS).fails(2, &["launch.k8s_image"]);
    // Slurm is not in PATH there.
    let got = place.troupe(&["launch", "slurm", "-c", "slurm.toml", "--run-dir", "run"]);
    got.fails(2, PARTS).fails(2, &["Slurm", "sbatch", "PATH"]);
}

#[test]
fn a_tied_node_needs_its_cookie_on_stdin() {
    let place = Place::new();
    let got = place.troupe(&["join", "127.0.0.1:1", "--role", "executor", "--tied"]);
    got.fails(2, &["no cookie came in", "stdin", "nothing"]);
}
