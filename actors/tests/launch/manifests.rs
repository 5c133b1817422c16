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
        eprintln!("skipped: no kubernetes-validate (`pip install kubernetes-validate`, or TROUPE_KUBERNETES_VALIDATE)");
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
    ];
    for sets in [&[][..], &all_keys] {
        let all = rendered(&place, sets);
        let items = all["items"].as_array().unwrap();
        assert_eq!(items.len(), 5);
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
