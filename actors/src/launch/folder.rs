//! What launching keeps in the run directory: the resolved run file, the cookie where the user has none in a file, scripts, and which jobs
//! were submitted. The folder is its owner's alone.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::plan::{COOKIE_FILE, RUN_FILE, Site};
use crate::cluster::Cookie;
use crate::config::{Cluster, Config};
use crate::errors::UserError;

const JOBS_FILE: &str = "slurm.json";

/// Jobs of a run that were submitted, the newest last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jobs {
    pub head: u64,
    pub nodes: Vec<u64>,
}

/// Makes the folder, a cookie if there is none, and the run file for the processes to read. The configuration names the cookie's file
/// then.
///
/// # Errors
/// Nothing can be written, or the user's cookie is none.
pub fn prepare(config: Config, site: &Site) -> Result<(Config, Cookie), UserError> {
    let folder = site.file("");
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    std::fs::create_dir_all(&site.run_dir).map_err(|e| UserError::io("make the run directory", &site.run_dir, &e))?;
    builder.create(&folder).map_err(|e| UserError::io("make the folder of the launch", &folder, &e))?;
    let mut config = config;
    if config.cluster.cookie_path().is_none() {
        config.cluster.cookie_file = own_cookie(&config, site)?;
    } else if config.cluster.cookie_file == site.file(COOKIE_FILE) {
        // Ours of before; if somebody took it away, another one is as good.
        own_cookie(&config, site)?;
    }
    let cookie = Cookie::find(&config.cluster)?;
    write(&site.file(RUN_FILE), &config.to_toml())?;
    Ok((config, cookie))
}

/// From the variable if it is set, else a random one.
fn own_cookie(config: &Config, site: &Site) -> Result<PathBuf, UserError> {
    let path = site.file(COOKIE_FILE);
    if path.exists() {
        return Ok(path);
    }
    let set = std::env::var(&config.cluster.cookie_env).is_ok_and(|text| !text.trim().is_empty());
    let text = if set {
        let from_variable = Cluster { cookie_file: PathBuf::new(), ..config.cluster.clone() };
        Cookie::find(&from_variable)?.text().to_string()
    } else {
        crate::sft::hex(&rand::random::<[u8; 32]>())
    };
    write(&path, &text)?;
    Ok(path)
}

/// Readable by its owner alone from the first byte on, and there whole or not at all.
///
/// # Errors
/// It cannot be written.
pub fn write(path: &Path, text: &str) -> Result<(), UserError> {
    let new = path.with_extension("new");
    let made = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new);
    made.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&new, path))
        .map_err(|e| UserError::io("write a file of the launch", path, &e))
}

/// # Errors
/// It was not launched through Slurm, or the file is damaged.
pub fn jobs(site: &Site) -> Result<Jobs, UserError> {
    let path = site.file(JOBS_FILE);
    let text = std::fs::read_to_string(&path).map_err(|e| {
        UserError::io("read which jobs were submitted", &path, &e)
            .expected("a run that `troupe launch slurm` has started")
            .hint("`--run-dir` names its run directory")
    })?;
    serde_json::from_str(&text)
        .map_err(|e| UserError::new("cannot read which jobs were submitted").at(path.display()).found(e))
}

/// # Errors
/// It cannot be written.
pub fn keep_jobs(site: &Site, jobs: &Jobs) -> Result<(), UserError> {
    write(&site.file(JOBS_FILE), &serde_json::to_string_pretty(jobs).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn site(dir: &Path) -> Site {
        Site { run_dir: dir.join("run"), program: "/t".into(), resumed: false, generators: true }
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_cookie_is_made_once_and_is_the_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let site = site(dir.path());
        let mut config = Config::builtin().unwrap();
        config.cluster.cookie_env = "TROUPE_NO_SUCH_COOKIE".into();
        let (prepared, cookie) = prepare(config.clone(), &site).unwrap();
        assert_eq!(cookie.text().len(), 64);
        let file = prepared.cluster.cookie_path().unwrap();
        assert_eq!(std::fs::read_to_string(file).unwrap(), cookie.text());
        assert_eq!((mode(file), mode(&site.file(RUN_FILE)), mode(&site.file(""))), (0o600, 0o600, 0o700));
        // The run file is whole, and does not hold the cookie.
        let text = std::fs::read_to_string(site.file(RUN_FILE)).unwrap();
        assert_eq!(Config::from_resolved(&text, Path::new("x")).unwrap(), prepared);
        assert!(!text.contains(cookie.text()));
        let (again, same) = prepare(prepared.clone(), &site).unwrap();
        assert_eq!((again, same.text()), (prepared.clone(), cookie.text()));
        std::fs::remove_file(site.file(COOKIE_FILE)).unwrap();
        let (_, other) = prepare(prepared, &site).unwrap();
        assert_ne!(other.text(), cookie.text());
    }

    #[test]
    fn the_users_cookie_file_is_used_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let mine = dir.path().join("mine");
        std::fs::write(&mine, "0123456789abcdef\n").unwrap();
        let mut config = Config::builtin().unwrap();
        config.cluster.cookie_file = mine.clone();
        let (prepared, cookie) = prepare(config.clone(), &site(dir.path())).unwrap();
        assert_eq!((prepared.cluster.cookie_file, cookie.text()), (mine.clone(), "0123456789abcdef"));
        assert!(!site(dir.path()).file(COOKIE_FILE).exists());
        std::fs::write(&mine, "short").unwrap();
        assert!(prepare(config, &site(dir.path())).unwrap_err().to_string().contains("5 characters"));
    }
}
