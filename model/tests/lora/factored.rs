//! The adapters' gradients against burn's own autodiff of `W0 + scale A^T B^T`, with A and B as its leaves.

use burn::module::Param;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};
use model::learner::Execution;
use model::lora::{Adapters, Target};
use model::network::Linear;

use crate::policy::{FAMILIES, network};
use crate::*;

type Leaf = Tensor<Cpu, 2>;

/// Columns of the targets that lie side by side in each linear layer, in the network's order.
fn fused(net: &Transformer<Cpu>) -> [(&'static [Target], Vec<usize>); 4] {
    let a = &net.layers[0].attention;
    let (q, kv, ff, d) =
        (a.heads * a.head_dim, a.kv_heads * a.head_dim, net.layers[0].mlp.down.weight.dims()[0], net.hidden_size());
    [
        (&[Target::QProj, Target::KProj, Target::VProj], vec![q, kv, kv]),
        (&[Target::OProj], vec![d]),
        (&[Target::GateProj, Target::UpProj], vec![ff, ff]),
        (&[Target::DownProj], vec![d]),
    ]
}

/// The network with leaves in it, and the leaves by name.
fn factored(base: &Transformer<Cpu>, adapters: &Adapters<Cpu>, scale: f64) -> (Transformer<Cpu>, Vec<(String, Leaf)>) {
    let mut net = base.clone();
    let mut leaves = Vec::new();
    let parts = fused(base);
    for (n, (layer, adapters)) in net.layers.iter_mut().zip(&adapters.layers).enumerate() {
        let linears: [&mut Linear<Cpu>; 4] =
            [&mut layer.attention.qkv, &mut layer.attention.output, &mut layer.mlp.gate_up, &mut layer.mlp.down];
        for (linear, (targets, widths)) in linears.into_iter().zip(&parts) {
            let (id, weight, mapper) = linear.weight.clone().consume();
            let weight = Leaf::from_inner(weight.inner());
            let [input, _] = weight.dims();
            let mut columns = Vec::new();
            let mut start = 0;
            for (target, width) in targets.iter().zip(widths) {
                let mut part = weight.clone().slice([0..input, start..start + width]);
                start += width;
                if let Some(adapter) = adapters.get(*target) {
                    let leaf = |p: &Param<Leaf>| Leaf::from_inner(p.val().inner()).require_grad();
                    let (a, b) = (leaf(&adapter.lora_a), leaf(&adapter.lora_b));
                    part = part + b.clone().matmul(a.clone()).transpose().mul_scalar(scale);
                    leaves.push((format!("layers.{n}.{}.lora_a", target.name()), a));
                    leaves.push((format!("layers.{n}.{}.lora_b", target.name()), b));
                }
                columns.push(part);
            }
            linear.weight = Param::from_mapped_value(id, Tensor::cat(columns, 1), mapper);
        }
    }
    (net, leaves)
}

/// Mean cross-entropy on the answers' tokens.
fn loss(net: &Transformer<Cpu>, samples: &[SftSample]) -> Tensor<Cpu, 1> {
    let (device, batch) = (Default::default(), samples.len());
    let rows: Vec<i64> = samples.iter().flat_map(|s| s.prompt.iter().chain(&s.tokens).map(|t| i64::from(*t))).collect();
    let (seq, prompt) = (rows.len() / batch, samples[0].prompt.len());
    let tokens = Tensor::<Cpu, 2, Int>::from_data(TensorData::new(rows, [batch, seq]), &device);
    let positions = Tensor::<Cpu, 1, Int>::arange(0..seq as i64, &device).reshape([1, seq]).repeat_dim(0, batch);
    let logits = net.logits(net.forward(tokens.clone(), positions, None));
    let answer = logits.narrow(1, prompt - 1, seq - prompt);
    let next = tokens.narrow(1, prompt, seq - prompt).reshape([batch, seq - prompt, 1]);
    log_softmax(answer, 2).gather(2, next).mean().neg()
}

/// Planted and seen to fail: the columns of gate for those of up, of k for those of q, and `scale` squared in dB.
#[test]
fn gradients_equal_autodiffs_of_the_factored_form() {
    for (family, targets) in
        FAMILIES.into_iter().zip([&Target::ALL[..], &[Target::KProj, Target::UpProj], &Target::ALL])
    {
        let base = network(family, 31);
        let mut config = lora(3, targets);
        config.rslora = targets.len() == 2;
        // A step from zero first, so that neither A nor B is.
        let mut first = learner(base.clone(), Execution::Host).with_lora(&config, 7).unwrap();
        for _ in 0..20 {
            first.sft_step(&examples(), 2).unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        first.save_adapter(&dir.path().join("a"), "base").unwrap();
        let adapters = first.lora().unwrap().adapters();
        let (net, leaves) = factored(&base, adapters, config.scale());
        let grads = loss(&net, &examples()).backward();
        assert_eq!(leaves.len(), 2 * 2 * targets.len());
        for execution in [Execution::Host, Execution::Autodiff] {
            let again = learner(base.clone(), execution).with_adapter(&dir.path().join("a")).unwrap();
            let found = gradients(again, &examples());
            assert_eq!(found.len(), leaves.len(), "{family:?}: {:?}", found.keys());
            for (name, leaf) in &leaves {
                let expected: Vec<f32> = leaf.grad(&grads).unwrap().into_data().iter::<f32>().collect();
                let gap = distance(&found[name], &expected);
                assert!(gap < 2e-5, "{family:?}, {execution:?}: {name} differs by {gap}");
            }
        }
    }
}
