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
