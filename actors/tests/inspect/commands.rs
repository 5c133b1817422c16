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
    place.troupe(&["watch", "http://h:1/"]).fails(2, PARTS).fails(2, &["over ssh"]);
}

#[test]
fn what_is_printed_of_a_hostile_rollout_moves_no_cursor() {
    let place = place();
    for id in 0..fixture::HOSTILE.len() {
        let got = place.troupe(&["rollouts", "run", "--show", &id.to_string()]);
        let odd = |c: char| {
            (c.is_control() && c != '\n' && c != '\t') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        };
        assert!(!got.succeeds().out.contains(odd), "{id}: {:?}", got.out);
    }
    let got = place.troupe(&["rollouts", "run"]);
    assert!(!got.succeeds().out.contains('\u{1b}'), "{:?}", got.out);
}
