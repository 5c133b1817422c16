//! The backward of [`Kernels`] by hand: gradients are again operations of the backend below, not burn's.

use burn::backend::Autodiff;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, binary};
use burn::tensor::ops::FloatTensor;

use super::Kernels;

#[derive(Debug)]
struct Product;

impl<B: Kernels> Backward<B, 2> for Product {
    /// The two factors, each kept only where the gradient of the other is wanted.
    type State = (Option<NodeId>, Option<NodeId>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let (lhs, rhs) = ops.state;
        let lhs = lhs.map(|id| checkpointer.retrieve_node_output::<FloatTensor<B>>(id));
        let rhs = rhs.map(|id| checkpointer.retrieve_node_output::<FloatTensor<B>>(id));
        // A factor is there whenever `binary` asks for the other's gradient: the forward kept it for that.
        binary::<B, _, _>(
            ops.parents,
            ops.node,
            grads,
            |dy| B::product(dy, B::float_transpose(rhs.expect("the right factor was kept"))),
            |dy| B::product(B::float_transpose(lhs.expect("the left factor was kept")), dy),
        );
    }
}

impl<B: Kernels, C: CheckpointStrategy> Kernels for Autodiff<B, C> {
    fn product(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        let (keep_lhs, keep_rhs) = (rhs.is_tracked(), lhs.is_tracked());
        match Product.prepare::<C>([lhs.node.clone(), rhs.node.clone()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let lhs_state = keep_lhs.then(|| prep.checkpoint(&lhs));
                let rhs_state = keep_rhs.then(|| prep.checkpoint(&rhs));
                prep.finish((lhs_state, rhs_state), B::product(lhs.primitive, rhs.primitive))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::product(lhs.primitive, rhs.primitive)),
        }
    }

    #[cfg(feature = "cuda")]
    fn memory(tensor: &FloatTensor<Self>) -> Option<super::memory::Memory> {
        B::memory(&tensor.primitive)
    }

    fn check() {
        B::check();
    }
}
