//! Reads what a child says it saw of itself. It is the candidate's word: everything is bounded, nothing is trusted more
//! than that a candidate would rather not say it.

use rollout::evidence::{Evidence, Seen};
use serde_json::Value;

const MAX_NAMED: usize = 8;
const MAX_NAME: usize = 80;
const MAX_SIGNATURES: usize = 64;
const MAX_WORDS: usize = 2000;

/// `draws` are ours, one for each of `forwards`; `compiled` is what a compiled forward launched, for the comparison
/// with the last forward, which had inputs of the same shapes.
pub(crate) fn read(draws: &Value, forwards: &Value, compiled: &Value) -> Evidence {
    let none = Vec::new();
    let list = |v: &'_ Value| v.as_array().map_or(0, Vec::len);
    let count = list(draws).min(list(forwards));
    let (draws, forwards) = (draws.as_array().unwrap_or(&none), forwards.as_array().unwrap_or(&none));
    let seen: Vec<Seen> = draws.iter().zip(forwards).take(count).map(|(draw, said)| forward(draw, said)).collect();
    let last = forwards.last().map(|said| words(&said["signatures"])).unwrap_or_default();
    // What a grid may depend on that compilation does not have: numbers that a kernel made. Kernels it has to have.
    let asks_data = seen.last().is_some_and(|s| s.reads > 0);
    let known = names(compiled);
    // Which kernel is right may depend on the shape.
    let same_shape = draws.iter().zip(forwards).filter(|(draw, _)| draw["kind"] != "another shape");
    let unknown = same_shape.flat_map(|(_, said)| names(&said["signatures"])).find(|name| !known.contains(name));
    let compiled = words(compiled);
    let two_faces = match unknown {
        Some(name) => Some((compiled, name)),
        None => (!asks_data && compiled != last).then_some((compiled, last)),
    };
    Evidence { forwards: seen, two_faces, ..Evidence::default() }
}

/// What many calls with the same arguments launched, and what torch computed in one of them.
pub(crate) fn drift(evidence: &mut Evidence, said: &Value) {
    evidence.calls = u32::try_from(said["calls"].as_u64().unwrap_or(0)).unwrap_or(u32::MAX);
    evidence.drift = said["other"].is_array().then(|| (words(&said["first"]), words(&said["other"])));
    let computed = computed(said);
    if !computed.is_empty() {
        let draw = "one of many calls".to_owned();
        evidence.forwards.push(Seen { draw, computed, ..Seen::default() });
    }
}

fn computed(said: &Value) -> Vec<(String, u64)> {
    let named = said["computed"].as_array().map(Vec::as_slice).unwrap_or_default();
    let one = |pair: &Value| {
        let name: String = pair[0].as_str().unwrap_or("?").chars().take(MAX_NAME).collect();
        (name, pair[1].as_u64().unwrap_or(0))
    };
    named.iter().take(MAX_NAMED).map(one).collect()
}

fn forward(draw: &Value, said: &Value) -> Seen {
    let number = |key: &str| said[key].as_u64().unwrap_or(0);
    let small = |key: &str| u32::try_from(number(key)).unwrap_or(u32::MAX);
    let kind = draw["kind"].as_str().unwrap_or("?");
    let train = if draw["train"] == true { "as built" } else { "inference" };
    let grad = if draw["grad"] == true { "on" } else { "off" };
    Seen {
        draw: format!("{kind}, {train}, grad {grad}"),
        launches: small("launches"),
        computed: computed(said),
        reads: small("reads"),
        kernel_bytes: number("kernel_bytes"),
        remembered_bytes: number("remembered"),
        stray_loads: number("stray_loads"),
        stray_stores: number("stray_stores"),
        raced: number("raced"),
        torch_bytes: number("bytes"),
    }
}

/// The kernels of some launches.
fn names(signatures: &Value) -> std::collections::BTreeSet<String> {
    let list = signatures.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(|launch| Some(launch[0].as_str()?.chars().take(MAX_NAME).collect())).collect()
}

/// Launches in words, one after the other.
fn words(signatures: &Value) -> String {
    let list = signatures.as_array().map(Vec::as_slice).unwrap_or_default();
    let one = |launch: &Value| {
        let grid: Vec<String> = launch[1].as_array().map_or(Vec::new(), |g| g.iter().map(Value::to_string).collect());
        format!("{}[{}]({})", launch[0].as_str().unwrap_or("?"), grid.join(","), launch[2].as_str().unwrap_or("?"))
    };
    let all: Vec<String> = list.iter().take(MAX_SIGNATURES).map(one).collect();
    all.join("; ").chars().take(MAX_WORDS).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DRAW: &str = r#"{"kind": "nominal", "train": false, "grad": true}"#;

    #[test]
    fn a_forward_is_read_with_its_draw() {
        let draws = json!([serde_json::from_str::<Value>(DRAW).unwrap()]);
        let said = json!([{"launches": 2, "kernel_bytes": 30, "bytes": 10, "reads": 0, "computed": [["mm", 64]],
            "signatures": [["k", [4, 1, 1], "torch.float32x8 8"]]}]);
        let compiled = json!([["k", [4, 1, 1], "torch.float32x8 8"]]);
        let evidence = read(&draws, &said, &compiled);
        assert_eq!(evidence.forwards[0].draw, "nominal, inference, grad on");
        assert_eq!(evidence.forwards[0].computed, [("mm".to_owned(), 64)]);
        assert_eq!(evidence.share(), Some(0.75));
        assert_eq!(evidence.two_faces, None);
        let other = read(&draws, &said, &json!([["k", [2, 1, 1], "torch.float32x8 8"]]));
        assert!(other.two_faces.unwrap().0.contains("k[2,1,1]"));
    }

    /// Planted: nothing compared once a number was read (as it was). Seen: a kernel that was never compiled goes unnoticed.
    #[test]
    fn every_kernel_was_compiled_whatever_is_read() {
        let draws = json!([serde_json::from_str::<Value>(DRAW).unwrap(), {"kind": "another shape"}]);
        let launches = |name: &str| json!({"launches": 1, "reads": 1, "signatures": [[name, [1, 1, 1], "8"]]});
        let faces = |own: &str, other: &str, compiled: &str| {
            read(&draws, &json!([launches(own), launches(other)]), &json!([[compiled, [9, 1, 1], "8"]])).two_faces
        };
        assert_eq!(faces("k", "k", "k"), None, "the grid may depend on what is read");
        assert_eq!(faces("k", "for_large", "k"), None, "the kernel may depend on the shape");
        assert_eq!(faces("hidden", "k", "k").unwrap().1, "hidden");
    }

    #[test]
    fn lies_and_floods_are_bounded() {
        let long = "x".repeat(10_000);
        let many: Vec<Value> = (0..1000).map(|_| json!([long, u64::MAX])).collect();
        let said = json!([{"launches": u64::MAX, "computed": many, "signatures": many}, 7, null]);
        let evidence = read(&json!([{}]), &said, &Value::Null);
        assert_eq!(evidence.forwards.len(), 1);
        assert_eq!(evidence.forwards[0].launches, u32::MAX);
        assert_eq!(evidence.forwards[0].computed.len(), MAX_NAMED);
        assert!(evidence.two_faces.is_none_or(|(a, b)| a.len() + b.len() <= 2 * MAX_WORDS));
    }
}
