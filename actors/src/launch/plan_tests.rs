//! Tests of the plan: whatever the numbers are, everybody asked for has a place, a name of its own, and a command line that `troupe`
//! itself takes.

use std::collections::BTreeSet;

use clap::Parser as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::cli::Cli;

const HOSTS: [&str; 5] = ["a", "me@a", "10.0.0.7", "you@b.example", "c"];

fn site(resumed: bool) -> Site {
    Site { run_dir: "/runs/x y".into(), program: "/opt/troupe".into(), resumed, generators: true }
}

struct Drawn {
    mode: Mode,
    config: Config,
    hosts: u32,
}

fn draw(rng: &mut ChaCha8Rng) -> Drawn {
    let mode = Mode::ALL[rng.random_range(0..4)];
    let mut config = Config::builtin().unwrap();
    config.cluster.listen = ["0.0.0.0:7440", "10.0.0.5:9000", "[::]:7440"][rng.random_range(0..3)].into();
    let l = &mut config.launch;
    (l.executors, l.generators) = (rng.random_range(0..6), rng.random_range(0..3));
    (l.workers, l.executor_gpus, l.generator_gpus) =
        (rng.random_range(0..4), rng.random_range(0..3), rng.random_range(0..3));
    let hosts = rng.random_range(1..=HOSTS.len());
    l.hosts = HOSTS[..hosts].iter().map(|h| h.to_string()).collect();
    l.advertise = "head.example".into();
    if rng.random_bool(0.5) {
        l.binary = "/elsewhere/troupe".into();
    }
    Drawn { mode, config, hosts: hosts as u32 }
}

/// Planted: names of ssh nodes without a number (two users of one host share a name); `--tied` left out of ssh; both seen.
#[test]
fn everybody_has_a_place_a_name_and_a_command_line_that_is_understood() {
    let mut rng = ChaCha8Rng::seed_from_u64(83);
    for round in 0..200 {
        let drawn = draw(&mut rng);
        let Drawn { mode, ref config, hosts } = drawn;
        let resumed = mode != Mode::K8s && rng.random_bool(0.3);
        let plan = Plan::new(mode, config, &site(resumed)).unwrap();
        let names: BTreeSet<&str> = plan.parts().map(|p| p.name.as_str()).collect();
        assert_eq!(names.len(), plan.parts().count(), "{round}: {names:?}");
        for (role, wanted) in [(Role::Executor, config.launch.executors), (Role::Generator, config.launch.generators)] {
            let there: u32 = plan.nodes.iter().filter(|p| p.role == role).map(|p| p.count).sum();
            assert_eq!(there, if mode == Mode::Ssh { wanted * hosts } else { wanted }, "{round} {mode:?} {role:?}");
        }
        for part in plan.parts() {
            let here = part.place == Place::Here;
            let elsewhere = if config.launch.binary.is_empty() && mode == Mode::K8s { "troupe" } else { "/opt/troupe" };
            let elsewhere = if config.launch.binary.is_empty() { elsewhere } else { "/elsewhere/troupe" };
            assert_eq!(part.program, if here { "/opt/troupe" } else { elsewhere });
            // What is a child of the launcher, or of its ssh, ends with it.
            let tied = part.args.iter().any(|a| a == "--tied");
            assert_eq!(tied, matches!(mode, Mode::Local | Mode::Ssh), "{part:?}");
            assert!(!part.args.iter().any(|a| a.contains("cookie")), "{part:?}");
            if part.role == Role::Generator && !crate::cli::knows_generators() {
                continue;
            }
            let line = std::iter::once("troupe".to_string()).chain(part.args.clone());
            Cli::try_parse_from(line).unwrap_or_else(|e| panic!("{round}: {:?}\n{e}", part.args));
        }
        assert!(plan.table().lines().count() == 1 + 2 * plan.parts().count());
    }
}

#[test]
fn nodes_are_told_an_address_that_they_reach() {
    let address = |mode: Mode, change: fn(&mut Config)| {
        let mut config = Config::builtin().unwrap();
        config.cluster.listen = "0.0.0.0:7440".into();
        config.launch.hosts = vec!["h".into()];
        change(&mut config);
        Plan::new(mode, &config, &site(false)).unwrap().nodes[0].args[1].clone()
    };
    assert_eq!(address(Mode::Local, |_| {}), "127.0.0.1:7440");
    assert_eq!(address(Mode::Ssh, |c| c.launch.advertise = "head.example".into()), "head.example:7440");
    assert_eq!(address(Mode::Ssh, |c| c.cluster.listen = "10.0.0.5:1".into()), "10.0.0.5:1");
    assert_eq!(address(Mode::Ssh, |c| c.launch.ssh_tunnel = true), "127.0.0.1:7440");
    assert_eq!(address(Mode::Slurm, |_| {}), "$head");
    assert_eq!(address(Mode::K8s, |c| c.launch.k8s_name = "rl".into()), "rl-head-0.rl-head:7440");
}

#[test]
fn what_cannot_be_placed_is_refused() {
    let mut config = Config::builtin().unwrap();
    config.launch.generators = 1;
    let site = Site { generators: false, ..site(false) };
    let told = Plan::new(Mode::Local, &config, &site).unwrap_err().to_string();
    assert!(told.contains("launch.generators = 1") && told.contains("expected: launch.generators = 0"), "{told}");
    config.launch.generators = 0;
    config.launch.ssh_tunnel = true;
    config.launch.hosts = vec!["a".into(), "me@a".into()];
    let told = Plan::new(Mode::Ssh, &config, &site).unwrap_err().to_string();
    assert!(told.contains("executor-2@a is not the only node there"), "{told}");
}
