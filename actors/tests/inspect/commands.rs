//! `troupe dashboard` as a process: its address on stdout, its errors.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::cli_common::{PARTS, Place};
use crate::fixture;

const LONG: Duration = Duration::from_secs(60);

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn place() -> Place {
    let place = Place::new();
    let writer = fixture::begin(&place.path().join("run")).unwrap();
    fixture::hostile(&writer.handle()).unwrap();
    writer.stop().unwrap();
    place
}

#[test]
fn a_dashboard_says_where_it_is_and_answers_there() {
    let place = place();
    let mut command = place.command(&["dashboard", "run", "--listen", "127.0.0.1:0"]);
    let mut child = Ended(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("http://").and_then(|l| l.strip_suffix('/')).expect(&line).to_string();
    let mut stream = TcpStream::connect(&address).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    write!(stream, "GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("<title>Troupe</title>"), "{answer}");
}

#[test]
fn what_cannot_be_served_is_one_clear_error() {
    let place = place();
    let fails = |args: &[&str], texts: &[&str]| {
        let got = place.troupe(args);
        got.fails(2, PARTS).fails(2, texts);
    };
    fails(&["dashboard", "."], &["this is not a run directory"]);
    fails(&["dashboard", "run", "--listen", "0.0.0.0:0"], &["needs a token", "TROUPE_DASHBOARD_TOKEN"]);
    place.put("token", "short\n");
    fails(&["dashboard", "run", "--token-file", "token"], &["too short", "5 characters", "at least 16"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    fails(&["dashboard", "run", "--listen", &address], &["cannot be used", &address]);
}

#[test]
fn an_export_has_one_line_for_each_and_a_line_is_what_show_prints() {
    let place = place();
    let lines = |args: &[&str]| -> Vec<serde_json::Value> {
        let got = place.troupe(&[&["export", "run", "--format", "jsonl"], args].concat());
        got.succeeds().out.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    };
    let all = lines(&[]);
    assert_eq!(all.len(), fixture::HOSTILE.len());
    let one = place.troupe(&["rollouts", "run", "--show", "3", "--json"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&one.out).unwrap(), all[3]);
    assert_eq!(lines(&["--filter", "id >= 6"]), all[6..]);
    // The table's rows as JSON Lines, and one rollout on one line.
    let jsonl = |args: &[&str]| -> Vec<serde_json::Value> {
        let got = place.troupe(&[&["rollouts", "run", "--jsonl"], args].concat());
        got.succeeds().out.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    };
    let document = place.troupe(&["rollouts", "run", "--json"]);
    let rows: Vec<serde_json::Value> = serde_json::from_str(&document.out).unwrap();
    assert_eq!(jsonl(&[]), rows);
    assert_eq!(jsonl(&["--filter", "finding ~ 'NO FUNCTION' or id = 2"]), rows);
    assert_eq!(jsonl(&["--show", "3"]), all[3..4]);
    place.troupe(&["rollouts", "run", "--json", "--jsonl"]).fails(2, &["--jsonl"]);
    assert_eq!(lines(&["--what", "steps"])[7]["batch"]["reward_code"], 0.8);
    assert_eq!(lines(&["--what", "faults"]).len(), 4);
    place
        .troupe(&["export", "run", "--format", "jsonl", "--filter", "verdit = x"])
        .fails(2, &["did you mean `verdict`"]);
    place.troupe(&["export", "run"]).fails(2, &["--format"]);
}

#[test]
fn a_watcher_without_a_terminal_is_told_what_else_there_is() {
    let place = place();
    place.troupe(&["watch", "run"]).fails(2, PARTS).fails(2, &["needs a terminal", "troupe rollouts"]);
    place.troupe(&["watch", "http://127.0.0.1:1/"]).fails(2, PARTS).fails(2, &["cannot be asked", "--token-file"]);
    place.troupe(&["watch", "http://u:sesame@h/"]).fails(2, PARTS);
    place.put("token", "a-token-of-some-length\n");
    place.troupe(&["watch", "run", "--token-file", "token"]).fails(2, PARTS).fails(2, &["has no effect"]);
}

#[test]
fn what_is_printed_of_a_hostile_rollout_moves_no_cursor() {
    let place = Place::new();
    let writer = fixture::begin(&place.path().join("run")).unwrap();
    let first = fixture::hostile(&writer.handle()).unwrap();
    let all = fixture::hostile_best(&writer.handle(), first).unwrap();
    writer.stop().unwrap();
    for id in 0..all {
        let got = place.troupe(&["rollouts", "run", "--show", &id.to_string()]);
        let odd = |c: char| {
            (c.is_control() && c != '\n' && c != '\t') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        };
        assert!(!got.succeeds().out.contains(odd), "{id}: {:?}", got.out);
    }
    let got = place.troupe(&["rollouts", "run"]);
    assert!(!got.succeeds().out.contains('\u{1b}'), "{:?}", got.out);
}

fn json_of(row: &parquet::record::Row) -> serde_json::Value {
    use parquet::record::Field;
    fn value(field: &Field) -> serde_json::Value {
        match field {
            Field::Null => serde_json::Value::Null,
            Field::Long(v) => (*v).into(),
            Field::UInt(v) => (*v).into(),
            Field::Float(v) => (*v).into(),
            Field::Double(v) => (*v).into(),
            Field::Str(v) => v.as_str().into(),
            Field::ListInternal(list) => list.elements().iter().map(value).collect(),
            other => panic!("{other:?}"),
        }
    }
    row.get_column_iter().map(|(name, field)| (name.clone(), value(field))).collect::<serde_json::Map<_, _>>().into()
}

/// The same run in every format; what another program reads of it is what the store holds.
#[test]
fn every_format_holds_the_run() {
    let place = place();
    let export = |args: &[&str]| place.troupe(&[&["export", "run", "--format"], args].concat());
    export(&["parquet", "--out", "rollouts.parquet"]).succeeds();
    let file = std::fs::File::open(place.path().join("rollouts.parquet")).unwrap();
    let reader = parquet::file::reader::SerializedFileReader::new(file).unwrap();
    use parquet::file::reader::FileReader as _;
    let rows: Vec<serde_json::Value> = reader.get_row_iter(None).unwrap().map(|r| json_of(&r.unwrap())).collect();
    assert_eq!(rows.len(), fixture::HOSTILE.len());
    for (id, row) in rows.iter().enumerate() {
        assert_eq!(row["id"], id);
        assert!(row["answer"].as_str().unwrap().contains(fixture::HOSTILE[id]));
        assert_eq!((row["tokens"].as_array().unwrap().len(), &row["tokens"][0]), (20, &serde_json::json!(3)));
        assert_eq!(row["entropies"].is_null(), id != 2);
    }
    export(&["parquet", "--what", "steps", "--out", "steps.parquet"]).succeeds();
    export(&["parquet", "--filter", "id = 5", "--out", "one.parquet"]).succeeds();

    export(&["tensorboard"]).fails(2, PARTS).fails(2, &["--out"]);
    export(&["tensorboard", "--out", "tb"]).succeeds();
    let files: Vec<_> = std::fs::read_dir(place.path().join("tb")).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert!(files.len() == 1 && files[0].to_string_lossy().starts_with("events.out.tfevents."), "{files:?}");

    let trace: serde_json::Value = serde_json::from_str(&export(&["perfetto"]).succeeds().out).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let count = |ph: &str, pid: u64| events.iter().filter(|e| e["ph"] == ph && e["pid"] == pid).count();
    assert_eq!(count("X", 1), 8 + 8 * 3, "spans and their stages");
    assert_eq!((count("b", 2), count("e", 2)), (fixture::HOSTILE.len(), fixture::HOSTILE.len()));
    assert_eq!(count("i", 3), 8 + 4, "steps and happenings");
    assert!(count("C", 4) > 100);
    let only: serde_json::Value =
        serde_json::from_str(&export(&["perfetto", "--filter", "id < 2"]).succeeds().out).unwrap();
    assert_eq!(only["traceEvents"].as_array().unwrap().iter().filter(|e| e["ph"] == "b").count(), 2);
    export(&["perfetto", "--what", "steps"]).fails(2, PARTS).fails(2, &["no effect"]);
    export(&["jsonl", "--out", "no/such/folder"]).fails(2, &["cannot write the export"]);

    // What others make of it, where they are installed.
    let python = std::env::var("TROUPE_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let script = r#"
import sys
try:
    import pyarrow.parquet as pq
except ImportError as e:
    print("skipped:", e); sys.exit(0)
t = pq.read_table(sys.argv[1] + "/rollouts.parquet").to_pylist()
assert [r["id"] for r in t] == list(range(8)), t
assert all(r["tokens"] == [3] * 20 and abs(r["logprobs"][2] + 0.4) < 1e-6 for r in t)
assert t[2]["entropies"] == [0.5] * 20 and t[1]["entropies"] is None
assert t[7]["seed"] == str(2**64 - 1 - 7) and "\u202e" in t[6]["answer"]
assert len(pq.read_table(sys.argv[1] + "/steps.parquet")) == 8
assert pq.read_table(sys.argv[1] + "/one.parquet").to_pylist()[0]["id"] == 5
print("pyarrow read it")
"#;
    match std::process::Command::new(python).args(["-c", script]).arg(place.path()).output() {
        Ok(out) => {
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            print!("{}", String::from_utf8_lossy(&out.stdout));
        }
        Err(error) => println!("skipped: no Python ({error})"),
    }
}
