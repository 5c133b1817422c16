//! The memory of burn's tensors on a GPU, for work that burn does not do.
//!
//! An address stays what it is as long as a tensor (or a [`Memory`]) is held. Work on another stream than burn's must be
//! ordered by hand: wait for burn (`Backend::sync`) after [`addresses`], and for the own stream before burn goes on.

use burn::cubecl::device::{Device, DeviceId};
use burn::cubecl::device_handle::DeviceHandle;
use burn::cubecl::server::{ComputeServer, Handle};
use burn::cubecl::stream_id::StreamId;
use burn::tensor::DType;
use burn::tensor::ops::FloatTensor;

use super::cublaslt::Server;
use super::plan::GemmError;
use crate::GpuInner;

/// An fp32 tensor's memory, held.
#[derive(Clone, Debug)]
pub struct Memory {
    device: DeviceId,
    handle: Handle,
    elements: usize,
    dense: bool,
    unique: bool,
}

impl Memory {
    /// None for other types.
    pub(super) fn of(tensor: &FloatTensor<GpuInner>) -> Option<Self> {
        let (shape, strides) = (&tensor.meta.shape()[..], &tensor.meta.strides()[..]);
        let (mut elements, mut dense) = (1, true);
        for (length, stride) in shape.iter().zip(strides).rev() {
            dense &= *length == 1 || *stride == elements;
            elements *= length;
        }
        (tensor.dtype == DType::F32).then(|| Self {
            device: tensor.device.to_id(),
            unique: tensor.handle.can_mut(),
            handle: tensor.handle.clone(),
            elements,
            dense,
        })
    }

    /// Rows lie one after the other. cubecl pads those of new matrices to a multiple of up to 512 bytes.
    pub fn dense(&self) -> bool {
        self.dense
    }

    /// The GPU's number.
    pub fn ordinal(&self) -> usize {
        usize::from(self.device.index_id)
    }

    /// No other tensor shared the memory when this was made: it may be written in place.
    pub fn unique(&self) -> bool {
        self.unique
    }

    pub fn elements(&self) -> usize {
        self.elements
    }
}

/// `(address, bytes)` of tensors on one GPU: one visit to burn's server for all of them.
pub fn addresses(list: &[Memory]) -> Result<Vec<(u64, usize)>, GemmError> {
    let Some(first) = list.first() else { return Ok(Vec::new()) };
    let failed = |reason: String| GemmError::Buffer { reason };
    if let Some(other) = list.iter().find(|m| m.device != first.device) {
        return Err(failed(format!("tensors lie on {:?} and {:?}", first.device, other.device)));
    }
    let stream = StreamId::current();
    let bindings: Vec<_> = list.iter().map(|m| (m.handle.clone().binding(), m.elements * 4)).collect();
    let visit = move |server: &mut Server| {
        let one = |(binding, bytes)| {
            let found = server.get_resource(binding, stream).map_err(|source| failed(format!("{source:?}")))?;
            let (address, size) = (found.resource().ptr, found.resource().size);
            if size < bytes as u64 {
                return Err(GemmError::Extent { found: size, expected: bytes as u64 });
            }
            Ok((address, bytes))
        };
        bindings.into_iter().map(one).collect::<Result<Vec<_>, _>>()
    };
    let done = DeviceHandle::<Server>::new(first.device).submit_blocking(visit);
    done.unwrap_or_else(|source| Err(GemmError::Buffer { reason: format!("the device's thread is gone: {source:?}") }))
}
