//! Several GPUs of one host that sum and share memory through NCCL, each on its own runtime's stream.
//!
//! Every member makes the same calls in the same order, each from a thread of its own.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use cudarc::nccl::{result as nccl, sys};

use super::meeting::Meeting;
use super::{DeviceError, Element, Result, Runtime, Span};

/// One GPU's place among the others.
pub struct Member {
    /// Null once it was given up.
    comm: AtomicPtr<sys::ncclComm>,
    rank: usize,
    meeting: Arc<Meeting>,
}

// SAFETY: NCCL's communicators may be used from any thread, one at a time; a member has one owner and lends it to one thread.
unsafe impl Send for Member {}

/// Communicators on their way from the thread that made them.
struct Made(Vec<sys::ncclComm_t>);

// SAFETY: as `Member`.
unsafe impl Send for Made {}

fn failed(action: &'static str) -> impl Fn(nccl::NcclError) -> DeviceError {
    move |source| DeviceError::Group { action, code: source.0 }
}

impl Member {
    /// A member for each of these GPUs; the first of them is the one that the others' sums go to.
    ///
    /// # Errors
    /// No libnccl, GPUs that cannot be joined, or no answer within `limit`.
    pub fn join(ordinals: &[usize], limit: Duration) -> Result<Vec<Self>> {
        // SAFETY: opening a library runs its initialisers; this is NVIDIA's.
        if !unsafe { sys::is_culib_present() } {
            return Err(DeviceError::NoGroupLibrary);
        }
        let list: Vec<i32> = ordinals.iter().map(|o| *o as i32).collect();
        let (send, receive) = mpsc::sync_channel(1);
        // NCCL's start has no deadline of its own: where it hangs, its thread is left behind.
        std::thread::spawn(move || {
            let mut comms = vec![std::ptr::null_mut(); list.len()];
            // SAFETY: both lists have as many entries as NCCL is told.
            let made = unsafe { nccl::comm_init_all(comms.as_mut_ptr(), list.len() as i32, list.as_ptr()) };
            let _ = send.send(made.map(|_| Made(comms)));
        });
        let late = |_| DeviceError::Late { what: "NCCL's start", waited: limit };
        let made = receive.recv_timeout(limit).map_err(late)?.map_err(failed("join the GPUs"))?;
        let meeting = Arc::new(Meeting::new(ordinals.len()));
        let member = |(rank, comm)| Self { comm: AtomicPtr::new(comm), rank, meeting: meeting.clone() };
        Ok(made.0.into_iter().enumerate().map(member).collect())
    }

    pub fn meeting(&self) -> &Arc<Meeting> {
        &self.meeting
    }

    /// Before calls of NCCL's, which may wait for the others without a limit (its first of a kind makes connections): only when
    /// all members are about to make them does one begin.
    pub fn meet(&self, rt: &Runtime) -> Result<()> {
        self.meeting.meet("the other GPUs of the learner", rt.limit())
    }

    /// Submits: the first member's `spans` to all others' (of the same sizes), in one launch. The first's stay as they are.
    pub fn share(&self, rt: &Runtime, spans: &[(Span, Element)]) -> Result<()> {
        let comm = self.comm()?;
        self.together(|| {
            for (span, element) in spans {
                let (kind, at) = (kind(*element), span.address as *mut std::ffi::c_void);
                let count = span.bytes / element.bytes();
                // SAFETY: the span is that large; whoever made it vouches for the memory. Root and order are the same for all members.
                unsafe { nccl::broadcast(at.cast_const(), at, count, kind, 0, comm, rt.stream().cu_stream().cast()) }
                    .map_err(failed("share weights"))?;
            }
            Ok(())
        })
    }

    /// Submits: the sums over all members of fp32 `spans` to the first's, in one launch. The others' stay as they are.
    pub fn sum_to_first(&self, rt: &Runtime, spans: &[Span]) -> Result<()> {
        let comm = self.comm()?;
        self.together(|| {
            for span in spans {
                let at = span.address as *mut std::ffi::c_void;
                let (kind, sum) = (sys::ncclDataType_t::ncclFloat32, sys::ncclRedOp_t::ncclSum);
                let stream = rt.stream().cu_stream().cast();
                // SAFETY: as in `share`.
                unsafe { nccl::reduce(at.cast_const(), at, span.bytes / 4, kind, sum, 0, comm, stream) }
                    .map_err(failed("sum gradients"))?;
            }
            Ok(())
        })
    }

    fn together(&self, submit: impl FnOnce() -> Result<()>) -> Result<()> {
        nccl::group_start().map_err(failed("begin a group of calls"))?;
        let submitted = submit();
        let ended = nccl::group_end().map_err(failed("submit a group of calls"));
        submitted?;
        ended.map(drop)
    }

    /// What NCCL found wrong meanwhile.
    pub fn check(&self) -> Result<()> {
        let (comm, mut code) = (self.comm()?, sys::ncclResult_t::ncclSuccess);
        // SAFETY: the communicator is alive.
        unsafe { sys::ncclCommGetAsyncError(comm, &raw mut code) }.result().map_err(failed("ask NCCL"))?;
        code.result().map_err(failed("work of the group")).map(drop)
    }

    fn comm(&self) -> Result<sys::ncclComm_t> {
        let comm = self.comm.load(Ordering::Acquire);
        if comm.is_null() { Err(DeviceError::GroupFailed) } else { Ok(comm) }
    }

    /// Ends what still runs, whatever the others do; the member is of no use after it.
    pub fn abort(&self) {
        let comm = self.comm.swap(std::ptr::null_mut(), Ordering::AcqRel);
        if !comm.is_null() {
            // SAFETY: made by `join`, ended once: whoever comes later finds the null.
            let _ = unsafe { nccl::comm_abort(comm) };
        }
    }

    /// Its place, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // Not `ncclCommDestroy`, which would wait for the others.
        self.abort();
    }
}

fn kind(element: Element) -> sys::ncclDataType_t {
    match element {
        Element::F32 { .. } => sys::ncclDataType_t::ncclFloat32,
        Element::F16 => sys::ncclDataType_t::ncclFloat16,
        // By its bits: nothing is computed with it.
        Element::Bf16 => sys::ncclDataType_t::ncclFloat16,
    }
}
