//! What a candidate's process may say of its outputs, looked at by the trusted side alone.

use super::harness::run;

/// Planted bug: a forged shape is multiplied before it is looked at (8,000 numbers of a thousand bits take half a minute, a frame holds
/// twenty times as many), or becomes a shape by rounding.
#[test]
fn forged_shapes_are_refused_at_once() {
    run("
import time, torch, box, frames
memory = torch.zeros(1 << 16, dtype=torch.uint8)
view, blob = box.View(memory), bytearray(4096)
forged = [[1e308] * 170000, [10 ** 300] * 8000, [1 << 47] * 8000, [0] * 65, [-1], [2.0], [True], ['1'], 'abc', None, {'0': 1}, [1 << 49]]
began = time.perf_counter()
for shape in forged:
    entry = {'dtype': 'float32', 'shape': shape, 'at': 0, 'len': 4}
    for tensor in (view.tensor, lambda e: frames.tensor_from(e, blob)):
        try:
            tensor(entry)
        except ValueError:
            continue
        raise AssertionError(f'believed: {str(shape)[:60]}')
assert time.perf_counter() - began < 5, time.perf_counter() - began
right = {'dtype': 'float32', 'shape': [2, 3], 'at': 0, 'len': 24}
assert list(view.tensor(right).shape) == [2, 3] == list(frames.tensor_from(right, blob).shape)
assert frames.tensor_from({**right, 'shape': [1 << 40, 0], 'len': 0}, blob).numel() == 0
");
}

/// Planted bugs: outputs are copied before they are counted, and the memory ends first; `raised` in a draw that must not raise keeps the
/// repetition from being compared.
#[test]
fn outputs_are_counted_first_and_raising_excuses_nothing_but_another_shape() {
    run("
import torch, device, device_referee as d, plan
plan.small = True
source = '''import torch

class Model(torch.nn.Module):
    def forward(self, x):
        return x * 2

def get_inputs():
    return [torch.randn(1000, 100)]
'''
s = d.Session(device.up('cpu'), b'1' * 32, 't', 'n', source, 1 << 28)
copied = []
clone = torch.Tensor.clone
torch.Tensor.clone = lambda t, *a, **k: (copied.append(t.nbytes), clone(t, *a, **k))[1]
view = d.box.View(s.memory)
answers = {}
for n in range(len(d.DRAWN) + 1):
    wire = s.draw(n)
    if wire is None:
        continue
    at, size = s.layout.outputs[s.current]
    x = view.tensor(wire['inputs']['list'][0]['tensor'])
    shelf = d.box.Shelf(s.memory, s.layout.outputs[s.current])
    entry = {**shelf.add(x * 2), 'shared': False, 'overlaps': False}
    said = {'outputs': [entry], 'tree': 't', 'mutated': [], 'weights': 0, 'raised': None}
    if n == 0:
        copied.clear()
        assert s.ablated({'outputs': [entry] * 10000}) == {'unchanged': False}
        assert not copied, 'copied before they were counted'
        assert s.ablated({'outputs': [entry]}) == {'unchanged': True}
    last = n == len(d.DRAWN)
    if last:
        # Right within the tolerance, and not what the first draw had.
        view.tensor(entry).mul_(1 + 1e-6)
        said['raised'] = 'ValueError: so it says'
    verdict = s.compare(n, said)
    assert bool(verdict['wrong']) == last, (n, verdict)
");
}
