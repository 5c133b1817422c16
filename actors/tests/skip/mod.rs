//! A test that this machine does not allow: skipped with the reason, or where everything has to run, failed with it.
#![allow(dead_code)]

/// Set to 1, nothing is skipped for want of the superuser, a tool or a feature of the kernel: such a test fails.
const MUST_RUN: &str = "TROUPE_TESTS_MUST_RUN";

#[track_caller]
pub fn skipped(why: impl std::fmt::Display) {
    assert!(std::env::var_os(MUST_RUN).is_none_or(|v| v != "1"), "{MUST_RUN}=1, and this test cannot run here: {why}");
    eprintln!("skipped: {why}");
}
