//! Weights for the generators, with a version and a digest of their bytes.

use std::sync::Arc;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Tensor, backend::AutodiffBackend, backend::Backend};
use rollout::id::{Digest as HexDigest, PolicyVersion};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Learner;
use crate::host::weights::to_vec;
use crate::kernels::Kernels;
use crate::network::Transformer;

/// Which weights these are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightsManifest {
    pub version: PolicyVersion,
    /// SHA-256 over every parameter in the module's order: shape (u64, little-endian), then elements (f32, little-endian).
    pub digest: HexDigest,
}

/// A policy version within this process; cloning shares it.
#[derive(Clone, Debug)]
pub struct Published<B: Backend> {
    pub manifest: WeightsManifest,
    pub network: Arc<Transformer<B>>,
}

impl<AB: AutodiffBackend + Kernels> Learner<AB> {
    /// The present weights, for generators of this process.
    pub fn publish(&self) -> Published<AB::InnerBackend> {
        let network = self.inference();
        let manifest = WeightsManifest { version: self.version(), digest: weights_digest(&network) };
        Published { manifest, network: Arc::new(network) }
    }
}

/// See `WeightsManifest::digest`.
pub fn weights_digest<B: Backend>(network: &Transformer<B>) -> HexDigest {
    let mut hash = Hash(Sha256::new());
    network.visit(&mut hash);
    HexDigest(hex(&hash.0.finalize()))
}

struct Hash(Sha256);

impl<B: Backend> ModuleVisitor<B> for Hash {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let tensor = param.val();
        for dim in tensor.dims() {
            self.0.update((dim as u64).to_le_bytes());
        }
        let bytes: Vec<u8> = to_vec(tensor.into_data()).iter().flat_map(|x| x.to_le_bytes()).collect();
        self.0.update(&bytes);
    }
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
