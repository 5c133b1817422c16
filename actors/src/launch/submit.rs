//! Jobs to Slurm: the scripts are written into the run directory and submitted, the head first, the nodes' arrays to begin after it has.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::folder::{self, Jobs};
use super::plan::{ADDRESS_FILE, Role, Site};
use super::slurm::{self, Script};
use crate::config::Config;
use crate::errors::UserError;

/// One answer of Slurm's controller.
const ANSWER: Duration = Duration::from_secs(60);

/// Writes the scripts and submits them all. Returns the jobs' numbers.
///
/// # Errors
/// No Slurm, or it refuses.
pub async fn submit(config: &Config, scripts: &[Script], site: &Site) -> Result<Jobs, UserError> {
    // Of an earlier head of this run.
    let _ = std::fs::remove_file(site.file(ADDRESS_FILE));
    for script in scripts {
        folder::write(&site.file(&script.name), &script.text)?;
    }
    let mut jobs = Jobs::default();
    for script in scripts {
        if script.role == Role::Head {
            jobs.head = sbatch(config, &[], &site.file(&script.name).display().to_string()).await?;
        } else {
            let submitted = nodes(config, script.role, script.count, jobs.head, site).await;
            match submitted {
                Ok(job) => jobs.nodes.push(job),
                Err(error) => {
                    // Half a run would wait for nodes that nobody has asked for.
                    let all = jobs.nodes.iter().chain([&jobs.head]).map(u64::to_string);
                    let _ = ask("scancel", &all.collect::<Vec<_>>(), config).await;
                    return Err(error);
                }
            }
        }
    }
    folder::keep_jobs(site, &jobs)?;
    Ok(jobs)
}

/// More executors for a run that goes on. Returns the new job's number.
///
/// # Errors
/// The head's job is not there any more, or Slurm refuses.
pub async fn grow(config: &Config, count: u32, site: &Site) -> Result<u64, UserError> {
    let mut jobs = folder::jobs(site)?;
    let head = jobs.head.to_string();
    let state =
        ask("squeue", &["--noheader".into(), "--jobs".into(), head.clone(), "--format=%T".into()], config).await;
    let state = state.unwrap_or_default();
    if !["RUNNING", "PENDING", "CONFIGURING", "SUSPENDED"].contains(&state.trim()) {
        return Err(UserError::new("the run's head is no job of Slurm's any more")
            .at(format!("job {head}"))
            .found(if state.trim().is_empty() { "nothing" } else { state.trim() })
            .expected("a job that runs or waits")
            .hint(format!("`troupe launch slurm --resume {}` starts head and nodes again", site.run_dir.display())));
    }
    let job = nodes(config, Role::Executor, count, jobs.head, site).await?;
    jobs.nodes.push(job);
    folder::keep_jobs(site, &jobs)?;
    Ok(job)
}

async fn nodes(config: &Config, role: Role, count: u32, head: u64, site: &Site) -> Result<u64, UserError> {
    let options = [format!("--dependency=after:{head}"), "--kill-on-invalid-dep=yes".into(), slurm::array(count)];
    sbatch(config, &options, &site.file(&slurm::script_name(role)).display().to_string()).await
}

async fn sbatch(config: &Config, options: &[String], script: &str) -> Result<u64, UserError> {
    let mut args = vec!["--parsable".to_string()];
    args.extend(options.iter().cloned());
    args.push(script.into());
    let answer = ask("sbatch", &args, config).await?;
    slurm::job_number(&answer).ok_or_else(|| {
        UserError::new("sbatch does not say which job it is").at(script).found(answer.trim()).expected("a number")
    })
}

async fn ask(program: &str, args: &[String], config: &Config) -> Result<String, UserError> {
    let shown = format!("{program} {}", args.join(" "));
    let complain = |found: String, hint: &str| {
        UserError::new("Slurm cannot be asked, or refuses").at(&shown).found(found).expected("exit code 0").hint(hint)
    };
    let mut command = Command::new(program);
    // Jobs get our environment; the cookie is in its file.
    command.args(args).env_remove(&config.cluster.cookie_env).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(ANSWER, command.output()).await;
    let output = output
        .map_err(|_| complain(format!("no answer within {} s", ANSWER.as_secs()), "is slurmctld up? `scontrol ping`"))?
        .map_err(|e| complain(e.to_string(), "Slurm's commands have to be on this machine and in PATH"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_string();
        return Err(complain(
            if said.is_empty() { output.status.to_string() } else { said },
            "keys of [launch] become options of sbatch: `troupe launch slurm --dry-run` shows the scripts",
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
