//! LoRA: the base stays as it is, and low-rank adapters beside it are trained: `W = W0 + scale B A` (Hu et al. 2021).
//!
//! Executors, engine and publishing see one plain network, the merged one; it is computed anew from `W0` after every update, so
//! nothing drifts. Only A and B have moments, gradients that count for norm, clipping and guard, and a place in checkpoints. The
//! processor's executor and autodiff compute the gradient of the whole matrix, and `gradient::project` takes it to A and B; the GPU's
//! merges a layer when it is used and does without it, as `gradient::from_rows`.

pub mod adapters;
pub mod config;
pub mod gradient;
pub mod peft;

use std::sync::OnceLock;

use burn::module::{AutodiffModule, Module, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Tensor, backend::AutodiffBackend, backend::Backend};
use rollout::id::Digest as HexDigest;

pub use adapters::{Adapter, Adapters};
pub use config::{LoraConfig, LoraError, Sizes, Target};

use crate::kernels::{Kernels, linear};
use crate::learner::weights_digest;
use crate::network::Transformer;
use adapters::{Fused, LayerAdapters};

/// A base and its adapters.
#[derive(Clone, Debug)]
pub struct Lora<AB: AutodiffBackend> {
    config: LoraConfig,
    sizes: Sizes,
    base: Transformer<AB>,
    /// Made when it is asked for: it reads every weight.
    base_digest: OnceLock<HexDigest>,
    pub(crate) adapters: Adapters<AB>,
}

impl<AB: AutodiffBackend> Lora<AB> {
    /// Fresh adapters for `base`, whose tensors are shared, not copied.
    pub fn fresh(config: &LoraConfig, base: Transformer<AB>, seed: u64) -> Result<Self, LoraError> {
        let sizes = Sizes::of_network(&base);
        config.check(&sizes)?;
        let adapters = Adapters::fresh(config, &sizes, base.layers.len(), seed, &base.embed.val().device());
        Ok(Self::of(config.clone(), base, adapters))
    }

    /// These adapters, which fit `base`.
    pub(crate) fn of(config: LoraConfig, base: Transformer<AB>, adapters: Adapters<AB>) -> Self {
        let (sizes, base_digest) = (Sizes::of_network(&base), OnceLock::new());
        Self { config, sizes, base, base_digest, adapters }
    }

    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// W0: the network with its adapters off.
    pub fn base(&self) -> &Transformer<AB> {
        &self.base
    }

    /// `weights_digest` of W0.
    pub fn base_digest(&self) -> &HexDigest {
        self.base_digest.get_or_init(|| weights_digest(&self.base.valid()))
    }

    #[cfg(feature = "cuda")]
    pub(crate) fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    pub(crate) fn parts_mut(&mut self) -> (&mut Transformer<AB>, &mut Adapters<AB>) {
        (&mut self.base, &mut self.adapters)
    }

    pub fn adapters(&self) -> &Adapters<AB> {
        &self.adapters
    }
}

impl<AB: AutodiffBackend + Kernels> Lora<AB> {
    /// The base with every adapter added. Parameters keep their ids; those without an adapter share the base's memory.
    pub fn merged(&self) -> Transformer<AB> {
        let mut network = self.base.clone();
        for (layer, adapters) in network.layers.iter_mut().zip(&self.adapters.layers) {
            for fused in Fused::ALL {
                let parts = fused.parts(&self.sizes);
                if parts.iter().all(|(target, _)| adapters.get(*target).is_none()) {
                    continue;
                }
                let (id, weight, mapper) = fused.weight(layer).clone().consume();
                let weight = Tensor::from_inner(self.add(weight.inner(), fused, adapters)).require_grad();
                fused.set_weight(layer, Param::from_mapped_value(id, weight, mapper));
            }
        }
        network
    }

    /// `W0 + scale A^T B^T` in the columns that have an adapter; the others to the bit as they are.
    fn add(
        &self,
        base: Tensor<AB::InnerBackend, 2>,
        fused: Fused,
        adapters: &LayerAdapters<AB>,
    ) -> Tensor<AB::InnerBackend, 2> {
        let [input, _] = base.dims();
        let mut weight = base.clone();
        for (target, columns) in fused.parts(&self.sizes) {
            let Some((a, b)) = adapters.get(target).map(Adapter::inner) else { continue };
            let place = [0..input, columns];
            let before = base.clone().slice(place.clone());
            let delta = product::<AB>(a.transpose(), b.transpose()).mul_scalar(self.config.scale());
            // Where nothing is added the bits stay: -0 + 0 would be 0.
            let after = (before.clone() + delta.clone()).mask_where(delta.equal_elem(0.0), before);
            weight = weight.slice_assign(place, after);
        }
        weight
    }

    /// The adapters' gradients from those of the merged network's matrices; what else there is is dropped.
    pub fn project(&self, mut grads: GradientsParams) -> GradientsParams {
        let mut projected = GradientsParams::new();
        let scale = self.config.scale() as f32;
        for (layer, adapters) in self.base.layers.iter().zip(&self.adapters.layers) {
            for fused in Fused::ALL {
                let Some(whole) = grads.remove::<AB::InnerBackend, 2>(fused.weight(layer).id) else { continue };
                for (target, columns) in fused.parts(&self.sizes) {
                    let Some(adapter) = adapters.get(target) else { continue };
                    let (a, b) = adapter.inner();
                    let d_weight = whole.clone().narrow(1, columns.start, columns.len());
                    let [d_weight, a, b] = [d_weight, a, b].map(Tensor::<AB, 2>::from_inner);
                    let (d_a, d_b) = gradient::project(d_weight, a, b, scale);
                    projected.register(adapter.lora_a.id, d_a.inner());
                    projected.register(adapter.lora_b.id, d_b.inner());
                }
            }
        }
        projected
    }

    /// Elements that are trained.
    pub fn num_parameters(&self) -> usize {
        self.adapters.num_params()
    }
}

/// By the backend's own product, which is the autodiff backend's to know; nothing here is tracked.
fn product<AB: AutodiffBackend + Kernels>(
    lhs: Tensor<AB::InnerBackend, 2>,
    rhs: Tensor<AB::InnerBackend, 2>,
) -> Tensor<AB::InnerBackend, 2> {
    linear(Tensor::<AB, 2>::from_inner(lhs), Tensor::from_inner(rhs)).inner()
}

impl<AB: AutodiffBackend> Adapter<AB> {
    /// A and B without autodiff.
    fn inner(&self) -> (Tensor<AB::InnerBackend, 2>, Tensor<AB::InnerBackend, 2>) {
        (self.lora_a.val().inner(), self.lora_b.val().inner())
    }
}

/// Adapters with the elements of others, of any backend.
pub(crate) fn values<B: Backend>(adapter: &Adapter<B>) -> (Vec<f32>, Vec<f32>) {
    let read = |t: Tensor<B, 2>| crate::host::weights::to_vec(t.into_data());
    (read(adapter.lora_a.val()), read(adapter.lora_b.val()))
}
