//! SIGUSR1 at real processes, a head and its nodes: what they are at, also when nobody is left who does the work.

use std::path::Path;
use std::time::Instant;

use actors::bench::cluster::scene::{Place, Process, Scene};
use serde_json::Value;

use crate::lab::{ports, wait_for};

/// What a process wrote when it was asked.
fn asked(process: &Process) -> Value {
    let said = || process.last().rsplit_once("state written to ").map(|(_, path)| path.to_string());
    let before = said();
    process.signal("USR1").unwrap();
    let path = wait_for("it says where", || said().filter(|path| Some(path) != before.as_ref()));
    let path = path.split(" | ").next().unwrap();
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn words<'a>(rows: &'a Value, key: &str) -> Vec<&'a str> {
    rows.as_array().unwrap().iter().filter_map(|row| row[key].as_str()).collect()
}

/// Planted: no listener in `join`. Seen: the node is ended by the signal.
#[test]
fn a_head_and_its_nodes_write_their_state_when_asked_also_in_a_stall() {
    let dir = tempfile::tempdir().unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_troupe")).to_path_buf();
    let listen = format!("127.0.0.1:{}", ports());
    let place = Place { program, dir: dir.path().join("run"), listen, ..Place::default() };
    std::fs::create_dir_all(&place.dir).unwrap();
    let scene = Scene::start(place, 2).unwrap();

    let state = asked(&scene.head);
    let cluster = &state["cluster"];
    assert_eq!((state["what"].as_str(), cluster["epoch"].as_u64()), (Some("head"), Some(1)), "{state:#}");
    assert_eq!(words(&cluster["nodes"], "name").len(), 2, "{cluster:#}");
    for node in cluster["nodes"].as_array().unwrap() {
        assert!(node["state"] == "ready" && node["silent_ms"].is_u64() && node["connected"] == true, "{node}");
    }
    let book = &state["logbook"];
    assert_eq!(book["actors"]["node node-1"]["last"], "joined");
    // Where the disk is slow all credits wait for the learner now and then, and executors have nothing to do.
    let state = wait_for("somebody is at work", || {
        let state = asked(&scene.head);
        let lanes = words(&state["logbook"]["under_way"], "lane");
        let works = lanes.iter().any(|lane| lane.starts_with("node-")) && state["cluster"]["errands"][0].is_object();
        works.then_some(state)
    });
    let (errand, book) = (&state["cluster"]["errands"][0], &state["logbook"]);
    assert!(errand["age_ms"].is_u64() && errand["unnamed_ms"].is_u64() && errand["rollout"].is_u64(), "{cluster:#}");
    let run = &book["samples"]["run"];
    assert!(run["age_ms"].is_u64() && run["value"]["credits"] == 256 && run["value"]["policy"].is_u64(), "{run}");
    assert_eq!(book["samples"]["pool"]["value"]["executors"], 8);
    assert!(state["live"]["value"]["executing"].is_u64(), "{state:#}");

    let node = asked(&scene.nodes[1]);
    let (book, value) = (&node["logbook"], &node["logbook"]["samples"]["node"]["value"]);
    assert_eq!((node["what"].as_str(), value["epoch"].as_u64()), (Some("node"), Some(1)), "{node:#}");
    assert!(value["duty"]["executors"] == 4 && value["duty"]["errands"].is_array(), "{value}");
    assert_eq!(book["actors"]["head"]["last"], "joined");
    assert!(book["samples"]["pool"]["age_ms"].is_u64(), "{book:#}");

    // Nobody is left: the executors' stage stands still, and the head says so.
    let began = Instant::now();
    scene.nodes.iter().for_each(|node| node.signal("STOP").unwrap());
    for n in 0..2 {
        scene.heard(began, &format!("node node-{n} is lost"), 1).unwrap();
    }
    let state = wait_for("everything waits for executors", || {
        let state = asked(&scene.head);
        (state["logbook"]["samples"]["pool"]["value"]["queued"].as_u64() > Some(0)).then_some(state)
    });
    assert_eq!(words(&state["cluster"]["nodes"], "name"), [""; 0]);
    let run = &state["logbook"]["samples"]["run"]["value"];
    assert!(run["executors"].as_u64() > Some(0) && run["silent_ms"]["executors"].is_u64(), "{run}");
    let fate = &state["logbook"]["actors"]["node node-0"];
    assert!(fate["last"] == "gone" && fate["detail"].as_str().unwrap().contains("silent"), "{fate}");
    assert!(words(&state["notes"], "text").iter().any(|text| text.contains("is lost")), "{state:#}");
}
