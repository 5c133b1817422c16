//! `troupe launch`: from arguments to a plan, from the plan to processes, jobs or manifests.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ValueEnum as _;

use super::args_launch::{HereArgs, How, K8sArgs, LaunchArgs, SlurmArgs};
use super::args_node::RoleArg;
use super::{Answer, Done, Failure, output, rollouts, run, runtime};
use crate::config::Config;
use crate::config::launch::Mode;
use crate::errors::UserError;
use crate::launch::child::Told;
use crate::launch::supervise::{self, Launched, Outcome};
use crate::launch::{Place, Plan, Site, folder, k8s, plan, slurm, ssh, submit};
use crate::store::{Reader, StoreError};

/// Where a head listens that has a machine, or a pod, of its own.
const EVERYWHERE: &str = "0.0.0.0:7440";

pub fn launch(args: LaunchArgs) -> Done {
    match args.how {
        How::Local(args) => here(Mode::Local, args),
        How::Ssh(args) => here(Mode::Ssh, args),
        How::Slurm(args) => jobs(args),
        How::K8s(args) => manifests(args),
    }
}

/// Whether `troupe join` of this binary has the role.
pub(crate) fn knows_generators() -> bool {
    RoleArg::from_str("generator", true).is_ok()
}

/// What is launched, and where its run directory is to be; nothing has been made.
struct Wish {
    config: Config,
    run_dir: Option<PathBuf>,
    resumed: bool,
}

impl Wish {
    fn new(mode: Mode, args: &HereArgs) -> Result<Wish, Failure> {
        let here = run::current_dir()?;
        if let Some(dir) = &args.resume {
            let dir = here.join(dir);
            let config = stored(&dir, &args.config.sets, mode)?.with_absolute_paths(&here);
            return Ok(Wish { config, run_dir: Some(dir), resumed: true });
        }
        let listen = |tunnel: bool| match mode {
            Mode::Local => free_address(),
            Mode::Ssh if tunnel => free_address(),
            // An error: only the user knows which address the hosts reach.
            Mode::Ssh => Ok(String::new()),
            Mode::Slurm | Mode::K8s => Ok(EVERYWHERE.into()),
        };
        let config = Config::launched(&args.config.files, &args.config.sets, mode, listen)?.with_absolute_paths(&here);
        run::require_all(&config)?;
        Ok(Wish { config, run_dir: args.run_dir.as_ref().map(|dir| here.join(dir)), resumed: false })
    }

    /// The site; a run directory that has no name yet is made, or stands for itself in a dry run.
    fn site(&self, dry_run: bool) -> Result<Site, Failure> {
        let run_dir = match (&self.run_dir, dry_run) {
            (Some(dir), _) => dir.clone(),
            (None, true) => self.config.run.dir.join("NEW"),
            (None, false) => run::new_run_dir(&self.config.run.dir)?,
        };
        if !self.resumed && crate::store::path(&run_dir).exists() && Reader::open(&run_dir).is_ok() {
            return Err(UserError::new("this directory already holds a run")
                .at(run_dir.display())
                .found("run.sqlite")
                .expected("a new directory, or --resume")
                .hint(format!("`troupe launch .. --resume {}` continues it", run_dir.display()))
                .into());
        }
        site(run_dir, self.resumed)
    }
}

fn site(run_dir: PathBuf, resumed: bool) -> Result<Site, Failure> {
    let program = std::env::current_exe().map_err(|e| Failure::Broken(format!("this program cannot be found: {e}")))?;
    Ok(Site { run_dir, program, resumed, generators: knows_generators() })
}

/// The configuration that a run stored of itself.
fn stored(dir: &Path, sets: &[String], mode: Mode) -> Result<Config, Failure> {
    let read = || -> Result<String, StoreError> {
        Reader::open(dir)?.meta("config")?.ok_or_else(|| StoreError::Unbegun(dir.to_path_buf()))
    };
    let text = read().map_err(rollouts::failure)?;
    Ok(Config::launched_again(&text, &crate::store::path(dir), sets, mode)?)
}

/// Two free ports in a row of the loopback: the head's and its side channel's.
fn free_address() -> Result<String, UserError> {
    let complain = |e: std::io::Error| UserError::new("there is no free port").at("127.0.0.1").found(e);
    for _ in 0..100 {
        let first = TcpListener::bind("127.0.0.1:0").map_err(complain)?;
        let port = first.local_addr().map_err(complain)?.port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return Ok(format!("127.0.0.1:{port}"));
        }
    }
    Err(UserError::new("there are no two free ports in a row")
        .at("127.0.0.1")
        .hint("name one: --set cluster.listen=127.0.0.1:7440"))
}

fn here(mode: Mode, args: HereArgs) -> Done {
    let wish = Wish::new(mode, &args)?;
    let site = wish.site(args.dry_run)?;
    let plan = Plan::new(mode, &wish.config, &site)?;
    if args.dry_run {
        let mut text = vec![plan.table()];
        let remote = plan.nodes.iter().filter(|part| matches!(part.place, Place::Host(_)));
        let remote: Result<Vec<String>, UserError> = remote.map(|part| ssh::shown(&wish.config, part)).collect();
        let remote = remote?;
        if !remote.is_empty() {
            text.push(format!("\n# commands (each gets the cookie on its stdin)\n# {}", remote.join("\n# ")));
        }
        text.push(format!("\n# resolved configuration\n{}", wish.config.to_toml().trim_end()));
        output::line(text.join("\n"))?;
        return Ok(Answer::Yes);
    }
    let (config, cookie) = folder::prepare(wish.config, &site)?;
    output::say(format!("run directory: {}", site.run_dir.display()));
    for part in plan.parts() {
        let place = match &part.place {
            Place::Host(host) => format!("on {host}"),
            _ => "here".to_string(),
        };
        output::say(format!("starting {} {place}", part.name));
    }
    let tell = Arc::new(|told: Told| match told {
        // A reader that went away does not end a run.
        Told::Out(line) => drop(output::line(line)),
        Told::Err(line) => output::say(line),
    });
    let runtime = runtime()?;
    let outcome = runtime.block_on(supervise::run(Launched { config, plan, cookie, tell }))?;
    let again = format!("`troupe launch {} --resume {}`", mode.word(), site.run_dir.display());
    match outcome {
        Outcome::Head(0) => Ok(Answer::Yes),
        Outcome::Head(code) => {
            if code == 130 || code == 3 {
                output::say(format!("{again} continues"));
            }
            Err(Failure::Told(code))
        }
        Outcome::Interrupted => {
            output::say(format!("all processes were killed; {again} continues from the last step"));
            Err(Failure::Interrupted)
        }
        Outcome::HeadKilled => {
            Err(Failure::Broken(format!("the head was killed by a signal\n  hint:     {again} continues")))
        }
        Outcome::NoNodes => Err(Failure::Broken(format!(
            "every executor node was given up\n  hint:     their last lines say why; {again} continues"
        ))),
    }
}

fn jobs(args: SlurmArgs) -> Done {
    if let (Some(count), Some(dir)) = (args.grow, &args.here.run_dir) {
        return grow(count, &run::current_dir()?.join(dir), args.here.dry_run);
    }
    let wish = Wish::new(Mode::Slurm, &args.here)?;
    let site = wish.site(args.here.dry_run)?;
    let plan = Plan::new(Mode::Slurm, &wish.config, &site)?;
    let scripts = slurm::scripts(&wish.config, &plan, &site)?;
    if args.here.dry_run {
        let mut text = vec![plan.table()];
        for script in &scripts {
            text.push(format!("\n# {}\n{}", site.file(&script.name).display(), script.text.trim_end()));
        }
        text.push(format!("\n# submitted with\n{}", slurm::commands(&scripts, &site.file(""))));
        text.push(format!("\n# {}\n{}", site.file(plan::RUN_FILE).display(), wish.config.to_toml().trim_end()));
        output::line(text.join("\n"))?;
        return Ok(Answer::Yes);
    }
    let (config, _) = folder::prepare(wish.config, &site)?;
    let jobs = runtime()?.block_on(submit::submit(&config, &scripts, &site))?;
    let dir = site.run_dir.display();
    output::line(format!("head {}", jobs.head))?;
    for job in &jobs.nodes {
        output::line(format!("nodes {job}"))?;
    }
    output::say(format!("run directory: {dir}\nlogs: {}", site.file("").display()));
    output::say(format!("more executors: `troupe launch slurm --grow N --run-dir {dir}`"));
    output::say(format!("stop with a checkpoint: `scancel --batch --signal=INT {}`", jobs.head));
    Ok(Answer::Yes)
}

fn grow(count: u32, run_dir: &Path, dry_run: bool) -> Done {
    let site = site(run_dir.to_path_buf(), true)?;
    let file = site.file(plan::RUN_FILE);
    let text = std::fs::read_to_string(&file).map_err(|e| {
        UserError::io("read the run file of the launch", &file, &e).hint("--run-dir is that of `troupe launch slurm`")
    })?;
    let config = Config::from_resolved(&text, &file)?;
    if dry_run {
        let script = site.file(&slurm::script_name(plan::Role::Executor));
        let head = folder::jobs(&site)?.head;
        output::line(format!(
            "sbatch --parsable --dependency=after:{head} {} {}",
            slurm::array(count),
            script.display()
        ))?;
        return Ok(Answer::Yes);
    }
    let job = runtime()?.block_on(submit::grow(&config, count, &site))?;
    output::line(format!("nodes {job}"))?;
    Ok(Answer::Yes)
}

/// Paths of the run file are the pods', so that nothing of this machine is looked at.
fn manifests(args: K8sArgs) -> Done {
    let config = Config::launched(&args.config.files, &args.config.sets, Mode::K8s, |_| Ok(EVERYWHERE.into()))?;
    let site = site(PathBuf::from(plan::POD_RUN), false)?;
    let plan = Plan::new(Mode::K8s, &config, &site)?;
    if args.dry_run {
        output::line(plan.table())?;
    }
    output::pretty_json(&k8s::manifests(&config, &plan))?;
    Ok(Answer::Yes)
}
