//! Who runs what where: a pure function of the configuration. Everything else in this folder puts it into other people's words.

use std::path::{Path, PathBuf};

use super::Mode;
use crate::config::Config;
use crate::errors::UserError;

/// The folder in a run directory that launching keeps its things in.
pub const FOLDER: &str = "launch";
/// In it: the resolved run file, the cookie, and (Slurm) the head's address.
pub const RUN_FILE: &str = "cluster.toml";
pub const COOKIE_FILE: &str = "cookie";
pub const ADDRESS_FILE: &str = "head.address";
/// Where a pod has its volume, its run file and its cookie.
pub const POD_RUN: &str = "/data/run";
pub const POD_RUN_FILE: &str = "/etc/troupe/cluster.toml";
pub const POD_COOKIE: &str = "/etc/troupe-cookie/cookie";
/// Stands for the head's address where only the job knows it, in a job's script.
pub const ADDRESS_VARIABLE: &str = "$head";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Head,
    Executor,
    Generator,
}

impl Role {
    /// As `troupe join --role` takes it.
    pub fn word(self) -> &'static str {
        match self {
            Role::Head => "head",
            Role::Executor => "executor",
            Role::Generator => "generator",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// This machine, a child of the launcher.
    Here,
    /// Over ssh.
    Host(String),
    /// One Slurm job, or each task of a job array.
    Job,
    Pod,
}

/// One process, or `count` that are alike (tasks of an array, pods of a Deployment).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Unique in a plan.
    pub name: String,
    pub role: Role,
    pub place: Place,
    pub count: u32,
    pub program: String,
    /// Of `program`.
    pub args: Vec<String>,
    /// GPUs, processor cores and megabytes of each; 0 = not asked for.
    pub gpus: u32,
    pub cpus: u32,
    pub mem_mb: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub mode: Mode,
    pub head: Part,
    /// Executors first.
    pub nodes: Vec<Part>,
}

/// What a plan needs to know besides the configuration.
#[derive(Clone, Debug)]
pub struct Site {
    /// Absolute.
    pub run_dir: PathBuf,
    /// This program.
    pub program: PathBuf,
    /// The run is there and goes on.
    pub resumed: bool,
    /// This binary knows generator nodes.
    pub generators: bool,
}

impl Site {
    /// A file of launching's own in the run directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.run_dir.join(FOLDER).join(name)
    }
}

impl Plan {
    /// # Errors
    /// Generator nodes that this binary does not know.
    pub fn new(mode: Mode, config: &Config, site: &Site) -> Result<Plan, UserError> {
        let launch = &config.launch;
        if launch.generators > 0 && !site.generators {
            return Err(UserError::new("this version of Troupe has no generator nodes yet")
                .at("launch.generators")
                .found(format!("launch.generators = {}", launch.generators))
                .expected("launch.generators = 0: the head generates")
                .hint("`troupe join --help` lists the roles that nodes can have"));
        }
        let program = |elsewhere: bool| match (elsewhere, launch.binary.as_str(), mode) {
            (true, "", Mode::K8s) => "troupe".to_string(),
            (true, binary, _) if !binary.is_empty() => binary.to_string(),
            _ => site.program.display().to_string(),
        };
        let scheduled = matches!(mode, Mode::Slurm | Mode::K8s);
        let head = Part {
            name: "head".into(),
            role: Role::Head,
            place: match mode {
                Mode::Local | Mode::Ssh => Place::Here,
                Mode::Slurm => Place::Job,
                Mode::K8s => Place::Pod,
            },
            count: 1,
            program: program(scheduled),
            args: head_args(mode, site),
            gpus: launch.head_gpus,
            cpus: launch.head_cpus,
            mem_mb: launch.head_mem_mb,
        };
        let mut nodes = Vec::new();
        for role in [Role::Executor, Role::Generator] {
            let (count, gpus, cpus, mem_mb) = match role {
                Role::Generator => {
                    (launch.generators, launch.generator_gpus, launch.generator_cpus, launch.generator_mem_mb)
                }
                _ => (launch.executors, launch.executor_gpus, launch.executor_cpus, launch.executor_mem_mb),
            };
            let node = |name: String, place: Place, count: u32| Part {
                args: node_args(mode, config, site, role, &name),
                program: program(place != Place::Here),
                name,
                role,
                place,
                count,
                gpus,
                cpus,
                mem_mb,
            };
            match mode {
                _ if count == 0 => {}
                Mode::Local => {
                    nodes.extend((1..=count).map(|n| node(format!("{}-{n}", role.word()), Place::Here, 1)));
                }
                Mode::Ssh => {
                    for host in launch.hosts.iter().flat_map(|host| std::iter::repeat_n(host, count as usize)) {
                        // Two users of one host are on one machine.
                        let twins =
                            nodes.iter().filter(|p: &&Part| p.role == role && machine_of(p) == Some(machine(host)));
                        let name = match twins.count() {
                            0 => format!("{}@{}", role.word(), machine(host)),
                            n => format!("{}-{}@{}", role.word(), n + 1, machine(host)),
                        };
                        nodes.push(node(name, Place::Host(host.clone()), 1));
                    }
                }
                Mode::Slurm => nodes.push(node(role.word().into(), Place::Job, count)),
                Mode::K8s => nodes.push(node(role.word().into(), Place::Pod, count)),
            }
        }
        tunnels(mode, config, &nodes)?;
        Ok(Plan { mode, head, nodes })
    }

    /// Head first.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        std::iter::once(&self.head).chain(&self.nodes)
    }

    /// For people: a line for each part.
    pub fn table(&self) -> String {
        let mut out = vec![format!("# placement (troupe launch {})", self.mode.word())];
        for part in self.parts() {
            let place = match &part.place {
                Place::Here => "this machine".to_string(),
                Place::Host(host) => format!("host {host}"),
                Place::Job if part.role == Role::Head => "a Slurm job".to_string(),
                Place::Job => format!("a Slurm job array of {}", part.count),
                Place::Pod if part.role == Role::Head => "a pod of a StatefulSet".to_string(),
                Place::Pod => format!("{} pods of a Deployment", part.count),
            };
            let needs: Vec<String> = [
                (part.cpus > 0).then(|| format!("{} cores", part.cpus)),
                (part.mem_mb > 0).then(|| format!("{} MB", part.mem_mb)),
                (part.gpus > 0).then(|| match part.place {
                    Place::Here | Place::Host(_) => "all GPUs".to_string(),
                    _ => format!("{} GPUs", part.gpus),
                }),
            ]
            .into_iter()
            .flatten()
            .collect();
            let needs = if needs.is_empty() { String::new() } else { format!(" ({})", needs.join(", ")) };
            out.push(format!("#   {:<20} {place}{needs}", part.name));
            out.push(format!("#       {} {}", part.program, part.args.join(" ")));
        }
        out.join("\n")
    }
}

/// A tunnel's ports are the same on every machine, so that there is one tunnel for each.
fn tunnels(mode: Mode, config: &Config, nodes: &[Part]) -> Result<(), UserError> {
    if mode != Mode::Ssh || !config.launch.ssh_tunnel {
        return Ok(());
    }
    let twice = |n: usize| nodes[..n].iter().any(|p| machine_of(p) == machine_of(&nodes[n]));
    match (0..nodes.len()).find(|n| twice(*n)) {
        None => Ok(()),
        Some(n) => Err(UserError::new("two nodes of one host cannot both have a tunnel to the head")
            .at("launch.ssh_tunnel")
            .found(format!("{} is not the only node there", nodes[n].name))
            .expected("one node on each host where launch.ssh_tunnel = true")
            .hint("more launch.workers make a node larger")),
    }
}

/// Whether it is the superuser there or somebody else, it is one machine.
fn machine(host: &str) -> &str {
    host.rsplit_once('@').map_or(host, |(_, machine)| machine)
}

fn machine_of(part: &Part) -> Option<&str> {
    match &part.place {
        Place::Host(host) => Some(machine(host)),
        _ => None,
    }
}

fn head_args(mode: Mode, site: &Site) -> Vec<String> {
    let dir = match mode {
        Mode::K8s => Path::new(POD_RUN).to_path_buf(),
        _ => site.run_dir.clone(),
    };
    let mut args: Vec<String> = match (site.resumed, mode) {
        (true, _) => vec!["resume".into(), dir.display().to_string()],
        (false, _) => {
            let file = match mode {
                Mode::K8s => PathBuf::from(POD_RUN_FILE),
                _ => site.file(RUN_FILE),
            };
            let words = ["run", "-c", &file.display().to_string(), "--run-dir", &dir.display().to_string()];
            words.iter().map(|w| w.to_string()).collect()
        }
    };
    if matches!(mode, Mode::Local | Mode::Ssh) {
        args.push("--tied".into());
    }
    args
}

fn node_args(mode: Mode, config: &Config, site: &Site, role: Role, name: &str) -> Vec<String> {
    let launch = &config.launch;
    let address = match mode {
        Mode::Local => config.cluster.here(),
        Mode::Ssh => reached(config),
        Mode::Slurm => ADDRESS_VARIABLE.to_string(),
        Mode::K8s => {
            let port = config.cluster.endpoint().map_or(0, |(_, port)| port);
            format!("{0}-head-0.{0}-head:{port}", launch.k8s_name)
        }
    };
    let mut args: Vec<String> = vec!["join".into(), address, "--role".into(), role.word().into()];
    let name = match mode {
        Mode::Slurm => format!("{name}-$SLURM_ARRAY_JOB_ID-$SLURM_ARRAY_TASK_ID"),
        Mode::K8s => "$(POD_NAME)".to_string(),
        Mode::Local | Mode::Ssh => name.to_string(),
    };
    args.extend(["--name".into(), name]);
    if role == Role::Executor && launch.workers > 0 {
        args.extend(["--workers".into(), launch.workers.to_string()]);
    }
    let gpus = if role == Role::Generator { launch.generator_gpus } else { launch.executor_gpus };
    args.extend(["--gpus".into(), if gpus > 0 { "all" } else { "none" }.into()]);
    match mode {
        // Its own run file counts there, if there is one.
        Mode::Ssh => {
            args.extend(["--set".into(), format!("cluster.reconnect_s={}", config.cluster.reconnect_s)]);
            if !launch.ssh_python.is_empty() {
                args.extend(["--set".into(), format!("python.interpreter={}", launch.ssh_python)]);
            }
        }
        Mode::K8s => args.extend(["-c".into(), POD_RUN_FILE.into()]),
        Mode::Local | Mode::Slurm => args.extend(["-c".into(), site.file(RUN_FILE).display().to_string()]),
    }
    if matches!(mode, Mode::Local | Mode::Ssh) {
        args.push("--tied".into());
    }
    args
}

/// The head's address as the hosts reach it.
fn reached(config: &Config) -> String {
    let cluster = &config.cluster;
    let Some((host, port)) = cluster.endpoint() else { return cluster.listen.clone() };
    match (config.launch.ssh_tunnel, config.launch.advertise.as_str()) {
        (true, _) => format!("127.0.0.1:{port}"),
        (false, "") => format!("{host}:{port}"),
        (false, advertised) => format!("{advertised}:{port}"),
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
