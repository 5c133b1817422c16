//! A bad network between two network namespaces, at the level of packets, so that it is TCP's own retransmission that is tried, on every
//! port: delay, loss, a rate, and a cable that is out. By `tc netem` where the kernel has it, else by a relay of ours between two TUN devices
//! (`tun`).
//!
//! The namespaces have no names and belong to two processes, which end with the pipe to this one, and what runs in them is killed when the
//! thread that started it ends (`setpriv`): nothing of the host's network is touched, and nothing is left, however this process ends.

use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::tun::{DEVICE, read_packet, write_packet};

/// Packets that would wait for longer because of the rate are dropped, as a router does it.
const QUEUE: Duration = Duration::from_secs(1);
/// For a device to be there.
const SOON: Duration = Duration::from_secs(5);
const ADDRESSES: [&str; 2] = ["10.197.0.1", "10.197.0.2"];

/// What happens to packets, in each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shape {
    pub delay: Duration,
    /// Of one packet, 0 to 1.
    pub loss: f64,
    /// Bytes a second; 0: as many as come.
    pub rate: u64,
    /// Nothing gets through.
    pub cut: bool,
}

/// Packets so far, both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub passed: u64,
    pub lost: u64,
}

#[derive(Default)]
struct Shared {
    shape: Mutex<Shape>,
    passed: AtomicU64,
    lost: AtomicU64,
}

/// Two namespaces and the line between them; gone when it is dropped.
pub struct Link {
    ends: [Child; 2],
    shared: Arc<Shared>,
    netem: bool,
}

fn said(mut command: Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("{command:?}: {e}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    output.status.success().then_some(()).ok_or_else(|| format!("{command:?}: {}", error.trim()))
}

fn words(line: &str) -> Command {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    command
}

/// Packets of one direction: when each may go on, and whether at all.
struct Direction {
    rng: ChaCha8Rng,
    /// When the line is free again.
    free: Instant,
}

impl Direction {
    fn due(&mut self, shape: Shape, now: Instant, bytes: usize) -> Option<Instant> {
        // Drawn for each, so that what is lost hangs on the seed and the number of the packet alone.
        let unlucky = self.rng.random::<f64>() < shape.loss;
        let begin = self.free.max(now);
        if shape.cut || unlucky || (shape.rate > 0 && begin - now > QUEUE) {
            return None;
        }
        if shape.rate > 0 {
            self.free = begin + Duration::from_secs_f64(bytes as f64 / shape.rate as f64);
            return Some(self.free + shape.delay);
        }
        Some(now + shape.delay)
    }
}

fn take(mut from: ChildStdout, to: &Sender<(Instant, Vec<u8>)>, shared: &Shared, seed: u64) {
    let mut direction = Direction { rng: ChaCha8Rng::seed_from_u64(seed), free: Instant::now() };
    while let Some(packet) = read_packet(&mut from) {
        let shape = *shared.shape.lock().unwrap_or_else(PoisonError::into_inner);
        match direction.due(shape, Instant::now(), packet.len()) {
            Some(due) => {
                shared.passed.fetch_add(1, Ordering::Relaxed);
                if to.send((due, packet)).is_err() {
                    return;
                }
            }
            None => drop(shared.lost.fetch_add(1, Ordering::Relaxed)),
        }
    }
}

fn give(from: &Receiver<(Instant, Vec<u8>)>, mut to: ChildStdin) {
    for (due, packet) in from {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if write_packet(&mut to, &packet).is_err() {
            return;
        }
    }
}

impl Link {
    /// `program`: Troupe's, for the ends. The line is perfect at first.
    ///
    /// # Errors
    /// What this machine lacks for it, in words: the superuser, `ip`, `unshare`, `nsenter`, `setpriv`, `/dev/net/tun`.
    pub fn new(program: &std::path::Path, seed: u64) -> Result<Link, String> {
        let netem = said(words("unshare --net tc qdisc add dev lo root netem delay 1ms")).is_ok();
        let shared = Arc::<Shared>::default();
        let end = || {
            let mut command = words("unshare --net --");
            match netem {
                // Ends with its stdin, as ours does.
                true => command.arg("cat"),
                false => command.arg(program).args(["bench", "cluster", "--tun"]),
            };
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            command.spawn().map_err(|e| format!("unshare: {e}"))
        };
        let mut link = Link { ends: [end()?, end()?], shared, netem };
        link.apart()?;
        if netem {
            let [a, b] = [0, 1].map(|n| link.ends[n].id());
            let pair = format!("ip link add {DEVICE} netns {a} type veth peer name {DEVICE} netns {b}");
            link.soon(|| said(words(&pair)))?;
        } else {
            link.join(seed)?;
        }
        for (n, address) in ADDRESSES.iter().enumerate() {
            link.soon(|| link.at(n, &format!("ip addr add {address}/24 dev {DEVICE}")))?;
            link.at(n, &format!("ip link set {DEVICE} mtu 1500 up"))?;
            link.at(n, "ip link set lo up")?;
        }
        Ok(link)
    }

    /// Threads between the two devices; they end with the processes.
    fn join(&mut self, seed: u64) -> Result<(), String> {
        let mut outs = Vec::new();
        let mut ins = Vec::new();
        for end in &mut self.ends {
            outs.push(end.stdout.take().ok_or("no stdout")?);
            ins.push(end.stdin.take().ok_or("no stdin")?);
        }
        ins.reverse();
        for (n, (out, stdin)) in outs.into_iter().zip(ins).enumerate() {
            let (to, from) = channel();
            let shared = self.shared.clone();
            std::thread::spawn(move || take(out, &to, &shared, seed.wrapping_add(n as u64)));
            std::thread::spawn(move || give(&from, stdin));
        }
        Ok(())
    }

    /// A process that has just begun may not be in its namespace yet, nor its device there.
    fn soon(&self, mut what: impl FnMut() -> Result<(), String>) -> Result<(), String> {
        let until = Instant::now() + SOON;
        loop {
            match what() {
                Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
                ended => return ended,
            }
        }
    }

    /// Both are in namespaces of their own: until then whatever is done there would be done to the host's.
    fn apart(&self) -> Result<(), String> {
        let of = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/net")).map_err(|e| format!("/proc/{who}: {e}"));
        let host = of("self")?;
        for end in &self.ends {
            self.soon(|| match of(&end.id().to_string())? == host {
                true => Err("`unshare --net` makes no network namespace".into()),
                false => Ok(()),
            })?;
        }
        Ok(())
    }

    fn at(&self, n: usize, line: &str) -> Result<(), String> {
        let inside = self.inside(n);
        let mut command = Command::new(&inside[0]);
        command.args(&inside[1..]).args(line.split_whitespace());
        said(command)
    }

    /// How it is done, in words.
    pub fn kind(&self) -> &'static str {
        if self.netem { "tc netem between two veth devices" } else { "a relay of ours between two TUN devices" }
    }

    pub fn address(&self, n: usize) -> &'static str {
        ADDRESSES[n]
    }

    /// What has to stand before a command so that it runs at this end.
    pub fn inside(&self, n: usize) -> Vec<String> {
        let net = format!("--net=/proc/{}/ns/net", self.ends[n].id());
        let tied = ["--", "setpriv", "--pdeathsig", "KILL", "--"];
        ["nsenter", &net].iter().chain(&tied).map(|word| word.to_string()).collect()
    }

    /// From now on.
    ///
    /// # Errors
    /// `tc` does not take it.
    pub fn set(&self, shape: Shape) -> Result<(), String> {
        *self.shared.shape.lock().unwrap_or_else(PoisonError::into_inner) = shape;
        if self.netem {
            let loss = if shape.cut { 100.0 } else { shape.loss * 100.0 };
            let rate = if shape.rate > 0 { format!(" rate {}bit", shape.rate * 8) } else { String::new() };
            let delay = shape.delay.as_millis();
            for n in 0..2 {
                self.at(n, &format!("tc qdisc replace dev {DEVICE} root netem delay {delay}ms loss {loss}%{rate}"))?;
            }
        }
        Ok(())
    }

    /// `None` with netem: it is not asked.
    pub fn counts(&self) -> Option<Counts> {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (!self.netem).then(|| Counts { passed: of(&self.shared.passed), lost: of(&self.shared.lost) })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for end in &mut self.ends {
            let _ = end.kill();
            let _ = end.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_is_of_the_seed_and_a_rate_keeps_a_queue_of_a_second() {
        let now = Instant::now();
        let lost = |seed| {
            let mut direction = Direction { rng: ChaCha8Rng::seed_from_u64(seed), free: now };
            let shape = Shape { delay: Duration::from_millis(200), loss: 0.05, ..Shape::default() };
            (0..10_000).map(|_| direction.due(shape, now, 1500)).collect::<Vec<_>>()
        };
        let (one, again, other) = (lost(1), lost(1), lost(2));
        assert!(one == again && one != other);
        let count = one.iter().filter(|due| due.is_none()).count();
        assert!((400..600).contains(&count), "{count} of 10,000 are lost");
        assert!(one.iter().flatten().all(|due| *due == now + Duration::from_millis(200)));

        let mut direction = Direction { rng: ChaCha8Rng::seed_from_u64(1), free: now };
        let slow = Shape { rate: 40_000, ..Shape::default() };
        let passed: Vec<Instant> = (0..100).filter_map(|_| direction.due(slow, now, 1000)).collect();
        // 25 ms each; the queue holds a second of them, and the one that is on its way.
        assert_eq!(passed.len(), 41);
        assert_eq!(passed[39] - now, Duration::from_secs(1));
        assert_eq!(direction.due(Shape { cut: true, ..slow }, now + QUEUE, 1000), None);
    }
}
