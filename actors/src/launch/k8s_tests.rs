//! Tests of the manifests: what is asked for is in them, the cookie is not, and the shell lines in them do what they say. Whether they
//! are Kubernetes objects at all is checked against its schemas in `tests/launch`.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::super::k8s_pods::{HEAD_ALIVE, HEAD_SCRIPT, NODE_ALIVE, NODE_READY, NODE_STOP};
use super::super::{Mode, Site};
use super::*;

fn rendered(sets: &[&str]) -> Value {
    let base = ["cluster.listen=0.0.0.0:7440", "launch.k8s_image=registry.example/troupe:1"];
    let sets: Vec<String> = base.iter().chain(sets).map(|s| s.to_string()).collect();
    let config = Config::load(&[], &sets).unwrap();
    let site = Site { run_dir: "/x".into(), program: "/opt/troupe".into(), resumed: false, generators: true };
    manifests(&config, &Plan::new(Mode::K8s, &config, &site).unwrap())
}

fn find<'a>(all: &'a Value, kind: &str, name: &str) -> &'a Value {
    let items = all["items"].as_array().unwrap();
    items.iter().find(|i| i["kind"] == kind && i["metadata"]["name"] == name).unwrap_or_else(|| panic!("{kind} {name}"))
}

#[test]
fn what_the_run_file_asks_for_is_in_the_objects() {
    let all = rendered(&[
        "launch.executors=3",
        "launch.generators=2",
        "launch.executor_gpus=4",
        "gpu.devices=all",
        "launch.executor_cpus=16",
        "launch.executor_mem_mb=64000",
        "launch.generator_gpus=1",
        "launch.k8s_name=rl",
        "launch.k8s_namespace=team",
        "launch.k8s_storage_class=fast",
        "launch.k8s_storage_gb=77",
        "launch.stop_s=200",
        "cluster.bulk_port=7500",
        "executor.workers=0",
    ]);
    let executors = find(&all, "Deployment", "rl-executor");
    assert_eq!(executors["spec"]["replicas"], 3);
    let pod = &executors["spec"]["template"]["spec"];
    let limits = &pod["containers"][0]["resources"]["limits"];
    assert_eq!(
        (&limits["nvidia.com/gpu"], &limits["cpu"], &limits["memory"]),
        (&"4".into(), &"16".into(), &"64000M".into())
    );
    assert_eq!(pod["terminationGracePeriodSeconds"], 230);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "Unconfined");
    assert_eq!(find(&all, "Deployment", "rl-generator")["spec"]["replicas"], 2);
    let head = find(&all, "StatefulSet", "rl-head");
    assert_eq!(head["spec"]["serviceName"], find(&all, "Service", "rl-head")["metadata"]["name"]);
    let claim = &head["spec"]["volumeClaimTemplates"][0]["spec"];
    assert_eq!(
        (&claim["storageClassName"], &claim["resources"]["requests"]["storage"]),
        (&"fast".into(), &"77Gi".into())
    );
    // No candidate runs in it.
    assert_eq!(head["spec"]["template"]["spec"]["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    let service = find(&all, "Service", "rl-head");
    let ports: Vec<u64> =
        service["spec"]["ports"].as_array().unwrap().iter().map(|p| p["port"].as_u64().unwrap()).collect();
    assert_eq!((ports, &service["spec"]["clusterIP"]), (vec![7440, 7500], &"None".into()));
    assert!(all["items"].as_array().unwrap().iter().all(|i| i["metadata"]["namespace"] == "team"));
}

#[test]
fn the_pods_have_no_rights_and_the_cookie_only_by_name() {
    let all = rendered(&["launch.k8s_secret=my-secret", "launch.k8s_seccomp=profiles/troupe.json"]);
    for (kind, name) in [("StatefulSet", "troupe-head"), ("Deployment", "troupe-executor")] {
        let pod = &find(&all, kind, name)["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        let rights = &container["securityContext"];
        assert_eq!(
            (&rights["allowPrivilegeEscalation"], &rights["readOnlyRootFilesystem"]),
            (&false.into(), &true.into())
        );
        assert_eq!(rights["capabilities"]["drop"][0], "ALL");
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["seccompProfile"]["localhostProfile"], "profiles/troupe.json");
        let secret = pod["volumes"].as_array().unwrap().iter().find(|v| v["name"] == "cookie").unwrap();
        assert_eq!(secret["secret"]["secretName"], "my-secret");
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            assert!(
                container[probe]["exec"]["command"].as_array().unwrap().iter().any(|w| w == "nodes"),
                "{name} {probe}"
            );
        }
    }
    let toml = find(&all, "ConfigMap", "troupe-config")["data"]["cluster.toml"].as_str().unwrap();
    let inside = Config::from_resolved(toml, Path::new("pod")).unwrap();
    assert_eq!(inside.cluster.cookie_file, Path::new("/etc/troupe-cookie/cookie"));
}

/// A `troupe` for the shell lines: says its words, and ends with the code in the file `code`.
fn stand_in(dir: &Path) -> String {
    let path = dir.join("troupe");
    let text = "#!/bin/sh\nhere=$(dirname \"$0\")\necho \"$@\" >> \"$here/said\"\ncat \"$here/rows\" 2>/dev/null\n\
                exit $(cat \"$here/code\" 2>/dev/null || echo 0)\n";
    std::fs::write(&path, text).unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

fn sh(script: &str, args: &[&str]) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script, "sh"]).args(args).env("POD_NAME", "p-1").stdout(Stdio::null());
    command
}

#[test]
fn probes_say_what_they_mean() {
    let dir = tempfile::tempdir().unwrap();
    let troupe = stand_in(dir.path());
    let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let ok = |script: &str, args: &[&str]| sh(script, args).status().unwrap().success();
    let table = |state: &str| put("rows", &format!("node  state\np-10  ready\np-1   {state}  2\n"));
    table("ready");
    assert!(ok(NODE_READY, &[&troupe, "nodes"]) && ok(NODE_ALIVE, &[&troupe, "nodes"]));
    table("suspect");
    assert!(!ok(NODE_READY, &[&troupe, "nodes"]) && ok(NODE_ALIVE, &[&troupe, "nodes"]));
    put("rows", "node  state\np-10  ready\n");
    assert!(!ok(NODE_READY, &[&troupe, "nodes"]) && !ok(NODE_ALIVE, &[&troupe, "nodes"]));
    // The head cannot be asked: the node is not to blame, and not ready.
    put("code", "2");
    assert!(!ok(NODE_READY, &[&troupe, "nodes"]) && ok(NODE_ALIVE, &[&troupe, "nodes"]));
    let run = dir.path().join("run");
    let run = run.to_str().unwrap();
    assert!(!ok(HEAD_ALIVE, &[run, &troupe, "nodes"]));
    put("run.over", "");
    assert!(ok(HEAD_ALIVE, &[run, &troupe, "nodes"]));
    put("code", "0");
    put("said", "");
    assert!(ok(NODE_STOP, &[&troupe, "--head", "h:1"]));
    assert_eq!(std::fs::read_to_string(dir.path().join("said")).unwrap(), "drain p-1 --head h:1\n");
}

/// Begins, goes on after a failure, and rests when it is over, until it is told to end.
#[test]
fn the_heads_shell_begins_resumes_and_rests() {
    let dir = tempfile::tempdir().unwrap();
    let troupe = stand_in(dir.path());
    let run = dir.path().join("run");
    std::fs::create_dir(&run).unwrap();
    let args = [run.to_str().unwrap(), &troupe, "run", "-c", "f"];
    let said = || std::fs::read_to_string(dir.path().join("said")).unwrap();
    std::fs::write(dir.path().join("code"), "3").unwrap();
    assert_eq!(sh(HEAD_SCRIPT, &args).status().unwrap().code(), Some(3));
    std::fs::write(run.join("run.sqlite"), "").unwrap();
    assert_eq!(sh(HEAD_SCRIPT, &args).status().unwrap().code(), Some(3));
    assert_eq!(said(), format!("run -c f\nresume {}\n", run.display()));
    std::fs::write(dir.path().join("code"), "0").unwrap();
    let mut resting = sh(HEAD_SCRIPT, &args).spawn().unwrap();
    let over = dir.path().join("run.over");
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !over.exists() {
        assert!(std::time::Instant::now() < until, "{}", said());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    // Told to end before it rests, it still ends: the trap is set before `over` could be seen, or right after it.
    loop {
        let pid = rustix::process::Pid::from_child(&resting);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        if let Some(status) = resting.try_wait().unwrap() {
            assert_eq!(status.code(), Some(0));
            break;
        }
        assert!(std::time::Instant::now() < until);
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}
