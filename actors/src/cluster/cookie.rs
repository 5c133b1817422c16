//! The cluster's cookie: where it comes from, and the keys that are made of it.
//!
//! Between gateways ractor_cluster proves it by challenge. On the side channel every request carries a keyed BLAKE3 hash of
//! method and path under a key derived from it: the cookie itself is never sent. Contents are named by digest, so a
//! request that somebody repeats yields what its first reader has seen. Encryption is another matter (`tls`).

use super::tls::Tls;

/// A shorter cookie can be guessed from one recorded handshake.
pub const LEAST: usize = 16;
/// A cookie file is one line.
pub const MOST: usize = 4096;

/// The shared secret, and where it is set the TLS that goes with it: all that a process needs to be let in. Never printed.
#[derive(Clone)]
pub struct Cookie {
    text: String,
    tls: Option<Tls>,
}

impl std::fmt::Debug for Cookie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cookie(..)")
    }
}

impl Cookie {
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Cookie, String> {
        match text.len() {
            0 => Err("nothing".into()),
            n if n < LEAST => Err(format!("{n} characters")),
            n if n > MOST => Err(format!("{n} characters")),
            _ => Ok(Cookie { text: text.to_string(), tls: None }),
        }
    }

    /// For ractor_cluster.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The same with TLS, or without.
    pub fn with_tls(self, tls: Option<Tls>) -> Cookie {
        Cookie { tls, ..self }
    }

    /// `None`: nothing is encrypted.
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// What a request for `path` has to carry in `x-troupe-proof`.
    pub fn proof(&self, method: &str, path: &str) -> blake3::Hash {
        let key = blake3::derive_key("troupe 2026-11 side channel requests", self.text.as_bytes());
        blake3::keyed_hash(&key, format!("{method} {path}").as_bytes())
    }

    /// Compares in constant time.
    pub fn proves(&self, method: &str, path: &str, proof: &str) -> bool {
        blake3::Hash::from_hex(proof).is_ok_and(|proof| proof == self.proof(method, path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOKIE: &str = "0123456789abcdef";

    #[test]
    fn a_proof_is_for_one_cookie_one_method_and_one_path() {
        let (mine, other) = (Cookie::new(COOKIE).unwrap(), Cookie::new("0123456789abcdeF").unwrap());
        let proof = mine.proof("GET", "/blob/aa").to_hex();
        assert!(mine.proves("GET", "/blob/aa", &proof));
        assert!(!other.proves("GET", "/blob/aa", &proof));
        assert!(!mine.proves("PUT", "/blob/aa", &proof) && !mine.proves("GET", "/blob/ab", &proof));
        assert!(!mine.proves("GET", "/blob/aa", "") && !mine.proves("GET", "/blob/aa", &proof[1..]));
        assert!(!format!("{mine:?}").contains(COOKIE));
    }

    #[test]
    fn a_short_cookie_is_none() {
        assert!(Cookie::new("").is_err() && Cookie::new(&COOKIE[1..]).is_err());
    }
}
