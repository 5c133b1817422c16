//! `troupe bench cluster --drills`: a whole run is hit again and again, and goes on. Of each hit: when it was noticed, how long after its
//! return the victim was at work again, and when the run's rate was back.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::link::{Link, Shape};
use super::scene::{Place, Scene};
use super::{attack, relay};
use crate::stop::StopToken;

/// What is done to the run. The victim is the first node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Drill {
    /// SIGKILL of an executors' node; another takes its name.
    KillNode,
    /// SIGSTOP of it, until it is given up, then SIGCONT.
    FreezeNode,
    /// SIGKILL of a generators' node; another takes its name.
    KillGenerator,
    /// SIGSTOP of it, until it is given up, then SIGCONT.
    FreezeGenerator,
    /// SIGKILL of the head; the same run again in its folder.
    KillHead,
    /// SIGSTOP of the head until its nodes give it up, then SIGCONT.
    FreezeHead,
    /// A node's cable is out for 30 s.
    Partition,
    /// A node that is 200 ms away, every twentieth piece of data 600 ms.
    Slow,
    /// Between the head and half of the nodes, every packet is 200 ms on its way, each way, and one in twenty is lost.
    Lossy,
    /// No room in the run directory until the head has ended.
    DiskFull,
    /// The wall clock jumps, on head and nodes.
    Clock,
    /// Strangers on both ports.
    Attack,
}

pub const ALL: [(&str, Drill); 12] = [
    ("kill-node", Drill::KillNode),
    ("freeze-node", Drill::FreezeNode),
    ("kill-generator", Drill::KillGenerator),
    ("freeze-generator", Drill::FreezeGenerator),
    ("kill-head", Drill::KillHead),
    ("freeze-head", Drill::FreezeHead),
    ("partition", Drill::Partition),
    ("slow", Drill::Slow),
    ("lossy", Drill::Lossy),
    ("disk-full", Drill::DiskFull),
    ("clock", Drill::Clock),
    ("attack", Drill::Attack),
];

/// One hit.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Hit {
    pub suspected_ms: Option<u64>,
    pub noticed_ms: Option<u64>,
    /// From the victim's return until it is at work.
    pub recovered_ms: Option<u64>,
    /// From its return until the end of the first second with enough of the rate before, or before the first hit where that was more.
    pub rate_back_ms: u64,
    pub rate_before: f64,
    /// Of peers that are neither frozen nor gone, where the network is bad: suspected, and lost.
    pub false_alarms: Option<(u64, u64)>,
    /// Of a bad network: packets that passed, and that were lost.
    pub packets: Option<(u64, u64)>,
    /// Rollouts trained in each second from the hit on.
    pub curve: Vec<u32>,
}

/// What is not a figure: the machine does not allow this drill, or the run did not stand it.
pub enum Verdict {
    Skipped(String),
    Failed(String),
}

impl From<String> for Verdict {
    fn from(why: String) -> Verdict {
        Verdict::Failed(why)
    }
}

/// The share of the rate before that counts as the rate being back.
pub const BACK: f64 = 0.8;
const BASE: Duration = Duration::from_secs(4);
const CABLE_OUT: Duration = Duration::from_secs(30);
/// How long the network is bad.
const BAD: Duration = Duration::from_secs(20);
/// Of what is lost.
const SEED: u64 = 5;
/// Room of the run directory that gets full.
const DISK: &str = "size=384m";
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

fn ms(from: Instant, to: Instant) -> Option<u64> {
    Some(to.saturating_duration_since(from).as_millis() as u64)
}

fn command(line: &str) -> Result<(), String> {
    let mut words = line.split_whitespace();
    let output =
        Command::new(words.next().unwrap_or_default()).args(words).output().map_err(|e| format!("{line}: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    output.status.success().then_some(()).ok_or_else(|| format!("{line}: {}", said.trim()))
}

/// Undoes what a drill changed on this machine.
struct Undo(Vec<String>);

impl Drop for Undo {
    fn drop(&mut self) {
        for line in &self.0 {
            let _ = command(line);
        }
    }
}

/// Of the drill over a bad network: who is at its other end, of two generators, two executors' nodes, and one that comes.
const FAR: [usize; 3] = [0, 2, 7];

/// A place for the drill, or why there is none here.
fn place(drill: Drill, program: &Path, dir: &Path, port: u16) -> Result<(Place, Undo, Option<Link>), Verdict> {
    let skip = Verdict::Skipped;
    let program = program.to_path_buf();
    let mut place = Place { program, dir: dir.join("run"), listen: format!("127.0.0.1:{port}"), ..Place::default() };
    let (mut undo, mut link) = (Undo(Vec::new()), None);
    std::fs::create_dir_all(&place.dir).map_err(|e| Verdict::Failed(e.to_string()))?;
    match drill {
        Drill::Partition => {
            undo.0.push("ip link del trdb".into());
            undo.0.extend((0..2).map(|n| format!("ip netns del trd{n}")));
            for line in &undo.0 {
                let _ = command(line);
            }
            command("ip link add trdb type bridge").map_err(skip)?;
            command("ip addr add 10.198.1.1/24 dev trdb").map_err(skip)?;
            command("ip link set trdb up").map_err(skip)?;
            for n in 0..2 {
                for line in [
                    format!("ip netns add trd{n}"),
                    format!("ip link add trdv{n} type veth peer name eth0 netns trd{n}"),
                    format!("ip link set trdv{n} master trdb up"),
                    format!("ip -n trd{n} addr add 10.198.1.{}/24 dev eth0", n + 2),
                    format!("ip -n trd{n} link set eth0 up"),
                    format!("ip -n trd{n} link set lo up"),
                ] {
                    command(&line).map_err(skip)?;
                }
                place.inside.push(["ip", "netns", "exec", &format!("trd{n}")].map(String::from).to_vec());
            }
            place.listen = format!("10.198.1.1:{port}");
        }
        // Two of each: the run goes on meanwhile.
        Drill::KillGenerator | Drill::FreezeGenerator => place.generators = 2,
        Drill::Lossy => {
            let line = link.insert(Link::new(&place.program, SEED).map_err(skip)?);
            place.generators = 2;
            place.listen = format!("{}:{port}", line.address(0));
            place.head_inside = line.inside(0);
            place.inside = (0..8).map(|n| line.inside(usize::from(FAR.contains(&n)))).collect();
        }
        Drill::DiskFull => {
            let at = place.dir.display();
            command(&format!("mount -t tmpfs -o {DISK} tmpfs {at}")).map_err(skip)?;
            undo.0.push(format!("umount -l {at}"));
        }
        Drill::Clock => {
            if !Path::new(FAKETIME).exists() {
                return Err(Verdict::Skipped(format!("no {FAKETIME} (Debian's libfaketime)")));
            }
            let clock = dir.join("clock");
            std::fs::write(&clock, "+0").map_err(|e| Verdict::Failed(e.to_string()))?;
            let of = |name: &str, value: String| (name.to_string(), value);
            place.environment = vec![
                of("LD_PRELOAD", FAKETIME.into()),
                of("FAKETIME_TIMESTAMP_FILE", clock.display().to_string()),
                of("FAKETIME_CACHE_DURATION", "1".into()),
                of("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
                of("DONT_FAKE_MONOTONIC", "1".into()),
            ];
        }
        _ => {}
    }
    Ok((place, undo, link))
}

/// All hits of one drill on one run, and the run's books at its end.
///
/// # Errors
/// Skipped, or failed, in words.
pub fn run(
    drill: Drill,
    program: &Path,
    repeats: u32,
    port: u16,
    stop: &StopToken,
    back: f64,
    mut told: impl FnMut(u32, &Hit),
) -> Result<super::whole::Books, Verdict> {
    let dir = tempfile::Builder::new().prefix("troupe-drill-").tempdir().map_err(|e| Verdict::Failed(e.to_string()))?;
    let (place, undo, link) = place(drill, program, dir.path(), port)?;
    let generators = place.generators;
    let mut scene = Scene::start(place, 2 + generators)?;
    // What the first hit began with: measured anew each time, a run that decays would not be seen.
    let mut least = 0.0;
    for n in 0..repeats {
        if stop.asked() {
            return Err(Verdict::Failed("asked to stop".into()));
        }
        std::thread::sleep(BASE);
        let hit = hit(drill, n, least, &mut scene, dir.path(), link.as_ref(), back)?;
        if n == 0 {
            least = hit.rate_before;
        }
        told(n, &hit);
    }
    let mut books = scene.finish()?;
    let allowed: &[&str] = match drill {
        Drill::KillNode | Drill::FreezeNode | Drill::FreezeHead | Drill::Partition => &["F123"],
        Drill::KillGenerator | Drill::FreezeGenerator => &["F123"],
        // A resumed head issues what was in flight again: no fault. What nodes answer to it in time counts.
        Drill::KillHead => &["F123"],
        Drill::DiskFull => &["F105", "F106", "F123"],
        // A node that chance keeps silent for 5 s is lost, and one message may be late for that long.
        Drill::Lossy => &["F123", "F124"],
        Drill::Slow | Drill::Clock | Drill::Attack => &[],
    };
    let odd: Vec<String> = books.faults.keys().filter(|code| !allowed.contains(&code.as_str())).cloned().collect();
    if !odd.is_empty() {
        books.wrong.push(format!("faults that this drill has no reason for: {odd:?}"));
    }
    // The mount is busy as long as the scene's processes live.
    drop((undo, link));
    Ok(books)
}

/// `least`: the rate that has to come back, where the one before is smaller; `back`: the share of it that has to.
#[allow(clippy::too_many_arguments)]
fn hit(
    drill: Drill,
    n: u32,
    least: f64,
    scene: &mut Scene,
    dir: &Path,
    link: Option<&Link>,
    back: f64,
) -> Result<Hit, String> {
    let began = Instant::now();
    let rate_before = scene.rate(began - BASE + Duration::from_millis(500), began);
    if rate_before < 1.0 {
        return Err(format!("no work before hit {n}"));
    }
    let mut hit = Hit { rate_before, ..Hit::default() };
    let (lost, silent) = ("node node-0 is lost", "node node-0 is silent");
    // When the victim, or what it needs, was there again.
    let returned = match drill {
        Drill::KillNode | Drill::KillGenerator => {
            scene.nodes[0].signal("KILL")?;
            hit.noticed_ms = ms(began, scene.heard(began, lost, 1)?);
            let returned = Instant::now();
            scene.nodes[0] = scene.join(0, None)?;
            hit.recovered_ms = ms(returned, scene.heard(returned, "node node-0 joined", 1)?);
            returned
        }
        Drill::FreezeNode | Drill::FreezeGenerator | Drill::Partition => {
            let cable = |state: &str| command(&format!("ip link set trdv0 {state}"));
            if drill == Drill::Partition {
                cable("down")?
            } else {
                scene.nodes[0].signal("STOP")?
            }
            hit.suspected_ms = ms(began, scene.heard(began, silent, 1)?);
            hit.noticed_ms = ms(began, scene.heard(began, lost, 1)?);
            if drill == Drill::Partition {
                std::thread::sleep(CABLE_OUT.saturating_sub(began.elapsed()));
            }
            let returned = Instant::now();
            if drill == Drill::Partition {
                cable("up")?
            } else {
                scene.nodes[0].signal("CONT")?
            }
            hit.recovered_ms = ms(returned, scene.heard(returned, "node node-0 joined", 1)?);
            returned
        }
        Drill::KillHead => {
            scene.head.signal("KILL")?;
            scene.head.ended()?;
            hit.noticed_ms = ms(began, scene.nodes_say(began, "looking for the head")?);
            let returned = Instant::now();
            scene.head_again()?;
            hit.recovered_ms = ms(returned, scene.heard(returned, "joined with", 2)?);
            returned
        }
        Drill::FreezeHead => {
            scene.head.signal("STOP")?;
            hit.noticed_ms = ms(began, scene.nodes_say(began, "looking for the head")?);
            let returned = Instant::now();
            scene.head.signal("CONT")?;
            hit.recovered_ms = ms(returned, scene.heard(returned, "joined with", 2)?);
            returned
        }
        Drill::Slow => {
            let through = relay::start(scene.place.listen.clone(), Duration::from_millis(200))?;
            let far = scene.join(7, Some(&through))?;
            hit.recovered_ms = ms(began, scene.heard(began, "node node-7 joined", 1)?);
            std::thread::sleep(Duration::from_secs(8));
            far.signal("INT")?;
            scene.heard(began, "node node-7 has left", 1)?;
            if scene.has_said(began, "is lost") || scene.has_said(began, "is silent") {
                return Err("a node that is only slow was given up".into());
            }
            began
        }
        Drill::Lossy => bad_network(scene, &mut hit, began, link.ok_or("no link")?)?,
        Drill::DiskFull => disk_full(scene, &mut hit, began)?,
        Drill::Clock => {
            let jump = ["+3600", "-86400", "+31536000", "-10", "+0"][n as usize % 5];
            std::fs::write(dir.join("clock"), jump).map_err(|e| e.to_string())?;
            std::thread::sleep(Duration::from_secs(7));
            unmoved(scene, began)?;
            began
        }
        Drill::Attack => {
            let found = attack::run(&scene.place.program, &scene.place.listen, &scene.cookie, Duration::from_secs(8))?;
            if n == 0 {
                eprintln!("{found}");
            }
            unmoved(scene, began)?;
            began
        }
    };
    hit.rate_back_ms = scene.back(returned, back * rate_before.max(least))?.as_millis() as u64;
    hit.curve = scene.curve(began, began.elapsed().as_secs().min(60) as u32);
    Ok(hit)
}

/// Nobody was suspected or lost, and no head slept.
fn unmoved(scene: &Scene, since: Instant) -> Result<(), String> {
    match ["is lost", "is silent", "asleep", "fault "].into_iter().find(|text| scene.has_said(since, text)) {
        Some(text) => Err(format!("the head says `{text}`")),
        None => Ok(()),
    }
}

/// The line is bad for a while; meanwhile a node joins over it and leaves.
fn bad_network(scene: &mut Scene, hit: &mut Hit, began: Instant, link: &Link) -> Result<Instant, String> {
    let before = link.counts();
    link.set(Shape { delay: Duration::from_millis(200), loss: 0.05, ..Shape::default() })?;
    let far = scene.join(7, None)?;
    hit.recovered_ms = ms(began, scene.heard(began, "node node-7 joined", 1)?);
    std::thread::sleep(BAD.saturating_sub(began.elapsed()));
    far.signal("INT")?;
    scene.heard(began, "node node-7 has left", 1)?;
    let count = |text: &str| scene.head.count(text, began) as u64;
    hit.false_alarms = Some((count("is silent"), count("is lost")));
    hit.packets = link.counts().zip(before).map(|(now, then)| (now.passed - then.passed, now.lost - then.lost));
    link.set(Shape::default())?;
    Ok(Instant::now())
}

/// Fills the run directory until the head has ended, makes room, and starts it again.
fn disk_full(scene: &mut Scene, hit: &mut Hit, began: Instant) -> Result<Instant, String> {
    let filler: PathBuf = scene.place.dir.join("filler");
    let mut file = std::fs::File::create(&filler).map_err(|e| e.to_string())?;
    let block = vec![7u8; 1 << 16];
    // To the last byte, again and again: a checkpoint that goes makes room for a moment.
    let until = Instant::now() + Duration::from_secs(60);
    let mut code = None;
    while code.is_none() && Instant::now() < until {
        for size in [block.len(), 4096, 1] {
            while std::io::Write::write_all(&mut file, &block[..size]).is_ok() {}
        }
        code = scene.head.poll()?;
        std::thread::sleep(Duration::from_millis(2));
    }
    drop(file);
    // Its last lines are read by another thread.
    let until = Instant::now() + Duration::from_secs(10);
    let told = loop {
        let told = ["F105", "F106", "full"].iter().any(|text| scene.has_said(began, text));
        if told || Instant::now() > until {
            break told;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    if code != Some(3) || !told {
        return Err(format!("the head of a full disk ended with {code:?} and said {}", scene.head.last()));
    }
    hit.noticed_ms = ms(began, Instant::now());
    std::fs::remove_file(&filler).map_err(|e| e.to_string())?;
    let returned = Instant::now();
    scene.head_again()?;
    hit.recovered_ms = ms(returned, scene.heard(returned, "joined with", 2)?);
    Ok(returned)
}
