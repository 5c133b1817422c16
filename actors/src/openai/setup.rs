//! The generation server as the run file describes it: where it is, how it is asked, where its weights are put.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;

use crate::config::{Config, Generator, GeneratorKind, ReloadKind, ServerKind};
use crate::errors::UserError;
use crate::http;
use crate::run_dir::SERVED_DIR;

/// What the run file's base URL ends with; the servers' control endpoints are beside it, not below.
pub const V1: &str = "v1";

/// All that the sampler needs of the server; shared, also over restarts of the generator.
pub struct Setup {
    pub(super) http: reqwest::Client,
    /// Ends with `/`.
    pub(super) root: Url,
    /// Kept to be blotted out of messages.
    pub(super) secret: Option<String>,
    pub(super) server: ServerKind,
    pub(super) model: String,
    /// Longest silence of the server's.
    pub(super) timeout: Duration,
    /// Longest time for one answer from its place among `concurrency` on, repeated requests included.
    pub(super) deadline: Duration,
    /// Requests at once.
    pub(super) concurrency: usize,
    pub(super) retries: u32,
    pub(super) backoff: Duration,
    /// `None`: the server keeps the weights it has.
    pub(super) reload: Option<Reload>,
    /// One reload at a time, also while an old generator's thread still ends.
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
}

/// How new weights reach the server.
pub struct Reload {
    /// A folder that both see, under the same absolute path.
    pub(super) dir: PathBuf,
    /// Longest time for writing and loading one version.
    pub(super) timeout: Duration,
    /// Held as long as this process works in the folder.
    _lock: std::fs::File,
}

/// What the run file does not say.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// The first pause before a repeated request; it doubles.
    pub backoff: Duration,
    /// Instead of `generator.timeout_s`.
    pub timeout: Option<Duration>,
    /// Instead of `generator.reload_timeout_s`.
    pub reload_timeout: Option<Duration>,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning { backoff: Duration::from_millis(500), timeout: None, reload_timeout: None }
    }
}

/// The key of the server, as the run file names it; a missing one is found before anything is made.
///
/// # Errors
/// The variable is not set.
pub fn secret(section: &Generator) -> Result<Option<String>, UserError> {
    match section.kind {
        GeneratorKind::Burn => Ok(None),
        GeneratorKind::Openai => http::secret("the generation server", "generator.api_key_env", &section.api_key_env),
    }
}

/// The server's root: `generator.base_url` without its `/v1`, with a `/` at its end.
///
/// # Errors
/// What was found instead of a usable base URL.
pub fn root(base_url: &str) -> Result<Url, String> {
    let whole = http::endpoint(base_url, "")?.to_string();
    let root = whole.trim_end_matches('/').strip_suffix(V1).filter(|root| root.ends_with('/'));
    let root = root.ok_or_else(|| format!("\"{base_url}\", which does not end with /{V1}"))?;
    Url::parse(root).map_err(|e| format!("\"{base_url}\": {e}"))
}

impl Setup {
    /// `None` when the generator is our own. Makes the folder of weights and locks it.
    ///
    /// # Errors
    /// No key, or a folder that cannot be written or is another run's.
    pub fn new(config: &Config, run_dir: &Path) -> Result<Option<Arc<Setup>>, UserError> {
        if config.generator.kind == GeneratorKind::Burn {
            return Ok(None);
        }
        let deadline = Duration::from_secs(config.rollout.sample_deadline_s);
        let secret = secret(&config.generator)?;
        Setup::with(&config.generator, secret, deadline, run_dir, Tuning::default()).map(Some)
    }

    /// As [`Setup::new`], with everything given.
    ///
    /// # Errors
    /// As there, or a value that makes no request.
    pub fn with(
        section: &Generator,
        secret: Option<String>,
        deadline: Duration,
        run_dir: &Path,
        tuning: Tuning,
    ) -> Result<Arc<Setup>, UserError> {
        let root = root(&section.base_url).map_err(|found| no_address().found(found))?;
        let timeout = tuning.timeout.unwrap_or(Duration::from_secs(section.timeout_s));
        let client = http::client(&root, secret.as_deref(), timeout)
            .map_err(|found| UserError::new("the generation server cannot be asked").at("[generator]").found(found))?;
        let reload = match section.reload {
            ReloadKind::None => None,
            ReloadKind::Disk => {
                let dir = match section.reload_folder() {
                    Some(dir) => dir.to_path_buf(),
                    None => run_dir.join(SERVED_DIR),
                };
                let timeout = tuning.reload_timeout.unwrap_or(Duration::from_secs(section.reload_timeout_s));
                Some(Reload { _lock: lock(&dir)?, dir, timeout })
            }
        };
        Ok(Arc::new(Setup {
            http: client,
            root,
            secret,
            server: section.server,
            model: section.model.clone(),
            timeout,
            deadline,
            concurrency: section.max_batch,
            retries: section.retries,
            backoff: tuning.backoff,
            reload,
            turn: Arc::default(),
        }))
    }

    /// `path` (with its query) below the server's root.
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.root)
    }

    /// A line for people, without the key.
    pub(super) fn blot(&self, text: &str) -> String {
        http::blot(self.secret.as_deref(), text)
    }
}

/// The error of a base URL that cannot be used, without what was found.
pub fn no_address() -> UserError {
    UserError::new("the generation server has no address")
        .at("generator.base_url")
        .expected("a URL such as \"http://127.0.0.1:8000/v1\"")
        .hint("its control endpoints are looked for beside `/v1`; a key belongs into the variable generator.api_key_env names")
}

/// Makes the folder and keeps other processes out of it: two runs would overwrite each other's versions.
fn lock(dir: &Path) -> Result<std::fs::File, UserError> {
    std::fs::create_dir_all(dir)
        .map_err(|e| UserError::io("make the folder of the server's weights (`generator.reload_dir`)", dir, &e))?;
    let path = dir.join("lock");
    let file = std::fs::File::create(&path).map_err(|e| UserError::io("write to `generator.reload_dir`", &path, &e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(UserError::new("another run puts its weights here")
            .at(format!("generator.reload_dir = \"{}\"", dir.display()))
            .found("a lock of another process")
            .expected("a folder of this run's own")
            .hint("a server samples for one run; leave generator.reload_dir empty, or name another folder")),
        Err(std::fs::TryLockError::Error(e)) => Err(UserError::io("lock", &path, &e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_endpoints_are_beside_v1() {
        let of = |base: &str| root(base).map(|u| u.to_string());
        assert_eq!(of("http://h:8000/v1").unwrap(), "http://h:8000/");
        assert_eq!(of("https://h/some/where/v1/").unwrap(), "https://h/some/where/");
        for odd in ["http://h:8000", "http://h/v1/chat", "http://h/xv1", "h/v1", "http://u:p@h/v1"] {
            assert!(of(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn a_folder_of_weights_belongs_to_one_run() {
        let dir = tempfile::tempdir().unwrap();
        let section = Generator { model: "m".into(), ..Config::builtin().unwrap().generator };
        let with = || Setup::with(&section, None, Duration::from_secs(1), dir.path(), Tuning::default());
        let first = with().unwrap();
        assert!(dir.path().join("served").is_dir());
        let refused = with().err().unwrap();
        assert!(refused.what.contains("another run"), "{refused}");
        drop(first);
        assert!(with().is_ok());
    }
}
