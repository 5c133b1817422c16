//! What is in a pod: the container's command, its probes, how it ends, and what it may do.
//!
//! The security context is as strict as the sandbox of candidates allows (docs/sandbox.md): it makes user, mount, pid and network
//! namespaces, as an ordinary user without any capability of the pod's; the usual seccomp profiles of container runtimes forbid just
//! that, so the pods in which candidates run have none around, or the one of `launch.k8s_seccomp`.

use serde_json::{Value, json};

use super::k8s::{labels, ports};
use super::plan::{POD_COOKIE, POD_RUN, POD_RUN_FILE, Part, Role};
use crate::config::Config;

/// The user that everything in a pod is.
const USER: u32 = 1000;
/// Where the Python environment and the warm start are kept.
const NODE_CACHE: &str = "/cache";
const HEAD_CACHE: &str = "/data/cache";
/// Seconds more than `launch.stop_s` before the pod is killed.
const GRACE_MARGIN_S: u64 = 30;
/// A head that has not begun to listen after so long is started again: a Python environment, a warm start.
const START_S: u64 = 6 * 3600;
/// A head that does not answer, or a node that the head does not know, for so long is started again.
const ALIVE_S: u64 = 600;

/// Begins the run or goes on with it, hands the signal to stop on to it, and rests when it is over: a StatefulSet starts what ends
/// again. `$1` is the run directory, the rest is the command that begins.
pub const HEAD_SCRIPT: &str = r#"dir=$1; shift
if [ ! -e "$dir.over" ]; then
    if [ -e "$dir/run.sqlite" ]; then set -- "$1" resume "$dir"; fi
    "$@" & child=$!
    trap 'kill -TERM $child' TERM INT
    while :; do
        wait $child; code=$?
        kill -0 $child 2>/dev/null || break
    done
    [ $code -eq 0 ] || exit $code
    : > "$dir.over"
fi
trap 'exit 0' TERM INT
while :; do sleep 60 & wait $!; done
"#;
/// `$1` is the program, the rest is how it reaches the head. Answers as long as nodes can join.
pub const HEAD_READY: &str = r#""$@" >/dev/null"#;
/// `$1` is the run directory. A run that is over is well.
pub const HEAD_ALIVE: &str = r#"over=$1.over; shift; [ -e "$over" ] || "$@" >/dev/null"#;
/// The head says that this node works.
pub const NODE_READY: &str = r#""$@" | grep -Eq "^$POD_NAME +ready ""#;
/// A head that cannot be asked is not the node's fault; one that does not know the node has given it up.
pub const NODE_ALIVE: &str = r#"rows=$("$@") || exit 0; printf '%s\n' "$rows" | grep -q "^$POD_NAME ""#;
/// `$1` is the program. Ends what it has, and leaves; the signal that follows finds it gone.
pub const NODE_STOP: &str = r#"program=$1; shift; exec "$program" drain "$POD_NAME" "$@""#;

/// The head's pod.
pub fn head(config: &Config, part: &Part, toml: &str) -> Value {
    let ask = ask(part, &format!("127.0.0.1:{}", ports(config)[0].1));
    let mut alive = vec![POD_RUN.to_string()];
    alive.extend(ask.clone());
    let mut begin = vec![POD_RUN.to_string(), part.program.clone()];
    begin.extend(part.args.clone());
    let container = json!({
        "name": "head",
        "image": config.launch.k8s_image,
        "command": shell(HEAD_SCRIPT, &begin),
        "workingDir": "/data",
        "env": environment(HEAD_CACHE),
        "ports": ports(config).map(|(name, port)| json!({ "name": name, "containerPort": port })),
        "resources": resources(part),
        "startupProbe": probe(&shell(HEAD_ALIVE, &alive), 10, START_S),
        "readinessProbe": probe(&shell(HEAD_READY, &ask), 15, 45),
        "livenessProbe": probe(&shell(HEAD_ALIVE, &alive), 30, ALIVE_S),
        "securityContext": container_security(),
        "volumeMounts": [mount("data", "/data"), mount("run-file", "/etc/troupe"), mount("cookie", "/etc/troupe-cookie"), mount("tmp", "/tmp")],
    });
    let volumes = json!([run_file(config), cookie(config), scratch("tmp")]);
    // Candidates run here only where the head has executors of its own.
    pod(config, "head", container, volumes, config.executor.workers > 0, toml)
}

/// A node's pod. What follows is right for every role: all of them join, are listed and are drained alike.
pub fn node(config: &Config, part: &Part, toml: &str) -> Value {
    let address = part.args.get(1).cloned().unwrap_or_default();
    let ask = ask(part, &address);
    let wait = config.launch.stop_s.to_string();
    let drain = [part.program.as_str(), "--head", &address, "-c", POD_RUN_FILE, "--wait-s", &wait].map(String::from);
    let command: Vec<String> = std::iter::once(part.program.clone()).chain(part.args.clone()).collect();
    let container = json!({
        "name": part.role.word(),
        "image": config.launch.k8s_image,
        "command": command,
        "workingDir": "/tmp",
        "env": environment(NODE_CACHE),
        "resources": resources(part),
        "startupProbe": probe(&shell(NODE_ALIVE, &ask), 10, ALIVE_S),
        "readinessProbe": probe(&shell(NODE_READY, &ask), 15, 45),
        "livenessProbe": probe(&shell(NODE_ALIVE, &ask), 30, ALIVE_S),
        "lifecycle": { "preStop": { "exec": { "command": shell(NODE_STOP, &drain) } } },
        "securityContext": container_security(),
        "volumeMounts": [mount("run-file", "/etc/troupe"), mount("cookie", "/etc/troupe-cookie"), mount("tmp", "/tmp"), mount("cache", NODE_CACHE)],
    });
    let volumes = json!([run_file(config), cookie(config), scratch("tmp"), scratch("cache")]);
    // Nor on a generator.
    pod(config, part.role.word(), container, volumes, part.role == Role::Executor, toml)
}

fn pod(config: &Config, component: &str, container: Value, volumes: Value, candidates: bool, toml: &str) -> Value {
    let seccomp = match (candidates, config.launch.k8s_seccomp.as_str()) {
        (false, _) => json!({ "type": "RuntimeDefault" }),
        (true, "") => json!({ "type": "Unconfined" }),
        (true, file) => json!({ "type": "Localhost", "localhostProfile": file }),
    };
    json!({
        "metadata": {
            "labels": labels(config, component),
            // A new run file is a new pod.
            "annotations": { "troupe/run-file": blake3::hash(toml.as_bytes()).to_hex().to_string() },
        },
        "spec": {
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": config.launch.stop_s + GRACE_MARGIN_S,
            "securityContext": {
                "runAsNonRoot": true,
                "runAsUser": USER,
                "runAsGroup": USER,
                "fsGroup": USER,
                "seccompProfile": seccomp,
            },
            "containers": [container],
            "volumes": volumes,
        },
    })
}

fn container_security() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "privileged": false,
        "readOnlyRootFilesystem": true,
        "capabilities": { "drop": ["ALL"] },
    })
}

fn environment(cache: &str) -> Value {
    json!([
        { "name": "POD_NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
        { "name": "HOME", "value": "/tmp" },
        { "name": "TROUPE_CACHE", "value": cache },
    ])
}

fn resources(part: &Part) -> Value {
    let mut all = serde_json::Map::new();
    if part.cpus > 0 {
        all.insert("cpu".into(), json!(part.cpus.to_string()));
    }
    if part.mem_mb > 0 {
        all.insert("memory".into(), json!(format!("{}M", part.mem_mb)));
    }
    if part.gpus > 0 {
        all.insert("nvidia.com/gpu".into(), json!(part.gpus.to_string()));
    }
    json!({ "limits": all, "requests": all })
}

/// `troupe nodes`: proves the cookie to the head and has its gateway answer.
fn ask(part: &Part, head: &str) -> Vec<String> {
    [part.program.as_str(), "nodes", "--head", head, "-c", POD_RUN_FILE].map(String::from).to_vec()
}

fn shell(script: &str, args: &[String]) -> Vec<String> {
    ["/bin/sh", "-c", script, "sh"].iter().map(|s| s.to_string()).chain(args.iter().cloned()).collect()
}

/// Fails after about `give_up_s`.
fn probe(command: &[String], period_s: u64, give_up_s: u64) -> Value {
    json!({
        "exec": { "command": command },
        "periodSeconds": period_s,
        "timeoutSeconds": 10,
        "failureThreshold": (give_up_s / period_s).max(1),
    })
}

fn mount(name: &str, path: &str) -> Value {
    match name {
        "run-file" | "cookie" => json!({ "name": name, "mountPath": path, "readOnly": true }),
        _ => json!({ "name": name, "mountPath": path }),
    }
}

fn run_file(config: &Config) -> Value {
    json!({ "name": "run-file", "configMap": { "name": format!("{}-config", config.launch.k8s_name) } })
}

fn cookie(config: &Config) -> Value {
    let file = POD_COOKIE.rsplit('/').next().unwrap_or_default();
    json!({
        "name": "cookie",
        "secret": {
            "secretName": config.launch.k8s_secret,
            "defaultMode": 0o440,
            "items": [{ "key": file, "path": file }],
        },
    })
}

fn scratch(name: &str) -> Value {
    json!({ "name": name, "emptyDir": {} })
}
