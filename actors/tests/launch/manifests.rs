//! The manifests against the schemas of Kubernetes, by `kubernetes-validate` (PyPI), which brings them along. Skipped with the reason
//! where there is none; `TROUPE_KUBERNETES_VALIDATE` names it.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::cli_common::Place;

fn validator() -> Option<PathBuf> {
    let named = std::env::var_os("TROUPE_KUBERNETES_VALIDATE").map(PathBuf::from);
    if let Some(path) = named {
        assert!(path.exists(), "TROUPE_KUBERNETES_VALIDATE names {}, which is not there", path.display());
        return Some(path);
    }
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path).map(|dir| dir.join("kubernetes-validate")).find(|p| p.exists());
    if found.is_none() {
        let how = "`pip install kubernetes-validate`, or TROUPE_KUBERNETES_VALIDATE";
        crate::skip::skipped(crate::skip::Need::Kubernetes, format!("no kubernetes-validate ({how})"));
    }
    found
}

fn rendered(place: &Place, sets: &[&str]) -> Value {
    let mut args = vec!["launch", "k8s", "--set", "launch.k8s_image=registry.example/troupe:1"];
    args.extend(sets.iter().flat_map(|set| ["--set", set]));
    serde_json::from_str(&place.troupe(&args).succeeds().out).unwrap()
}

/// Planted: `replicas` as a text, and a probe's key misspelt: both are found.
#[test]
fn every_object_fits_its_schema() {
    let place = Place::new();
    let Some(validator) = validator() else { return };
    let validate = |object: &Value| {
        let file = place.put("object.json", object.to_string());
        let out = Command::new(&validator).arg("--strict").arg(file).output().unwrap();
        (
            out.status.success(),
            format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)),
        )
    };
    let all_keys = [
        "launch.executors=4",
        "launch.executor_gpus=1",
        "gpu.devices=all",
        "launch.executor_cpus=8",
        "launch.executor_mem_mb=32000",
        "launch.head_gpus=1",
        "launch.head_cpus=4",
        "launch.head_mem_mb=64000",
        "launch.k8s_storage_class=fast",
        "launch.k8s_seccomp=profiles/troupe.json",
        "launch.k8s_namespace=team",
        "generator.here=false",
        "launch.generators=2",
        "launch.generator_gpus=2",
        "launch.generator_cpus=4",
    ];
    // Without generators, and with a Deployment of them.
    for (sets, objects) in [(&[][..], 5), (&all_keys, 6)] {
        let all = rendered(&place, sets);
        let items = all["items"].as_array().unwrap();
        assert_eq!(items.len(), objects);
        for item in items {
            let (valid, told) = validate(item);
            assert!(valid, "{}: {told}", item["kind"]);
            println!("{} {}: valid", item["kind"], item["metadata"]["name"]);
        }
    }
    let mut broken = rendered(&place, &[])["items"][4].clone();
    assert_eq!(broken["kind"], "Deployment");
    broken["spec"]["replicas"] = Value::from("three");
    assert!(!validate(&broken).0, "the validator takes anything");
    broken["spec"]["replicas"] = Value::from(3);
    broken["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["periodSecond"] = Value::from(3);
    assert!(!validate(&broken).0, "the validator takes unknown keys");
}

fn named<'a>(all: &'a Value, kind: &str, name: &str) -> &'a Value {
    let found = |item: &&Value| item["kind"] == kind && item["metadata"]["name"] == name;
    all["items"].as_array().unwrap().iter().find(found).unwrap_or_else(|| panic!("no {kind} {name}"))
}

/// Each role has the GPUs that its keys name, and all three probes; also where no validator is.
#[test]
fn head_executors_and_generators_have_their_gpus_and_probes() {
    let place = Place::new();
    let all = rendered(
        &place,
        &[
            "generator.here=false",
            "gpu.devices=all",
            "launch.head_gpus=1",
            "launch.executors=4",
            "launch.executor_gpus=2",
            "launch.generators=3",
            "launch.generator_gpus=3",
        ],
    );
    let parts = [
        ("StatefulSet", "troupe-head", 1, "1"),
        ("Deployment", "troupe-executor", 4, "2"),
        ("Deployment", "troupe-generator", 3, "3"),
    ];
    for (kind, name, replicas, gpus) in parts {
        let spec = &named(&all, kind, name)["spec"];
        assert_eq!(spec["replicas"], replicas, "{name}");
        let container = &spec["template"]["spec"]["containers"][0];
        for of in ["limits", "requests"] {
            assert_eq!(container["resources"][of]["nvidia.com/gpu"], gpus, "{name}");
        }
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            let command = container[probe]["exec"]["command"].to_string();
            assert!(
                command.contains("nodes") && container[probe]["failureThreshold"].as_u64() >= Some(1),
                "{name}: {command}"
            );
        }
    }
    // A generator runs no candidates: it needs no exception from the runtime's profile.
    let seccomp = |name: &str| {
        named(&all, "Deployment", name)["spec"]["template"]["spec"]["securityContext"]["seccompProfile"]["type"].clone()
    };
    assert_eq!(
        (seccomp("troupe-generator"), seccomp("troupe-executor")),
        ("RuntimeDefault".into(), "Unconfined".into())
    );
}

/// What a dry run puts before the manifests are comments, so that it can be applied as well.
#[test]
fn a_dry_run_is_the_placement_and_the_same_manifests() {
    let place = Place::new();
    let sets = ["--set", "launch.k8s_image=i"];
    let plain = place.troupe(&[&["launch", "k8s"], &sets[..]].concat());
    let dry = place.troupe(&[&["launch", "k8s", "--dry-run"], &sets[..]].concat());
    let (comments, rest): (Vec<&str>, Vec<&str>) = dry.succeeds().out.lines().partition(|line| line.starts_with('#'));
    assert!(comments.iter().any(|line| line.contains("a pod of a StatefulSet")), "{comments:?}");
    assert_eq!(rest.join("\n"), plain.succeeds().out.trim_end());
}
