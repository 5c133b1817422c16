//! A test that this machine does not allow: skipped with the reason, or where it has to run, failed with it.
#![allow(dead_code)]

/// What may not be skipped: `1` for everything, or names of needs (`Need`), with spaces between them. `.ci/run` tries out what there is.
const MUST_RUN: &str = "TROUPE_TESTS_MUST_RUN";

/// What a test needs of its machine.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// `ip netns add`, bridges and veth pairs.
    Namespaces,
    /// `unshare --net`, `nsenter`, `setpriv`, and a TUN device that can be opened.
    Line,
    /// `mount -t tmpfs`.
    Mount,
    Openssl,
    Ssh,
    Slurm,
    Kubernetes,
}

impl Need {
    fn name(self) -> &'static str {
        match self {
            Need::Namespaces => "namespaces",
            Need::Line => "line",
            Need::Mount => "mount",
            Need::Openssl => "openssl",
            Need::Ssh => "ssh",
            Need::Slurm => "slurm",
            Need::Kubernetes => "kubernetes",
        }
    }
}

#[track_caller]
pub fn skipped(need: Need, why: impl std::fmt::Display) {
    let must = std::env::var(MUST_RUN).unwrap_or_default();
    let all = must.split_whitespace().any(|name| name == "1" || name == need.name());
    assert!(!all, "{MUST_RUN}={must:?}, and this test cannot run here: {why}");
    eprintln!("skipped: {why}");
}
