//! The flags of `troupe launch`, as `--help` shows them.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::args::ConfigArgs;

#[derive(Args, Debug)]
pub struct LaunchArgs {
    #[command(subcommand)]
    pub how: How,
}

#[derive(Debug, Subcommand)]
pub enum How {
    /// All roles as processes of this machine.
    #[command(after_help = "Examples:\n  troupe launch local --set launch.executors=2 --set executor.workers=0\n  \
                            troupe launch local --resume runs/001")]
    Local(HereArgs),
    /// The head here, nodes on the hosts of `launch.hosts`, through this machine's `ssh`.
    #[command(
        after_help = "Examples:\n  troupe launch ssh --set 'launch.hosts=[\"gpu1\", \"me@gpu2\"]' --set cluster.listen=10.0.0.5:7440\n  \
                            troupe launch ssh -c cluster.toml --set launch.ssh_tunnel=true --dry-run"
    )]
    Ssh(HereArgs),
    /// Jobs of Slurm: one for the head, an array for the executors, which grows while the run goes on.
    #[command(after_help = "Examples:\n  troupe launch slurm -c cluster.toml --run-dir /shared/runs/first\n  \
                            troupe launch slurm --grow 4 --run-dir /shared/runs/first\n  \
                            troupe launch slurm -c cluster.toml --dry-run")]
    Slurm(SlurmArgs),
    /// Kubernetes manifests of the same run file, on stdout.
    #[command(
        after_help = "Example: troupe launch k8s -c cluster.toml --set launch.k8s_image=registry.example/troupe:1 | kubectl apply -f -"
    )]
    K8s(K8sArgs),
}

#[derive(Args, Debug)]
pub struct HereArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The run directory itself. Without it, a new one below `run.dir`.
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    pub run_dir: Option<PathBuf>,
    /// Continue a run exactly where it stopped; only keys of `[launch]` can be set anew.
    #[arg(long, value_name = "RUN_DIR", conflicts_with = "files")]
    pub resume: Option<PathBuf>,
    /// Print what would be started where, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Args, Debug)]
pub struct SlurmArgs {
    #[command(flatten)]
    pub here: HereArgs,
    /// So many more executor nodes for the run of `--run-dir`, whose head is a job of Slurm's.
    #[arg(long, value_name = "N", requires = "run_dir", conflicts_with_all = ["files", "sets", "resume"],
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub grow: Option<u32>,
}

#[derive(Args, Debug)]
pub struct K8sArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Print the placement as well, before the manifests.
    #[arg(long)]
    pub dry_run: bool,
}
