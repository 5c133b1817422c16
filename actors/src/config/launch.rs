//! `[launch]`: what `troupe launch` starts, and where. Which of its keys count hangs on the way of launching.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::check::place;
use super::{Config, Origin, Settings};
use crate::errors::UserError;

/// A way of launching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Processes of this machine.
    Local,
    /// Nodes on a list of hosts, the head here.
    Ssh,
    /// Jobs.
    Slurm,
    /// Manifests.
    K8s,
}

impl Mode {
    pub const ALL: [Mode; 4] = [Mode::Local, Mode::Ssh, Mode::Slurm, Mode::K8s];

    /// As on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Mode::Local => "local",
            Mode::Ssh => "ssh",
            Mode::Slurm => "slurm",
            Mode::K8s => "k8s",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Launch {
    /// Nodes; of each host with ssh.
    pub executors: u32,
    /// 0: as many as the head says.
    pub workers: u32,
    pub generators: u32,
    pub executor_gpus: u32,
    pub generator_gpus: u32,
    pub head_gpus: u32,
    pub stop_s: u64,
    pub restarts: u32,
    pub binary: String,
    pub advertise: String,
    pub hosts: Vec<String>,
    /// Empty: none. See [`Launch::ssh_config_path`].
    pub ssh_config: PathBuf,
    pub ssh_tunnel: bool,
    pub ssh_workdir: String,
    pub ssh_python: String,
    pub head_cpus: u32,
    pub executor_cpus: u32,
    pub generator_cpus: u32,
    pub head_mem_mb: u64,
    pub executor_mem_mb: u64,
    pub generator_mem_mb: u64,
    pub slurm_partition: String,
    pub slurm_account: String,
    pub slurm_time: String,
    pub slurm_args: Vec<String>,
    pub k8s_name: String,
    pub k8s_namespace: String,
    pub k8s_image: String,
    pub k8s_secret: String,
    pub k8s_storage_class: String,
    pub k8s_storage_gb: u64,
    pub k8s_seccomp: String,
}

impl Launch {
    pub fn ssh_config_path(&self) -> Option<&Path> {
        super::set_path(&self.ssh_config)
    }
}

/// Keys that only some ways of launching know; all others count for all of them.
const ONLY: &[(&str, &[Mode])] = &[
    ("head_gpus", &[Mode::Slurm, Mode::K8s]),
    ("restarts", &[Mode::Local, Mode::Ssh]),
    ("binary", &[Mode::Ssh, Mode::Slurm, Mode::K8s]),
    ("advertise", &[Mode::Ssh, Mode::Slurm]),
    ("hosts", &[Mode::Ssh]),
    ("ssh_config", &[Mode::Ssh]),
    ("ssh_tunnel", &[Mode::Ssh]),
    ("ssh_workdir", &[Mode::Ssh]),
    ("ssh_python", &[Mode::Ssh]),
    ("head_cpus", &[Mode::Slurm, Mode::K8s]),
    ("executor_cpus", &[Mode::Slurm, Mode::K8s]),
    ("generator_cpus", &[Mode::Slurm, Mode::K8s]),
    ("head_mem_mb", &[Mode::Slurm, Mode::K8s]),
    ("executor_mem_mb", &[Mode::Slurm, Mode::K8s]),
    ("generator_mem_mb", &[Mode::Slurm, Mode::K8s]),
    ("slurm_partition", &[Mode::Slurm]),
    ("slurm_account", &[Mode::Slurm]),
    ("slurm_time", &[Mode::Slurm]),
    ("slurm_args", &[Mode::Slurm]),
    ("k8s_name", &[Mode::K8s]),
    ("k8s_namespace", &[Mode::K8s]),
    ("k8s_image", &[Mode::K8s]),
    ("k8s_secret", &[Mode::K8s]),
    ("k8s_storage_class", &[Mode::K8s]),
    ("k8s_storage_gb", &[Mode::K8s]),
    ("k8s_seccomp", &[Mode::K8s]),
];

/// How many nodes there are to be.
type Count = fn(&Launch) -> u32;

/// Keys that count only where there are such nodes at all.
const OF_NODES: &[(&str, &str, Count)] = &[
    ("workers", "executors", |l| l.executors),
    ("executor_gpus", "executors", |l| l.executors),
    ("executor_cpus", "executors", |l| l.executors),
    ("executor_mem_mb", "executors", |l| l.executors),
    ("generator_gpus", "generators", |l| l.generators),
    ("generator_cpus", "generators", |l| l.generators),
    ("generator_mem_mb", "generators", |l| l.generators),
];

impl Config {
    /// As [`Config::load_here`], for `troupe launch`: a key of `[launch]` that this way of launching does not know is an error, and
    /// `listen`, which is told whether nodes come through a tunnel, stands in where `cluster.listen` is empty.
    ///
    /// # Errors
    /// A slip of the user's; keys without effect.
    pub fn launched(
        files: &[PathBuf],
        sets: &[String],
        mode: Mode,
        listen: impl FnOnce(bool) -> Result<String, UserError>,
    ) -> Result<Config, UserError> {
        let mut settings = Settings::builtin()?;
        let here = [PathBuf::from("cluster.toml")];
        let files = if files.is_empty() && here[0].is_file() { &here } else { files };
        for file in files {
            settings.add_file(file)?;
        }
        for set in sets {
            settings.add_set(set)?;
        }
        if settings.text("cluster.listen") == Some("") {
            let listen = listen(settings.flag("launch.ssh_tunnel"))?;
            settings.add_set(&format!("cluster.listen={listen}"))?;
        }
        settings.launch(mode)
    }

    /// What a run stored of itself, with other keys of `[launch]` laid over it.
    ///
    /// # Errors
    /// A key of another section: the run goes on as it began.
    pub fn launched_again(text: &str, origin: &Path, sets: &[String], mode: Mode) -> Result<Config, UserError> {
        let mut settings = Settings::builtin()?;
        settings.add_text(text, |line| Origin::Resolved { path: origin.to_path_buf(), line })?;
        super::scope::RELAUNCH.require(sets)?;
        for set in sets {
            settings.add_set(set)?;
        }
        settings.launch(mode)
    }
}

impl Settings {
    fn launch(self, mode: Mode) -> Result<Config, UserError> {
        let settings = self.clone();
        let config = self.resolve()?;
        effects(&config.launch, &settings, mode)?;
        check(&config, &settings, mode)?;
        Ok(config)
    }
}

fn effects(launch: &Launch, settings: &Settings, mode: Mode) -> Result<(), UserError> {
    let idle = |name: &str, only: String, hint: &str| match settings.asked(&format!("launch.{name}")) {
        None => Ok(()),
        Some(origin) => {
            Err(UserError::new(format!("`launch.{name}` has no effect on `troupe launch {}`", mode.word()))
                .at(origin)
                .found(format!("`launch.{name}` is set"))
                .expected(format!("`launch.{name}` only with {only}"))
                .hint(hint))
        }
    };
    for (name, modes) in ONLY.iter().filter(|(_, modes)| !modes.contains(&mode)) {
        let words: Vec<String> = modes.iter().map(|m| format!("`troupe launch {}`", m.word())).collect();
        let hint = "keys of one way of launching go into a file of their own: `-c cluster.toml -c slurm.toml`";
        idle(name, words.join(", "), hint)?;
    }
    for (name, nodes, _) in OF_NODES.iter().filter(|(_, _, count)| count(launch) == 0) {
        idle(name, format!("launch.{nodes} above 0"), "remove it, or start such nodes")?;
    }
    if mode == Mode::Ssh && launch.ssh_tunnel {
        idle("advertise", "launch.ssh_tunnel = false (nodes reach the head through ssh)".into(), "remove one of them")?;
    }
    Ok(())
}

/// What no way of launching could do anything with, or this one could not.
fn check(config: &Config, settings: &Settings, mode: Mode) -> Result<(), UserError> {
    let l = &config.launch;
    let at = |keys: &[&str]| place(settings, keys);
    if config.executor.workers == 0 && l.executors == 0 {
        return Err(UserError::new("there is nobody to evaluate candidates")
            .at(at(&["launch.executors", "executor.workers"]))
            .found("launch.executors = 0, executor.workers = 0")
            .expected("executors in the head (executor.workers), or nodes with some (launch.executors)")
            .hint("set launch.executors = 1"));
    }
    let timed = config.gpu.devices != "none";
    if l.executors > 0 && timed != (l.executor_gpus > 0) {
        return Err(UserError::new("the nodes would judge candidates in another way than the run does")
            .at(at(&["launch.executor_gpus", "gpu.devices"]))
            .found(format!("gpu.devices = {:?}, launch.executor_gpus = {}", config.gpu.devices, l.executor_gpus))
            .expected("GPUs on executor nodes if and only if the run times candidates on GPUs")
            .hint(if timed {
                "set launch.executor_gpus"
            } else {
                "set launch.executor_gpus = 0, or gpu.devices = \"all\""
            }));
    }
    let here = matches!(mode, Mode::Local | Mode::Ssh);
    if here && l.executor_gpus > 0 && (l.executors > 1 || mode == Mode::Local && config.executor.workers > 0) {
        return Err(UserError::new("two processes of one machine would time candidates on the same GPUs")
            .at(at(&["launch.executors", "launch.executor_gpus", "executor.workers"]))
            .found(format!("launch.executors = {}, executor.workers = {}", l.executors, config.executor.workers))
            .expected("one process with executors on each machine with GPUs")
            .hint("launch.executors = 1 with more launch.workers; with local also executor.workers = 0"));
    }
    if mode == Mode::Ssh && l.hosts.is_empty() {
        return Err(UserError::new("there are no hosts to launch nodes on")
            .at(at(&["launch.hosts"]))
            .found("launch.hosts = []")
            .expected("the machines, as `ssh` takes them")
            .hint("for example --set 'launch.hosts=[\"gpu1\", \"me@10.0.0.7\"]'"));
    }
    if !config.cluster.is_on() {
        return Err(UserError::new("nodes have nowhere to join")
            .at(at(&["cluster.listen"]))
            .found("cluster.listen = \"\"")
            .expected("an address of the head's machine that the nodes reach, and a port")
            .hint("for example --set cluster.listen=10.0.0.5:7440, or launch.ssh_tunnel = true with ssh"));
    }
    if mode == Mode::Ssh && !l.ssh_tunnel && l.advertise.is_empty() && config.cluster.listens_everywhere() {
        return Err(UserError::new("the hosts do not know how to reach the head")
            .at(at(&["launch.advertise", "cluster.listen"]))
            .found(format!("cluster.listen = {:?}, launch.advertise = \"\"", config.cluster.listen))
            .expected("an address of this machine in one of them")
            .hint("set launch.advertise to a name or address of this machine, or launch.ssh_tunnel = true"));
    }
    if mode == Mode::K8s && l.k8s_image.is_empty() {
        return Err(UserError::new("the pods have no image")
            .at(at(&["launch.k8s_image"]))
            .found("launch.k8s_image = \"\"")
            .expected("an image with `troupe` and a Python with torch and triton (docs/launch.md)")
            .hint("--set launch.k8s_image=registry.example/troupe:1"));
    }
    texts(l, &at)
}

/// Texts that come to stand in a script or on a command line.
fn texts(l: &Launch, at: &impl Fn(&[&str]) -> String) -> Result<(), UserError> {
    let odd = |key: &str, text: &str, expected: &str| {
        UserError::new(format!("`launch.{key}` cannot be that"))
            .at(at(&[&format!("launch.{key}")]))
            .found(format!("{text:?}"))
            .expected(expected)
            .hint("the comment above the key in cluster.toml says what it means")
    };
    let lists = l.slurm_args.iter().map(|text| ("slurm_args", text)).chain(l.hosts.iter().map(|text| ("hosts", text)));
    let single = [
        ("binary", &l.binary),
        ("advertise", &l.advertise),
        ("ssh_workdir", &l.ssh_workdir),
        ("ssh_python", &l.ssh_python),
        ("slurm_partition", &l.slurm_partition),
        ("slurm_account", &l.slurm_account),
        ("slurm_time", &l.slurm_time),
        ("k8s_name", &l.k8s_name),
        ("k8s_namespace", &l.k8s_namespace),
        ("k8s_image", &l.k8s_image),
        ("k8s_secret", &l.k8s_secret),
        ("k8s_storage_class", &l.k8s_storage_class),
        ("k8s_seccomp", &l.k8s_seccomp),
    ];
    for (key, text) in single.into_iter().chain(lists) {
        if text.chars().any(char::is_control) {
            return Err(odd(key, text, "one line without control characters"));
        }
    }
    let word = |c: char| c.is_ascii_alphanumeric() || "._-@:%[]".contains(c);
    if let Some(host) = l.hosts.iter().find(|h| h.starts_with('-') || !h.chars().all(word)) {
        return Err(odd("hosts", host, "names or addresses, `user@` before them where it is another"));
    }
    if !l.advertise.chars().all(word) || l.advertise.starts_with('-') {
        return Err(odd("advertise", &l.advertise, "a name or an address, without a port"));
    }
    if let Some(arg) = l.slurm_args.iter().find(|a| !a.starts_with("--")) {
        return Err(odd("slurm_args", arg, "options of sbatch that begin with `--`, each with its value after `=`"));
    }
    let label = |s: &str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        s.chars().all(inner) && s.starts_with(|c: char| c.is_ascii_lowercase()) && !s.ends_with('-')
    };
    // Objects are called this and a little more, within 63 characters.
    if !label(&l.k8s_name) || l.k8s_name.len() > 40 {
        return Err(odd("k8s_name", &l.k8s_name, "up to 40 lower-case letters, digits and `-`, a letter first"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::KEYS;
    use super::*;

    fn load(mode: Mode, sets: &[&str]) -> Result<Config, UserError> {
        let sets: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
        let empty = tempfile::tempdir().unwrap();
        // Not the checkout's own file.
        let file = empty.path().join("none.toml");
        std::fs::write(&file, "").unwrap();
        Config::launched(&[file], &sets, mode, |_| Ok("127.0.0.1:7440".into()))
    }

    /// A value other than the default, of the right kind.
    fn other(name: &str) -> String {
        let default: toml::Table = toml::from_str(super::super::DEFAULT_TOML).unwrap();
        match &default["launch"][name] {
            toml::Value::Integer(n) => format!("launch.{name}={}", n + 1),
            toml::Value::Boolean(b) => format!("launch.{name}={}", !b),
            toml::Value::Array(_) if name == "slurm_args" => format!("launch.{name}=[\"--x=1\"]"),
            toml::Value::Array(_) => format!("launch.{name}=[\"h1\"]"),
            _ => format!("launch.{name}=other"),
        }
    }

    const NEEDED: &[(Mode, &[&str])] = &[
        (Mode::Local, &["executor.workers=0"]),
        (Mode::Ssh, &["launch.hosts=[\"h\"]"]),
        (Mode::Slurm, &[]),
        (Mode::K8s, &["launch.k8s_image=i"]),
    ];

    /// Each key either counts or is an error, in every mode. Planted: `restarts` missing in ONLY: no error with slurm.
    #[test]
    fn every_key_counts_or_is_an_error() {
        let names: Vec<&str> = KEYS.iter().filter(|k| k.section() == "launch").map(|k| k.name()).collect();
        assert!(ONLY.iter().all(|(name, _)| names.contains(name)));
        for (mode, needed) in NEEDED {
            for name in &names {
                let set = other(name);
                let mut sets = needed.to_vec();
                if name.starts_with("generator_") {
                    sets.push("launch.generators=1");
                }
                if *name == "executor_gpus" {
                    sets.push("gpu.devices=all");
                }
                if *name == "executors" {
                    sets.push("launch.executor_gpus=0");
                }
                sets.push(&set);
                let knows = ONLY.iter().find(|(n, _)| n == name).is_none_or(|(_, modes)| modes.contains(mode));
                match load(*mode, &sets) {
                    Ok(_) => assert!(knows, "{mode:?} {name}: no effect and no error"),
                    Err(e) => {
                        let told = e.to_string();
                        assert!(!knows && told.contains("has no effect on `troupe launch"), "{mode:?} {name}: {told}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_launched_is_told_with_the_keys() {
        let slips: &[(Mode, &[&str], &str)] = &[
            (Mode::Ssh, &[], "launch.hosts = []"),
            (Mode::K8s, &[], "launch.k8s_image = \"\""),
            (Mode::Local, &["launch.executors=0", "executor.workers=0"], "nobody to evaluate"),
            (Mode::Slurm, &["gpu.devices=all"], "set launch.executor_gpus"),
            (Mode::Slurm, &["launch.executor_gpus=1"], "gpu.devices = \"none\""),
            (Mode::Local, &["gpu.devices=all", "launch.executor_gpus=1"], "the same GPUs"),
            (Mode::Local, &["launch.executors=0", "launch.workers=2"], "launch.executors above 0"),
            (Mode::Ssh, &["launch.hosts=[\"-oProxyCommand=x\"]"], "-oProxyCommand"),
            (Mode::Ssh, &["launch.hosts=[\"a b\"]"], "a b"),
            (Mode::Ssh, &["launch.hosts=[\"a\"]", "launch.advertise=b", "launch.ssh_tunnel=true"], "through ssh"),
            (Mode::Slurm, &["launch.slurm_args=[\"x\"]"], "begin with `--`"),
            (Mode::Slurm, &["launch.slurm_partition=\"a\\nb\""], "control characters"),
            (Mode::K8s, &["launch.k8s_image=i", "launch.k8s_name=Troupe_1"], "lower-case"),
        ];
        for (mode, sets, part) in slips {
            let told = load(*mode, sets).unwrap_err().to_string();
            assert!(told.contains(part), "{mode:?} {sets:?}: {told}");
        }
    }

    #[test]
    fn a_run_is_launched_again_with_other_numbers_and_nothing_else() {
        let text = load(Mode::Local, &["run.seed=7"]).unwrap().to_toml();
        let again = |sets: &[&str]| {
            let sets: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
            Config::launched_again(&text, Path::new("run.sqlite"), &sets, Mode::Local)
        };
        let config = again(&["launch.executors=3"]).unwrap();
        assert_eq!((config.run.seed, config.launch.executors), (7, 3));
        assert_eq!(config.cluster.listen, "127.0.0.1:7440");
        let told = again(&["run.seed=8"]).unwrap_err().to_string();
        assert!(told.contains("`run.seed` has no effect"), "{told}");
    }
}
