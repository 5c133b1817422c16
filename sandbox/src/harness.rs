//! The Python harness, embedded in the binary, so that what runs is what was built and its digest names the protocol.

use std::io;
use std::path::Path;

use rollout::id::Digest;
use sha2::{Digest as _, Sha256};

macro_rules! sources {
    ($($name:literal),* $(,)?) => { &[$(($name, include_str!(concat!("../python/", $name)))),*] };
}

/// Every harness file by name.
pub(crate) const SOURCES: &[(&str, &str)] = sources![
    "box.py",
    "cage.py",
    "child.py",
    "combine.py",
    "confine.py",
    "constants.py",
    "device.py",
    "device_child.py",
    "device_referee.py",
    "frames.py",
    "interp.py",
    "landlock.py",
    "libdevice_models.py",
    "memory.py",
    "oracle.py",
    "order.py",
    "outputs.py",
    "plain.py",
    "plan.py",
    "referee.py",
    "reference.py",
    "seccomp.py",
    "shim.py",
    "standin.py",
    "start.py",
    "tuners.py",
    "view.py",
    "warm.py",
    "watch.py",
    "zygote.py",
];

/// What the harness was made for; part of the protocol.
pub const TORCH: &str = "2.11.0";
/// The Triton release that `TORCH` brings.
pub const TRITON: &str = "3.6.0";

/// SHA-256 over the harness sources and the versions they need: equal digests mean comparable verdicts.
pub fn protocol_digest() -> Digest {
    let mut hash = Sha256::new();
    for text in [TORCH, TRITON].into_iter().chain(SOURCES.iter().flat_map(|(name, text)| [*name, *text])) {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    Digest(hex(&hash.finalize()))
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Writes the harness into `dir`, which must exist.
pub(crate) fn unpack(dir: &Path) -> io::Result<()> {
    for (name, text) in SOURCES {
        std::fs::write(dir.join(name), text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_sha256_in_hex_and_stable() {
        let digest = protocol_digest();
        assert_eq!(digest.0.len(), 64);
        assert_eq!(digest, protocol_digest());
    }

    #[test]
    fn every_python_file_is_embedded() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
        let mut found: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|n| n.ends_with(".py"))
            .collect();
        found.sort();
        assert_eq!(found, SOURCES.iter().map(|(n, _)| n.to_string()).collect::<Vec<_>>());
    }
}
