//! A Slurm of one node for one test: munged, slurmctld and slurmd in a folder of their own, ended when it is dropped.

use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::field::{program, wait_for};

pub struct Slurm {
    dir: tempfile::TempDir,
    daemons: Vec<Child>,
}

impl Drop for Slurm {
    fn drop(&mut self) {
        // Jobs first, while somebody can still end them.
        let _ = self.tool("scancel", &["--user", &user()]);
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_secs(20)
            && self.tool("squeue", &["--noheader"]).is_ok_and(|s| !s.trim().is_empty())
        {
            std::thread::sleep(Duration::from_millis(200));
        }
        for daemon in self.daemons.iter_mut().rev() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

fn user() -> String {
    let out = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(out.stdout).unwrap().trim().to_string()
}

fn ports() -> [u16; 2] {
    let hold = [0, 1].map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    hold.map(|l| l.local_addr().unwrap().port())
}

impl Slurm {
    /// The reason where this machine has none.
    pub fn start() -> Result<Slurm, String> {
        let [munged, controller, daemon] = [program(&["munged"])?, program(&["slurmctld"])?, program(&["slurmd"])?];
        if !rustix::process::geteuid().is_root() {
            return Err("slurmd needs the superuser".into());
        }
        // munge wants every folder above its socket to be open to all and writable by few.
        let dir = tempfile::Builder::new().prefix("troupe-slurm-").tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["state", "spool"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let mut slurm = Slurm { dir, daemons: Vec::new() };
        let key: [u8; 64] = rand::random();
        let mut file = std::fs::OpenOptions::new();
        file.write(true).create_new(true).mode(0o600).open(slurm.path("munge.key")).unwrap().write_all(&key).unwrap();
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        let name = name.trim().split('.').next().unwrap_or("localhost").to_string();
        std::fs::write(slurm.path("slurm.conf"), slurm.conf(&name)).unwrap();
        let path = |file: &str| slurm.path(file).display().to_string();
        let mut auth = Command::new(&munged);
        auth.args(["--foreground", "--force"]);
        for (option, file) in [
            ("key-file", "munge.key"),
            ("socket", "munge.socket"),
            ("pid-file", "munge.pid"),
            ("log-file", "munge.log"),
            ("seed-file", "munge.seed"),
        ] {
            auth.arg(format!("--{option}={}", path(file)));
        }
        let mut control = Command::new(&controller);
        control.args(["-D", "-f", &path("slurm.conf")]);
        let mut node = Command::new(&daemon);
        node.args(["-D", "-f", &path("slurm.conf"), "-N", &name]);
        slurm.daemon(auth, "munged")?;
        let socket = slurm.path("munge.socket");
        wait_for("munged", || if socket.exists() { Ok(()) } else { Err("no socket".into()) });
        slurm.daemon(control, "slurmctld")?;
        slurm.daemon(node, "slurmd")?;
        wait_for("the node to be idle", || {
            let state = slurm.tool("sinfo", &["--noheader", "--format=%T"]);
            if state.as_ref().is_ok_and(|s| s.trim() == "idle") {
                Ok(())
            } else {
                Err(format!("{state:?}\n{}", slurm.logs()))
            }
        });
        Ok(slurm)
    }

    fn conf(&self, name: &str) -> String {
        let dir = self.dir.path().display();
        let [controller, daemon] = ports();
        let user = user();
        // More cores than there are, so that several jobs fit. Processes are found by their parents: no cgroups are needed.
        format!(
            "ClusterName=test\nSlurmctldHost={name}(127.0.0.1)\nSlurmUser={user}\nSlurmdUser={user}\n\
             SlurmctldPort={controller}\nSlurmdPort={daemon}\nAuthType=auth/munge\nAuthInfo=socket={dir}/munge.socket\n\
             CredType=cred/munge\nStateSaveLocation={dir}/state\nSlurmdSpoolDir={dir}/spool\n\
             SlurmctldPidFile={dir}/slurmctld.pid\nSlurmdPidFile={dir}/slurmd.pid\n\
             SlurmctldLogFile={dir}/slurmctld.log\nSlurmdLogFile={dir}/slurmd.log\n\
             ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nSelectType=select/cons_tres\n\
             SelectTypeParameters=CR_Core\nJobAcctGatherType=jobacct_gather/none\n\
             AccountingStorageType=accounting_storage/none\nMpiDefault=none\nSwitchType=switch/none\nReturnToService=2\n\
             SlurmdParameters=config_overrides\nSchedulerParameters=sched_interval=2,bf_interval=2\nMessageTimeout=60\n\
             NodeName={name} NodeAddr=127.0.0.1 CPUs=16 State=UNKNOWN\n\
             PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n"
        )
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn config(&self) -> PathBuf {
        self.path("slurm.conf")
    }

    fn daemon(&mut self, mut command: Command, name: &str) -> Result<(), String> {
        let log = std::fs::File::create(self.path(&format!("{name}.out"))).unwrap();
        let child =
            command.env("SLURM_CONF", self.config()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.daemons.push(child.map_err(|e| format!("{name} does not start ({e})"))?);
        Ok(())
    }

    /// One of Slurm's commands: what it says, or how it failed.
    pub fn tool(&self, name: &str, args: &[&str]) -> Result<String, String> {
        let out = Command::new(name).args(args).env("SLURM_CONF", self.config()).stdin(Stdio::null()).output();
        let out = out.map_err(|e| e.to_string())?;
        match out.status.success() {
            true => Ok(String::from_utf8_lossy(&out.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&out.stderr).into_owned()),
        }
    }

    pub fn logs(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(self.path(name)).unwrap_or_default();
        let tail = |text: String| text.lines().rev().take(15).collect::<Vec<_>>().join("\n");
        ["munged.out", "slurmctld.out", "slurmd.out"].map(|n| format!("{n}:\n{}", tail(read(n)))).join("\n")
    }
}

/// Everything that jobs wrote beside the run.
pub fn job_logs(folder: &Path) -> String {
    let mut out = String::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|e| e == "log") {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            out += &format!("--- {}\n{text}", entry.file_name().to_string_lossy());
        }
    }
    out
}
