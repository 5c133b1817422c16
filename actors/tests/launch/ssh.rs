//! `troupe launch ssh` over a real sshd on the loopback, with keys of the test's own, through a tunnel.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use crate::cli_common::{Place, Running};
use crate::field::{self, PATIENCE, command, gone, passed, process, processes, signal, summary, wait_for};

struct Sshd(Child);

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn keygen(path: &Path) {
    let out = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// One that nobody has, and nobody has the next one either, for the side channel.
fn free_port() -> u16 {
    loop {
        let first = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        if port < u16::MAX && std::net::TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
}

/// A server for this user alone, and a file for `ssh -F`.
fn sshd(place: &Place) -> Result<(Sshd, u16), String> {
    let server = field::program(&["sshd"])?;
    field::program(&["ssh"])?;
    let dir = place.path();
    keygen(&dir.join("host"));
    keygen(&dir.join("user"));
    std::fs::copy(dir.join("user.pub"), dir.join("authorized")).unwrap();
    if rustix::process::geteuid().is_root() {
        // Debian's start script makes it.
        std::fs::create_dir_all("/run/sshd").map_err(|e| format!("no /run/sshd ({e})"))?;
    }
    let port = free_port();
    let shown = dir.display();
    place.put(
        "sshd_config",
        format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {shown}/host\nAuthorizedKeysFile {shown}/authorized\nPidFile none\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nLogLevel VERBOSE\n"
        ),
    );
    place.put(
        "ssh_config",
        format!(
            "Host *\n  Port {port}\n  IdentityFile {shown}/user\n  IdentitiesOnly yes\n  UserKnownHostsFile {shown}/known\n  \
             StrictHostKeyChecking accept-new\n"
        ),
    );
    let log = std::fs::File::create(dir.join("sshd.log")).unwrap();
    let child = Command::new(server)
        .args(["-D", "-e", "-f"])
        .arg(dir.join("sshd_config"))
        .stdin(Stdio::null())
        .stderr(log)
        .spawn();
    let server = Sshd(child.map_err(|e| format!("sshd does not start ({e})"))?);
    wait_for("sshd to listen", || {
        std::net::TcpStream::connect(("127.0.0.1", port))
            .map_err(|e| format!("{e}; {}", std::fs::read_to_string(dir.join("sshd.log")).unwrap_or_default()))
    });
    Ok((server, port))
}

#[test]
fn nodes_on_hosts_evaluate_through_the_tunnel_and_end_with_the_launcher() {
    let _alone = field::alone();
    let Some(place) = field::place("[run]\nsteps = 30") else { return };
    let server = match sshd(&place) {
        Ok((server, _)) => server,
        Err(reason) => return crate::skip::skipped(crate::skip::Need::Ssh, reason),
    };
    let python = std::fs::read_to_string(place.path().join("cluster.toml")).unwrap();
    let python =
        python.lines().find_map(|l| l.strip_prefix("python.interpreter = ")).unwrap().trim_matches('"').to_string();
    // The head on another address of the loopback than the tunnel's end: both are one machine here.
    let port = free_port();
    let shown = place.path().display();
    place.put(
        "ssh.toml",
        format!(
            "cluster.listen = \"127.0.0.2:{port}\"\n[launch]\nhosts = [\"127.0.0.1\"]\nworkers = 2\nssh_tunnel = true\n\
             ssh_config = \"{shown}/ssh_config\"\nssh_workdir = \"{shown}/tmp\"\nssh_python = \"{python}\"\n"
        ),
    );
    let args = ["launch", "ssh", "-c", "cluster.toml", "-c", "ssh.toml", "--run-dir", "r"];
    let mut running = Running::start(command(&place, &args), PATIENCE);
    running.wait_for("head         | step    1");
    // What runs there was started by sshd, and nobody can read the cookie off it.
    let node = process(&format!("join 127.0.0.1:{port}"), "--role executor");
    let secret = std::fs::read_to_string(place.path().join("r/launch/cookie")).unwrap();
    assert!(processes(&secret).is_empty(), "the cookie can be seen");
    // It dies; ssh says so, and the node is started again.
    signal(node, Signal::KILL);
    running.wait_for("executor@127.0.0.1 ended (");
    running.wait_for("executor@127.0.0.1 | joined");
    // The launcher dies: the host's stdin ends.
    signal(running.pid() as i32, Signal::KILL);
    gone(&format!("join 127.0.0.1:{port}"));
    gone(&format!("{shown}/r"));
    let (steps, interrupted) = summary(&place, "r").unwrap();
    assert!(interrupted && steps >= 1, "{steps}");
    drop(running);
    let got = Running::start(command(&place, &["launch", "ssh", "--resume", "r"]), PATIENCE).end();
    got.succeeds();
    assert!(got.out.contains("steps      30 (policy 30)"), "{}", got.out);
    let count = passed(&place, "r");
    println!("killed after {steps} steps, resumed; {count} passed, all on the host");
    assert!(count >= 120, "{count}");
    gone(&format!("join 127.0.0.1:{port}"));
    drop(server);
}

#[test]
fn a_host_that_cannot_be_reached_is_given_up() {
    let _alone = field::alone();
    let Some(place) = field::place("") else { return };
    if let Err(reason) = field::program(&["ssh"]) {
        return crate::skip::skipped(crate::skip::Need::Ssh, reason);
    }
    let port = free_port();
    place.put("ssh_config", format!("Host *\n  Port {port}\n"));
    let shown = place.path().display();
    place.put(
        "ssh.toml",
        format!(
            "[launch]\nhosts = [\"127.0.0.1\"]\nssh_config = \"{shown}/ssh_config\"\nssh_tunnel = true\nrestarts = 1\n"
        ),
    );
    let args = ["launch", "ssh", "-c", "cluster.toml", "-c", "ssh.toml", "--run-dir", "r"];
    let got = Running::start(command(&place, &args), PATIENCE).end();
    got.fails(3, &["executor@127.0.0.1 | ssh: connect to host 127.0.0.1", "exit status: 255", "given up"]);
    gone(&format!("{shown}/r"));
}
