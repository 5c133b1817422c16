//! The decoder: embedding, layers of attention and MLP, a final norm, the head.
//!
//! One layer: `x += attention(norm(x))`, then `x += mlp(norm(x))`.
//! Shapes are `[batch, seq, hidden]` at the doors; inside, linear layers see `[batch * seq, hidden]`: one matrix product.

mod attention;
mod cache;
mod init;
mod linear;
mod mlp;
mod norm;
mod rope;

use burn::module::{Module, Param};
use burn::tensor::{Bool, Int, Tensor, backend::Backend};

pub use attention::Attention;
pub use cache::KvCache;
pub use linear::Linear;
pub use mlp::Mlp;
pub use norm::RmsNorm;
pub use rope::{Rope, Rotation};

use crate::kernels::{Kernels, linear};

/// One decoder layer.
#[derive(Module, Debug)]
pub struct Layer<B: Backend> {
    pub attention_norm: RmsNorm<B>,
    pub attention: Attention<B>,
    pub mlp_norm: RmsNorm<B>,
    pub mlp: Mlp<B>,
}

/// A decoder-only transformer.
#[derive(Module, Debug)]
pub struct Transformer<B: Backend> {
    /// `[vocab, hidden]`
    pub embed: Param<Tensor<B, 2>>,
    pub layers: Vec<Layer<B>>,
    pub norm: RmsNorm<B>,
    /// `[hidden, vocab]`; none where the embedding is the head.
    pub head: Option<Param<Tensor<B, 2>>>,
    #[module(skip)]
    pub rope: Rope,
}

impl<B: Kernels> Transformer<B> {
    /// Hidden states after the final norm.
    ///
    /// # Shapes
    /// - tokens, positions: `[batch, seq]`
    /// - mask: `[batch or 1, 1, seq, seq]`, true = the query (third axis) may NOT see the key (fourth). `None`: causal.
    ///   Rows padded on the right need no mask: no real token sees what comes after it.
    /// - returns `[batch, seq, hidden]`
    pub fn forward(
        &self,
        tokens: Tensor<B, 2, Int>,
        positions: Tensor<B, 2, Int>,
        mask: Option<Tensor<B, 4, Bool>>,
    ) -> Tensor<B, 3> {
        let [batch, seq] = tokens.dims();
        let device = tokens.device();
        let rotation = self.rope.rotation(positions);
        let mask = mask.unwrap_or_else(|| causal_mask(seq, &device));
        let mut x = self.embed_tokens(tokens);
        for layer in &self.layers {
            let h = layer.attention_norm.forward(x.clone());
            x = x + layer.attention.forward(h, batch, &rotation, &mask);
            let h = layer.mlp_norm.forward(x.clone());
            x = x + layer.mlp.forward(h);
        }
        let x = self.norm.forward(x);
        let hidden = self.hidden_size();
        x.reshape([batch, seq, hidden])
    }

    /// The next tokens of some rows of a cache; their keys and values are appended to it.
    ///
    /// `counts[i]` (at most `t`) is how many of the tokens of row `rows.start + i` are real; the others are padding on the
    /// right, whose output means nothing and which the cache forgets. Positions follow from the cache.
    ///
    /// # Shapes
    /// - tokens: `[rows.len(), t]`
    /// - returns `[rows.len(), t, hidden]`, after the final norm
    pub fn forward_cached(
        &self,
        tokens: Tensor<B, 2, Int>,
        cache: &mut KvCache<B>,
        rows: std::ops::Range<usize>,
        counts: &[usize],
    ) -> Tensor<B, 3> {
        let [batch, t] = tokens.dims();
        let device = tokens.device();
        let step = cache.begin(rows, t, counts, &device);
        let rotation = self.rope.rotation(step.positions.clone());
        let mut x = self.embed_tokens(tokens);
        for (index, layer) in self.layers.iter().enumerate() {
            let h = layer.attention_norm.forward(x.clone());
            x = x + layer.attention.forward_cached(h, &rotation, cache, index, &step);
            let h = layer.mlp_norm.forward(x.clone());
            x = x + layer.mlp.forward(h);
        }
        cache.commit(&step);
        let x = self.norm.forward(x);
        let hidden = self.hidden_size();
        x.reshape([batch, t, hidden])
    }

    /// Logits of hidden states: the last axis goes from `hidden` to `vocab`, the others stay.
    pub fn logits<const D: usize>(&self, hidden: Tensor<B, D>) -> Tensor<B, D> {
        let mut dims = hidden.dims();
        let rows: usize = dims[..D - 1].iter().product();
        let flat = hidden.reshape([rows, self.hidden_size()]);
        let logits = match &self.head {
            Some(head) => linear(flat, head.val()),
            None => linear(flat, self.embed.val().transpose()),
        };
        dims[D - 1] = self.vocab_size();
        logits.reshape(dims)
    }
}

impl<B: Backend> Transformer<B> {
    /// A network of nothing, to stand where one has been taken out.
    pub(crate) fn hollow(&self) -> Self {
        let device = self.embed.device();
        Self {
            embed: Param::from_tensor(Tensor::zeros([1, 1], &device)),
            layers: Vec::new(),
            norm: RmsNorm::ones(1, self.norm.eps, &device),
            head: None,
            rope: self.rope.clone(),
        }
    }

    pub fn hidden_size(&self) -> usize {
        self.embed.dims()[1]
    }

    pub fn vocab_size(&self) -> usize {
        self.embed.dims()[0]
    }

    /// `[batch, seq]` to `[batch * seq, hidden]`.
    fn embed_tokens(&self, tokens: Tensor<B, 2, Int>) -> Tensor<B, 2> {
        let [batch, seq] = tokens.dims();
        self.embed.val().select(0, tokens.reshape([batch * seq]))
    }
}

/// `[1, 1, seq, seq]`, true above the diagonal.
pub fn causal_mask<B: Backend>(seq: usize, device: &B::Device) -> Tensor<B, 4, Bool> {
    Tensor::<B, 2, Bool>::tril_mask([seq, seq], 0, device).reshape([1, 1, seq, seq])
}
