//! Log-probs, gradients and updates on the GPU executor: burn's tensors in, burn's tensors out, nothing copied to the host but a
//! few numbers a token.
//!
//! The executor has a stream of its own. Every door here waits for burn before it starts and for its own stream before it
//! returns; two waits a step cost nothing.

mod moving;
mod parameters;
mod passes;
mod peers;
mod reference;
mod trained;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{
    Tensor,
    backend::{AutodiffBackend, Backend},
};

use super::batch::{self, Item};
use super::gpu::{Beside, Trained};
use super::host::Objective;
use super::{Execution, GpuCompute, GpuType, LearnerError, Scored};
use crate::budget::{Budget, Wanted};
use crate::device::update::{Moved, Rule};
use crate::device::{DeviceError, Element, Executor, F32, Options, Result, Runtime, Span};
use crate::host::{Dims, HostWeights};
use crate::kernels::Kernels;
use crate::kernels::memory::{Memory, addresses};
use crate::lora::Adapters;
use crate::network::Transformer;
use crate::optim::{OptimConfig, Optimizer};
use moving::Moving;
use parameters::{lay_dense, memories};
use passes::passes;
use peers::Peers;
use reference::Reference;
use trained::Held;

type Learned<T> = std::result::Result<T, LearnerError>;

/// Where a learner's executor is, made when it is first needed.
pub struct Slot {
    compute: GpuCompute,
    state: State,
}

#[derive(Default)]
enum State {
    #[default]
    Untried,
    Ready(Box<OnDevice>),
    /// Why there is none; burn's autodiff may take its place.
    Missing(String),
    /// Why there is no room for it; there is none for burn's autodiff either.
    Short(String),
}

impl Slot {
    pub fn new(compute: GpuCompute) -> Self {
        Self { compute, state: State::Untried }
    }

    /// The executor, where this learner is to compute on one (rows of what is trained are laid densely for it). An error where it was
    /// asked for by name and cannot be had, or where it finds too little memory.
    pub fn get<AB: AutodiffBackend + Kernels>(
        &mut self,
        execution: Execution,
        network: &mut Transformer<AB>,
        adapters: Option<&mut Adapters<AB>>,
        beside: Beside,
    ) -> Learned<Option<&mut OnDevice>> {
        if !self.may(execution, network) {
            return match (&self.state, execution) {
                (State::Missing(what), Execution::Device) => {
                    Err(LearnerError::Device { what: what.clone(), fatal: true })
                }
                (_, Execution::Device) => Err(not_dense().into()),
                _ => Ok(None),
            };
        }
        lay_dense(network, Transformer::hollow);
        let mut trained = None;
        if let Some(adapters) = adapters {
            trained = Some(adapters.num_params());
            lay_dense(adapters, |_| Adapters { layers: Vec::new() });
        }
        if matches!(self.state, State::Untried) {
            self.state = match OnDevice::new(network, trained, self.compute, beside) {
                Ok(ready) => State::Ready(Box::new(ready)),
                // What was asked for in so many words is not done without.
                Err(error) if error.is_wish() => State::Short(error.to_string()),
                Err(error) => State::Missing(error.to_string()),
            };
        }
        match (&mut self.state, execution) {
            (State::Ready(ready), _) => Ok(Some(ready)),
            (State::Short(what), _) | (State::Missing(what), Execution::Device) => {
                Err(LearnerError::Device { what: what.clone(), fatal: true })
            }
            _ => Ok(None),
        }
    }

    /// False where this learner computes otherwise for sure.
    pub fn may<AB: AutodiffBackend + Kernels>(&self, execution: Execution, network: &Transformer<AB>) -> bool {
        matches!(execution, Execution::Auto | Execution::Device)
            && !matches!(self.state, State::Missing(_))
            && AB::memory(&network.embed.val().into_primitive().tensor()).is_some()
    }

    /// Another reference network comes.
    pub fn forget_reference(&mut self) {
        if let State::Ready(ready) = &mut self.state {
            ready.reference = None;
        }
    }

    /// What became of it: none before the first use; `Err` says why burn's autodiff computes in its place.
    pub fn found(&self) -> Option<std::result::Result<&OnDevice, &str>> {
        match &self.state {
            State::Untried => None,
            State::Ready(ready) => Some(Ok(ready)),
            State::Missing(what) | State::Short(what) => Some(Err(what)),
        }
    }
}

impl From<DeviceError> for LearnerError {
    fn from(source: DeviceError) -> Self {
        Self::Device { what: source.to_string(), fatal: source.is_wish() || source.is_lost() }
    }
}

/// The executor of one learner, with the limits of its GPU.
pub struct OnDevice {
    executor: Executor,
    budget: Budget,
    reference: Option<Reference>,
    /// The other GPUs, where there are to be some.
    peers: Option<Peers>,
}

impl OnDevice {
    /// For a network that lies on a GPU, all of it to be trained or that many elements of adapters. An error says why there can be none.
    pub fn new<AB: AutodiffBackend + Kernels>(
        network: &Transformer<AB>,
        adapters: Option<usize>,
        compute: GpuCompute,
        beside: Beside,
    ) -> Result<Self> {
        let dims = Dims::of(network);
        let qk_norm = network.layers.first().is_some_and(|l| l.attention.q_norm.is_some());
        let home = memory(network.embed.val())?.ordinal();
        let open = |ordinal| {
            let runtime = Runtime::new(ordinal)?;
            let limit = std::time::Duration::from_secs(compute.wait_s);
            Ok::<_, DeviceError>(if compute.wait_s > 0 { runtime.with_limit(limit) } else { runtime })
        };
        let runtime = open(home)?;
        let wanted_gpus = compute.gpus.max(1);
        let visible = usize::try_from(crate::kernels::cuda::available()?).unwrap_or(0);
        if wanted_gpus > visible {
            return Err(DeviceError::TooFew { wanted: wanted_gpus, visible });
        }
        let element = match compute.element {
            GpuType::Bf16 => Element::Bf16,
            GpuType::Fp32 => F32,
        };
        let wanted = Wanted {
            dims: &dims,
            layers: network.layers.len(),
            tied: network.head.is_none(),
            parameters: memories(network)?.iter().map(Memory::elements).sum(),
            adapters,
            element: element.bytes(),
            stored: 4,
            recompute: compute.recompute,
            copies: compute.copies,
            moments_held: beside.moments_held,
            reference: beside.reference,
            keeps_copy: compute.keeps_copy,
            published: compute.published,
            longest: compute.longest,
        };
        let budget = wanted.plan(runtime.memory()?.0)?;
        let GpuCompute { recompute, plain_attention, .. } = compute;
        let options = Options { element, recompute, plain_attention, fresh_weights: budget.fresh };
        let executor = Executor::new(runtime, dims.clone(), qk_norm, options)?;
        let others: Result<Vec<Executor>> = (0..visible)
            .filter(|ordinal| *ordinal != home)
            .take(wanted_gpus - 1)
            .map(|ordinal| Executor::new(open(ordinal)?, dims.clone(), qk_norm, options))
            .collect();
        let peers = match others? {
            none if none.is_empty() => None,
            some => Some(Peers::new(executor.runtime(), some)?),
        };
        Ok(Self { executor, budget, reference: None, peers })
    }

    /// What of the GPU's memory is used for what.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Bytes that the executor's own buffers take.
    pub fn held(&self) -> usize {
        self.executor.held()
    }

    /// Whether kernels had to be compiled.
    pub fn compiled(&self) -> bool {
        self.executor.compiled()
    }

    /// Scores every answer token of every item; with `objective`, also the gradient of the summed loss by what is trained.
    pub fn run<AB: AutodiffBackend + Kernels>(
        &mut self,
        trained: Trained<AB>,
        items: &[Item],
        max_items: usize,
        temperature: f32,
        objective: Option<Objective>,
    ) -> Learned<(Vec<Scored>, GradientsParams)> {
        let mut params = GradientsParams::new();
        let held = Held::new(&trained, objective.is_some(), &mut params)?;
        wait_for_burn::<AB>(&trained.network().embed.val().device())?;
        // Every GPU is to have some.
        let count = self.peers.as_ref().filter(|_| objective.is_some()).map_or(1, Peers::count);
        let batches = self.batches(items, max_items, count)?;
        let scored = match (&mut self.peers, objective) {
            (Some(peers), Some(objective)) => {
                peers.run(&mut self.executor, &held, items, &batches, temperature, objective)
            }
            _ => {
                let prepared = held.prepare(&mut self.executor);
                let run = |()| passes(&mut self.executor, items, &batches, temperature, objective, held.sink());
                prepared.and_then(run)
            }
        };
        // Whatever became of it: memory must not be used by burn, or freed, while the stream is still at it.
        let ended = self.executor.runtime().wait("the end of a pass");
        if let Err(error) = ended {
            // The stream may be at it for as long as the process lives.
            std::mem::forget((held, params));
            return Err(error.into());
        }
        Ok((scored?, params))
    }

    /// The passes for `items`, each of which the plan has room for.
    fn batches(&self, items: &[Item], max_items: usize, count: usize) -> Result<Vec<batch::MicroBatch>> {
        let most = self.budget.rows;
        let rows = if count > 1 { most.min(batch::share(items, max_items, count)) } else { most };
        let batches = batch::plan(items, max_items, rows);
        match batches.iter().map(|b| b.rows).max() {
            Some(found) if found > most => Err(DeviceError::Rows { found, most }),
            _ => Ok(batches),
        }
    }

    /// Scores under the reference network, whose weights are kept on the device after the first time.
    pub fn reference(
        &mut self,
        weights: &HostWeights,
        items: &[Item],
        max_items: usize,
        temperature: f32,
    ) -> Learned<Vec<Scored>> {
        let kept = match self.reference.take() {
            Some(kept) => kept,
            None => Reference::send(self.executor.runtime(), weights)?,
        };
        let at = self.reference.insert(kept).at.clone();
        let batches = self.batches(items, max_items, 1)?;
        let prepared = self.executor.prepare(&at);
        let scored = prepared.and_then(|()| passes(&mut self.executor, items, &batches, temperature, None, None));
        let ended = self.executor.runtime().wait("the end of the reference's pass");
        let scored = scored?;
        ended?;
        Ok(scored)
    }

    /// The Euclidean norm of all gradients together; NaN or infinite where any of them is.
    pub fn norm<AB: AutodiffBackend + Kernels, M: Module<AB>>(
        &mut self,
        module: &M,
        grads: &GradientsParams,
    ) -> Learned<f64> {
        let mut visit = Gradients { grads, found: Ok(Vec::new()) };
        module.visit(&mut visit);
        let spans = spans(&visit.found?)?;
        wait_for_all::<AB, M>(module)?;
        let (rt, updates) = self.executor.updates();
        Ok(updates.squares(rt, &spans)?.sqrt())
    }

    /// One update of AdamW over a module's parameters, as `Optimizer::step` makes it. Memory that nobody else holds is written in place.
    pub fn update<AB: AutodiffBackend + Kernels, M: Module<AB>>(
        &mut self,
        optimizer: &mut Optimizer<AB>,
        config: &OptimConfig,
        lr: f64,
        module: M,
        grads: GradientsParams,
        scale: f32,
    ) -> Result<M> {
        let mut moving = Moving { optimizer, grads, list: Vec::new(), held: Vec::new(), failed: None };
        let module = module.map(&mut moving);
        let Moving { list, held, failed, .. } = moving;
        if let Some(error) = failed {
            return Err(error);
        }
        let spans = spans(&held)?;
        wait_for_all::<AB, M>(&module)?;
        let (rt, updates) = self.executor.updates();
        let mut times: Vec<i32> = list.iter().map(|e| e.time).collect();
        times.sort_unstable();
        times.dedup();
        // One launch, but for parameters that were updated a different number of times.
        let done: Result<()> = times.into_iter().try_for_each(|time| {
            let chosen = list.iter().filter(|e| e.time == time);
            let moved: Vec<Moved> = chosen.map(|e| e.moved(&spans)).collect();
            let OptimConfig { beta1, beta2, eps, weight_decay, .. } = *config;
            updates.adamw(rt, &moved, &Rule { lr, beta1, beta2, eps, weight_decay, time, scale })
        });
        // As in `run`; `held` keeps what was replaced until then.
        let ended = rt.wait("an update");
        if let Err(error) = ended {
            std::mem::forget((held, module));
            return Err(error);
        }
        drop(held);
        done.map(|()| module)
    }
}

struct Gradients<'a> {
    grads: &'a GradientsParams,
    found: Result<Vec<Memory>>,
}

impl<AB: AutodiffBackend + Kernels> ModuleVisitor<AB> for Gradients<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<AB, D>>) {
        let (Ok(list), Some(grad)) = (&mut self.found, self.grads.get::<AB::InnerBackend, D>(param.id)) else { return };
        match memory::<AB, D>(Tensor::from_inner(grad)) {
            Ok(found) => list.push(found),
            Err(error) => self.found = Err(error),
        }
    }
}

fn not_dense() -> DeviceError {
    DeviceError::Unsupported { what: "a tensor is not dense fp32 on a GPU".to_string() }
}

fn memory<AB: AutodiffBackend + Kernels, const D: usize>(tensor: Tensor<AB, D>) -> Result<Memory> {
    AB::memory(&tensor.into_primitive().tensor()).filter(Memory::dense).ok_or_else(not_dense)
}

/// Memory of burn's in its own size. What is not asked for as lasting comes of pages of four sizes, up to a sixteenth of the GPU, of
/// which half may stay unused.
fn empty<AB: AutodiffBackend>(width: usize, device: &AB::Device) -> Tensor<AB::InnerBackend, 1> {
    AB::InnerBackend::memory_persistent_allocations(device, width, |width| Tensor::empty([width], device))
}

fn spans(list: &[Memory]) -> Result<Vec<Span>> {
    let found = addresses(list)?;
    Ok(found.into_iter().map(|(address, bytes)| Span { address, bytes }).collect())
}

fn wait_for_all<AB: AutodiffBackend + Kernels, M: Module<AB>>(module: &M) -> Result<()> {
    module.devices().iter().try_for_each(wait_for_burn::<AB>)
}

fn wait_for_burn<AB: AutodiffBackend + Kernels>(device: &AB::Device) -> Result<()> {
    AB::check();
    AB::sync(device).map_err(|source| DeviceError::Unsupported { what: format!("burn failed before: {source:?}") })
}
