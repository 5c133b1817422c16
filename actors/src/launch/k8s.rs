//! The plan as Kubernetes objects, one `List` in JSON, which `kubectl apply -f -` takes: the run file, a headless Service and a
//! StatefulSet with a volume for the head, a Deployment for each role of nodes, and who may reach whom.
//!
//! The cookie is in a Secret that is only named here. What is in a pod: `k8s_pods`.

use serde_json::{Value, json};

use super::k8s_pods;
use super::plan::{POD_COOKIE, POD_RUN_FILE, Part, Plan, Role};
use crate::config::Config;

/// The label of all objects of one run.
const NAME: &str = "app.kubernetes.io/name";
const COMPONENT: &str = "app.kubernetes.io/component";

/// All objects. `config` has not been made absolute: its paths are those of the pods.
pub fn manifests(config: &Config, plan: &Plan) -> Value {
    let mut inside = config.clone();
    inside.cluster.cookie_file = POD_COOKIE.into();
    let toml = inside.to_toml();
    let mut items = vec![
        object(config, "v1", "ConfigMap", "config", json!({})),
        service(config),
        head(config, &plan.head, &toml),
        policy(config),
    ];
    let file = POD_RUN_FILE.rsplit('/').next().unwrap_or_default();
    items[0]["data"] = json!({ file: toml });
    items.extend(plan.nodes.iter().map(|part| nodes(config, part, &toml)));
    json!({ "apiVersion": "v1", "kind": "List", "items": items })
}

pub fn labels(config: &Config, component: &str) -> Value {
    json!({ NAME: config.launch.k8s_name, COMPONENT: component })
}

/// An object without its spec, or with it where that is not empty.
fn object(config: &Config, version: &str, kind: &str, component: &str, spec: Value) -> Value {
    let launch = &config.launch;
    let mut object = json!({
        "apiVersion": version,
        "kind": kind,
        "metadata": {
            "name": format!("{}-{component}", launch.k8s_name),
            "namespace": launch.k8s_namespace,
            "labels": labels(config, component),
        },
    });
    if spec.as_object().is_some_and(|s| !s.is_empty()) {
        object["spec"] = spec;
    }
    object
}

/// (name, number) of the head's ports.
pub fn ports(config: &Config) -> [(&'static str, u16); 2] {
    [("cluster", config.cluster.endpoint().map_or(0, |(_, port)| port)), ("bulk", config.cluster.side_port())]
}

/// Gives the head's pod a name that stays. Nodes join before the head is ready: its readiness is that they can.
fn service(config: &Config) -> Value {
    let ports: Vec<Value> =
        ports(config).iter().map(|(name, port)| json!({ "name": name, "port": port, "targetPort": port })).collect();
    let spec = json!({
        "clusterIP": "None",
        "publishNotReadyAddresses": true,
        "selector": labels(config, "head"),
        "ports": ports,
    });
    object(config, "v1", "Service", "head", spec)
}

fn head(config: &Config, part: &Part, toml: &str) -> Value {
    let launch = &config.launch;
    let mut claim = json!({
        "accessModes": ["ReadWriteOnce"],
        "resources": { "requests": { "storage": format!("{}Gi", launch.k8s_storage_gb) } },
    });
    if !launch.k8s_storage_class.is_empty() {
        claim["storageClassName"] = json!(launch.k8s_storage_class);
    }
    let spec = json!({
        "serviceName": format!("{}-head", launch.k8s_name),
        "replicas": 1,
        "selector": { "matchLabels": labels(config, "head") },
        "template": k8s_pods::head(config, part, toml),
        "volumeClaimTemplates": [{
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": { "name": "data", "labels": labels(config, "head") },
            "spec": claim,
        }],
    });
    object(config, "apps/v1", "StatefulSet", "head", spec)
}

fn nodes(config: &Config, part: &Part, toml: &str) -> Value {
    let component = part.role.word();
    let spec = json!({
        "replicas": part.count,
        "selector": { "matchLabels": labels(config, component) },
        "template": k8s_pods::node(config, part, toml),
    });
    object(config, "apps/v1", "Deployment", component, spec)
}

/// Nothing is encrypted between the pods: only the run's own reach the head, and nobody reaches a node, which listens nowhere.
fn policy(config: &Config) -> Value {
    let run = json!({ NAME: config.launch.k8s_name });
    let ports: Vec<Value> = ports(config).iter().map(|(_, port)| json!({ "protocol": "TCP", "port": port })).collect();
    let spec = json!({
        "podSelector": { "matchLabels": run },
        "policyTypes": ["Ingress"],
        "ingress": [{ "from": [{ "podSelector": { "matchLabels": run } }], "ports": ports }],
    });
    object(config, "networking.k8s.io/v1", "NetworkPolicy", "network", spec)
}

/// The role's object as `kubectl` calls it.
pub fn target(config: &Config, role: Role) -> String {
    let kind = if role == Role::Head { "statefulset" } else { "deployment" };
    format!("{kind}/{}-{}", config.launch.k8s_name, role.word())
}

#[cfg(test)]
#[path = "k8s_tests.rs"]
mod tests;
