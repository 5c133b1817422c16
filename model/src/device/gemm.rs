//! Products of matrices on a runtime's stream, by cuBLASLt, with the plans kept.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, PoisonError};

use super::{DeviceError, Result, Runtime, Span};
use crate::kernels::layout::Layout;
use crate::kernels::plan::{Batch, Element, Matrix, Plan, Shape};

/// Plans by what they are for. Row counts differ from batch to batch; a plan is small, but not to grow without end.
#[derive(Default)]
pub struct Plans(Mutex<HashMap<Shape, Plan>>);

const MAX_PLANS: usize = 4096;

// SAFETY: descriptors of cuBLASLt are plain memory of its own; they are used under the lock.
unsafe impl Send for Plans {}
// SAFETY: as above.
unsafe impl Sync for Plans {}

/// One factor of a product.
#[derive(Clone, Copy, Debug)]
pub struct Factor {
    pub at: Span,
    /// Elements from one stored row to the next.
    pub step: usize,
    /// The factor is the transpose of what is stored.
    pub transposed: bool,
    /// Elements from one matrix of a batch to the next; 0: all use the same.
    pub stride: usize,
}

impl Factor {
    /// Stored rows of `step` elements.
    pub fn new(at: Span, step: usize) -> Self {
        Self { at, step, transposed: false, stride: 0 }
    }

    /// The transpose of stored rows.
    pub fn t(at: Span, step: usize) -> Self {
        Self { at, step, transposed: true, stride: 0 }
    }

    pub fn every(self, stride: usize) -> Self {
        Self { stride, ..self }
    }
}

/// `out = scale * lhs rhs + keep * out`, `[m, k]` by `[k, n]`, all row-major (but for `transposed`).
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// `[m, k, n]`; none may be 0.
    pub size: [usize; 3],
    /// The type of both factors; sums are fp32.
    pub element: Element,
    /// The type of `out`: that of the factors, or `F32`.
    pub result: Element,
    pub lhs: Factor,
    pub rhs: Factor,
    /// Never transposed.
    pub out: Factor,
    /// Products of one size at the factors' strides.
    pub count: usize,
    pub scale: f32,
    /// 0: what `out` held is not read.
    pub keep: f32,
}

impl Product {
    /// One product, `out = lhs rhs`, with dense rows of `n` elements in `out`.
    pub fn new(size: [usize; 3], element: Element, lhs: Factor, rhs: Factor, out: Span) -> Self {
        let out = Factor::new(out, size[2]);
        Self { size, element, result: element, lhs, rhs, out, count: 1, scale: 1.0, keep: 0.0 }
    }
}

impl Runtime {
    /// Submits a product. The first of its kind asks cuBLASLt for an algorithm (tens of microseconds).
    pub fn multiply(&self, p: &Product) -> Result<()> {
        let [m, k, n] = p.size;
        let matrix = |what: &'static str, f: &Factor, shape: [usize; 2], bytes: usize| {
            let layout = Layout { transposed: f.transposed, step: f.step };
            let expected = ((p.count - 1) * f.stride + layout.extent(shape)) * bytes;
            if f.at.bytes < expected {
                return Err(DeviceError::Extent { what, found: f.at.bytes, expected });
            }
            // The largest power of two that divides address and stride, at most 256.
            let together = f.at.address | (f.stride * bytes) as u64 | 256;
            Ok(Matrix { shape, layout, alignment: 1 << together.trailing_zeros() })
        };
        let (bytes, result) = (p.element.bytes(), p.result.bytes());
        let strides = [p.lhs.stride as i64, p.rhs.stride as i64, p.out.stride as i64];
        let shape = Shape {
            element: p.element,
            result: p.result,
            lhs: matrix("the left factor", &p.lhs, [m, k], bytes)?,
            rhs: matrix("the right factor", &p.rhs, [k, n], bytes)?,
            out: matrix("the product", &p.out, [m, n], result)?,
            batch: if p.count == 1 { Batch::ONE } else { Batch { count: p.count as i32, strides } },
        };
        let place = self.place()?;
        let mut plans = self.plans.0.lock().unwrap_or_else(PoisonError::into_inner);
        if plans.len() >= MAX_PLANS {
            // Plans are read when a product is submitted, not when it runs.
            plans.clear();
        }
        let plan = match plans.entry(shape) {
            Entry::Occupied(kept) => kept.into_mut(),
            Entry::Vacant(free) => free.insert(Plan::new(place.handle, &shape)?),
        };
        let addresses = [p.lhs.at.address, p.rhs.at.address, p.out.at.address];
        // SAFETY: handle, plan and workspace are this runtime's and its context is current (`place`); the buffers are as large and
        // as aligned as the plan assumes (above); whoever made the spans vouches for the memory.
        unsafe { plan.submit(place, addresses, p.scale, p.keep)? };
        Ok(())
    }
}
