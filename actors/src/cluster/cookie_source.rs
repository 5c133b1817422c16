//! Where the cookie comes from: a file, or a variable of the environment.

use super::cookie::{Cookie, LEAST, MOST};
use super::tls::Tls;
use crate::config::Cluster;
use crate::errors::UserError;

impl Cookie {
    /// From `cluster.cookie_file`, or else from the variable that `cluster.cookie_env` names.
    ///
    /// # Errors
    /// Neither is there, it is too short, or the files of its TLS are no good.
    pub fn find(config: &Cluster) -> Result<Cookie, UserError> {
        let (place, found) = match config.cookie_path() {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|e| UserError::io("read the cluster's cookie (`cluster.cookie_file`)", path, &e))?;
                (format!("cluster.cookie_file = {}", path.display()), text)
            }
            None => {
                let place = format!("cluster.cookie_env = {:?}", config.cookie_env);
                (place, std::env::var(&config.cookie_env).unwrap_or_default())
            }
        };
        let cookie = Cookie::new(found.trim()).map_err(|found| {
            UserError::new("the cluster has no cookie that could protect it")
                .at(place)
                .found(found)
                .expected(format!("{LEAST} to {MOST} characters, the same on every node"))
                .hint("make one: `openssl rand -hex 32 > cookie && chmod 600 cookie`, then --set cluster.cookie_file=cookie")
        })?;
        Ok(cookie.with_tls(Tls::find(config)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_there_is_none_the_place_is_named() {
        let config = Cluster { cookie_env: "TROUPE_NO_SUCH_COOKIE".into(), ..Cluster::default() };
        let e = Cookie::find(&config).unwrap_err();
        assert!(e.to_string().contains("nothing") && e.to_string().contains("TROUPE_NO_SUCH_COOKIE"), "{e}");
    }
}
