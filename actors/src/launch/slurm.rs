//! The plan as job scripts of Slurm: one job for the head, a job array for each role of nodes, which can be submitted again to grow.
//!
//! The head's job writes where it is into the run directory, which is on a file system that all jobs see; nodes read it there. Each
//! script ends in an `exec`, so that the signals that Slurm sends reach `troupe` itself: SIGINT `launch.stop_s` before the time
//! limit, SIGTERM when the job is cancelled.

use std::path::Path;

use super::plan::{ADDRESS_FILE, ADDRESS_VARIABLE, Part, Plan, Role, Site};
use crate::config::Config;
use crate::errors::UserError;

/// A job's script under its name in the launch folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    pub name: String,
    pub role: Role,
    /// Tasks of its array; the head's is none.
    pub count: u32,
    pub text: String,
}

/// Head first.
///
/// # Errors
/// Paths that no shell can be given.
pub fn scripts(config: &Config, plan: &Plan, site: &Site) -> Result<Vec<Script>, UserError> {
    plan.parts()
        .map(|part| {
            Ok(Script {
                name: script_name(part.role),
                role: part.role,
                count: part.count,
                text: script(config, part, site)?,
            })
        })
        .collect()
}

pub fn script_name(role: Role) -> String {
    format!("{}.sh", role.word())
}

fn script(config: &Config, part: &Part, site: &Site) -> Result<String, UserError> {
    let launch = &config.launch;
    let array = part.role != Role::Head;
    let log = format!("{}-{}.log", part.role.word(), if array { "%A-%a" } else { "%j" });
    let log = format!("{}/{log}", site.file("").display().to_string().trim_end_matches('/').replace('%', "%%"));
    let mut options = vec![
        format!("--job-name=troupe-{}", part.role.word()),
        format!("--output={log}"),
        "--open-mode=append".into(),
        "--nodes=1".into(),
        "--ntasks=1".into(),
        // To the script itself, which is troupe by then.
        format!("--signal=B:INT@{}", launch.stop_s),
        // The head goes on with `resume`.
        "--requeue".into(),
    ];
    let mut wish = |set: bool, option: String| options.extend(set.then_some(option));
    wish(part.cpus > 0, format!("--cpus-per-task={}", part.cpus));
    wish(part.mem_mb > 0, format!("--mem={}M", part.mem_mb));
    wish(part.gpus > 0, format!("--gres=gpu:{}", part.gpus));
    wish(!launch.slurm_partition.is_empty(), format!("--partition={}", launch.slurm_partition));
    wish(!launch.slurm_account.is_empty(), format!("--account={}", launch.slurm_account));
    wish(!launch.slurm_time.is_empty(), format!("--time={}", launch.slurm_time));
    options.extend(launch.slurm_args.iter().cloned());
    let mut out = vec!["#!/bin/bash".to_string()];
    for option in &options {
        out.push(format!("#SBATCH {}", quoted(option)?));
    }
    out.push("set -euo pipefail".into());
    let address = quoted(&site.file(ADDRESS_FILE).display().to_string())?;
    match part.role {
        Role::Head => {
            let port = config.cluster.endpoint().map_or(0, |(_, port)| port);
            out.push(match launch.advertise.as_str() {
                "" => "where=$(scontrol show node \"$SLURMD_NODENAME\" --oneliner | sed -n 's/.* NodeAddr=\\([^ ]*\\) .*/\\1/p')\n\
                       where=${where:-$(hostname)}"
                    .into(),
                name => format!("where={}", quoted(name)?),
            });
            out.push(format!("echo \"$where:{port}\" > {address}.new"));
            out.push(format!("mv {address}.new {address}"));
            out.push("if [ \"${SLURM_RESTART_COUNT:-0}\" -gt 0 ]; then".into());
            let dir = site.run_dir.display().to_string();
            out.push(format!("    exec {} resume {}", quoted(&part.program)?, quoted(&dir)?));
            out.push("fi".into());
        }
        Role::Executor | Role::Generator => {
            // Its job has begun by now: this waits for a shared file system.
            let tries = (config.cluster.reconnect_s / 2).max(30);
            out.push(format!("for _ in $(seq {tries}); do [ -s {address} ] && break; sleep 2; done"));
            out.push(format!("[ -s {address} ] || {{ echo \"the head has not written\" {address} >&2; exit 2; }}"));
            out.push(format!("head=$(cat {address})"));
        }
    }
    let mut command = vec!["exec".to_string(), quoted(&part.program)?];
    for arg in &part.args {
        command.push(quoted(arg)?);
    }
    out.push(command.join(" "));
    Ok(out.join("\n") + "\n")
}

/// For bash, and for sbatch, which reads its options with the same quotes. Our own variables stay variables.
fn quoted(text: &str) -> Result<String, UserError> {
    if text == ADDRESS_VARIABLE || text.contains("-$SLURM_ARRAY_JOB_ID-") {
        return Ok(format!("\"{text}\""));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return Ok(text.to_string());
    }
    shlex::try_quote(text).map(|q| q.into_owned()).map_err(|e| {
        UserError::new("this cannot stand in a job's script").at(text).found(e).expected("a text without NUL")
    })
}

/// More tasks of the executors' array.
pub fn array(count: u32) -> String {
    format!("--array=0-{}", count.saturating_sub(1))
}

/// The job's number in the answer of `sbatch --parsable`: `123`, or `123;cluster`.
pub fn job_number(answer: &str) -> Option<u64> {
    answer.lines().last()?.split(';').next()?.trim().parse().ok()
}

/// For people: what is done with the scripts.
pub fn commands(scripts: &[Script], folder: &Path) -> String {
    let line = |s: &Script| match s.role {
        Role::Head => format!("sbatch --parsable {}", folder.join(&s.name).display()),
        _ => format!(
            "sbatch --parsable --dependency=after:HEAD --kill-on-invalid-dep=yes {} {}",
            array(s.count),
            folder.join(&s.name).display()
        ),
    };
    scripts.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::super::Mode;
    use super::*;

    fn rendered(dir: &str, sets: &[&str]) -> Vec<Script> {
        let mut sets: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
        sets.push("cluster.listen=0.0.0.0:7440".into());
        let config = Config::load(&[], &sets).unwrap();
        let site = Site { run_dir: dir.into(), program: "/opt/my troupe".into(), resumed: false, generators: true };
        let plan = Plan::new(Mode::Slurm, &config, &site).unwrap();
        scripts(&config, &plan, &site).unwrap()
    }

    #[test]
    fn every_wish_is_an_option() {
        let all = rendered(
            "/r",
            &[
                "launch.executor_cpus=8",
                "launch.executor_mem_mb=9000",
                "launch.executor_gpus=2",
                "launch.head_gpus=1",
                "launch.slurm_partition=long",
                "launch.slurm_account=me",
                "launch.slurm_time=1-02:00:00",
                "launch.slurm_args=[\"--constraint=h100&big\"]",
                "launch.stop_s=77",
                "launch.generators=2",
            ],
        );
        assert_eq!(all.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["head.sh", "executor.sh", "generator.sh"]);
        for line in [
            "#SBATCH --cpus-per-task=8",
            "#SBATCH --mem=9000M",
            "#SBATCH --gres=gpu:2",
            "#SBATCH --partition=long",
            "#SBATCH --account=me",
            "#SBATCH --time=1-02:00:00",
            "#SBATCH '--constraint=h100&big'",
            "#SBATCH --signal=B:INT@77",
        ] {
            assert!(all[1].text.lines().any(|l| l == line), "{line} in\n{}", all[1].text);
        }
        assert!(all[0].text.contains("#SBATCH --gres=gpu:1\n") && !all[0].text.contains("--cpus-per-task"));
        assert!(all[1].text.ends_with("--gpus all -c /r/launch/cluster.toml\n"), "{}", all[1].text);
    }

    /// bash itself reads the scripts: the words that reach `troupe` are the plan's. Planted: paths without quotes.
    #[test]
    fn a_shell_hands_over_the_words_of_the_plan() {
        let folder = tempfile::Builder::new().prefix("a $b 'c' ").tempdir().unwrap();
        let dir = folder.path().join("run");
        std::fs::create_dir_all(dir.join("launch")).unwrap();
        let bin = folder.path().join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        let all = rendered(dir.to_str().unwrap(), &["launch.workers=3"]);
        let run = |script: &Script, restarts: &str| {
            // The program is not there: bash's own `exec` is replaced by one that shows its words.
            let text = script.text.replace("exec ", "printf '%s\\n' ");
            let out = std::process::Command::new("bash")
                .arg("-c")
                .arg(format!("scontrol() {{ echo 'NodeName=n Gres=(null) NodeAddr=10.1.2.3 Version=22'; }}\n{text}"))
                .env("SLURMD_NODENAME", "n")
                .env("SLURM_RESTART_COUNT", restarts)
                .env("SLURM_ARRAY_JOB_ID", "41")
                .env("SLURM_ARRAY_TASK_ID", "5")
                .output()
                .unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            String::from_utf8(out.stdout).unwrap().lines().map(String::from).collect::<Vec<_>>()
        };
        let dir = dir.to_str().unwrap();
        let file = format!("{dir}/launch/cluster.toml");
        assert_eq!(run(&all[0], "0"), ["/opt/my troupe", "run", "-c", &file, "--run-dir", dir]);
        assert_eq!(run(&all[0], "1")[..3], ["/opt/my troupe", "resume", dir]);
        assert_eq!(std::fs::read_to_string(format!("{dir}/launch/head.address")).unwrap(), "10.1.2.3:7440\n");
        let joined = run(&all[1], "0");
        let start = ["/opt/my troupe", "join", "10.1.2.3:7440", "--role", "executor", "--name", "executor-41-5"];
        assert_eq!(joined[..7], start);
        assert_eq!(joined[7..], ["--workers", "3", "--gpus", "none", "-c", &file]);
    }

    #[test]
    fn the_answer_of_sbatch_is_a_number() {
        assert_eq!(job_number("123\n"), Some(123));
        assert_eq!(job_number("sbatch: a note\n123;cluster\n"), Some(123));
        assert_eq!(job_number("Submitted batch job 7"), None);
        assert_eq!(array(4), "--array=0-3");
    }
}
