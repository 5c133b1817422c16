//! Parts of the Python harness by themselves.

use std::process::Command;

use super::environment;

/// Runs `code` beside the harness; `None` where there is no Python.
pub fn run(code: &str) -> Option<String> {
    let python = environment::python()?;
    let home = super::scratch();
    let harness = concat!(env!("CARGO_MANIFEST_DIR"), "/python");
    let mut command = Command::new(python);
    command.args(["-c", code]).current_dir(home.path()).env("PYTHONPATH", harness).env("PYTHONDONTWRITEBYTECODE", "1");
    let out = command.output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{text}");
    Some(text)
}

/// Planted bug: the inputs of a burst are in the box before its clock runs, each at the place where they were in the last one.
#[test]
fn timed_inputs_come_after_the_warm_up_and_to_places_that_nobody_could_foresee() {
    run("
import torch, box, device, device_referee as d
import plan
plan.small = True
source = '''import torch

class Model(torch.nn.Module):
    def forward(self, x):
        return x * 2

def get_inputs():
    return [torch.randn(1000, 100)]
'''
s = d.Session(device.up('cpu'), b'1' * 32, 't', 'n', source, 1 << 28)
view, seen = box.View(s.memory), []
for _ in range(6):
    said = s.burst(s.sets)
    entries = [c['inputs']['list'][0]['tensor'] for c in said['calls']]
    stand = [view.tensor(e) for e in entries]
    args = [t[1][0] for t in s.timed]
    assert not any(torch.equal(a, b) for a, b in zip(stand, args)), 'they are there already'
    s.fill()
    assert all(torch.equal(a, b) for a, b in zip(stand, args)), 'they are not there'
    at = [e['at'] for e in entries]
    assert len({b - a for a, b in zip(at, at[1:])}) > 2, at
    seen.append(at)
assert len({tuple(at) for at in seen}) == 6
assert s.check_burst({'outputs': []})['wrong'], 'another number of calls'
assert s.sets == 64
slots, contents = [], []
for _ in range(8):
    s.burst(16)
    s.fill()
    slots.append([t[2] for t in s.timed])
    contents += [t[1][0] for t in s.timed]
    assert len(set(slots[-1])) == 16, 'neighbours in one place'
assert len({tuple(found) for found in slots}) == 8 and len({n for found in slots for n in found}) > 48, slots
assert len({t.numpy().tobytes() for t in contents}) == 8 * 16, 'contents that were there before'
");
}

/// Planted bug: what a control of the bench asks for, the same call again and again, is what everybody is timed with.
#[test]
fn only_a_control_has_the_same_call_again_and_again() {
    run("
import torch, box, device, device_referee as d
import plan
plan.small = True
source = '''import torch

class Model(torch.nn.Module):
    def forward(self, x):
        return x * 2

def get_inputs():
    return [torch.randn(100, 10)]
'''
where = device.up('cpu')
seen = []
for one_place in (False, True):
    s = d.Session(where, b'1' * 32, 't', 'n', source, 1 << 28, *([True] if one_place else []))
    for _ in range(2):
        said = s.burst(16)
        s.fill()
        assert said['one_place'] is one_place and len(said['calls']) == len(s.timed) == 16
        places = {c['inputs']['list'][0]['tensor']['at'] for c in said['calls']}
        contents = {t[1][0].numpy().tobytes() for t in s.timed}
        assert len(places) == len(contents) == (1 if one_place else 16), (len(places), len(contents))
        outs = []
        for call in said['calls']:
            shelf = box.Shelf(s.memory, s.layout.outputs[call['set']])
            outs.append([shelf.add(box.View(s.memory).tensor(call['inputs']['list'][0]['tensor']) * 2)])
        assert s.check_burst({'outputs': outs})['wrong'] is None
        assert len(s.time_reference()['times']) == 16
        seen.append(contents)
assert not seen[2] & seen[3], 'the next burst is another call'
assert not d.Referee(None).one_place
");
}

/// Planted bug: small tensors are given more sets than the box may have.
#[test]
fn small_tensors_have_more_sets_and_a_box_stays_within_its_budget() {
    run("
import device_referee as d
mb = 1 << 20
assert d.sets_within(4096 * mb, 2 * mb) == 64
assert d.sets_within(4096 * mb, 5 * mb) == 51, 'the box stays small'
assert d.sets_within(4096 * mb, 16 * mb) == d.sets_within(4096 * mb, 200 * mb) == 16, 'as ever'
assert d.sets_within(64 * mb, 2 * mb) == 32 and d.sets_within(400 * mb, 200 * mb) == 2
assert [d.sets_within(4096 * mb, 2 * mb, n) for n in (0, 16, 32, 100)] == [64, 64, 32, 16], 'a frame says it all'
assert d.sets_within(100 * mb, 200 * mb) == d.sets_within(-mb, mb) == 2, 'who asks says that it does not fit'
for budget in range(4, 600, 7):
    for size in range(2, 100, 3):
        assert d.sets_within(budget * mb, size * mb) * size <= max(budget, 2 * size)
");
}

/// Planted bugs: a baseline of one input, always in the same place, which no timed call is; one whose bursts are all of the first's inputs;
/// one that goes on with a slow reference for as many calls as with a fast one.
#[test]
fn what_a_reference_takes_alone_is_measured_as_in_a_lease() {
    run("
import device, device_referee as d
import plan
plan.small = True
source = '''import time
import torch

class Model(torch.nn.Module):
    def forward(self, x):
        seen.append(x)
        time.sleep(pace[0])
        return x * 2

def get_inputs():
    return [torch.randn(10, 10)]

seen, pace = [], [0.0]
'''
s = d.Session(device.up('cpu'), b'1' * 32, 't', 'n', source, 1 << 28)
seen, pace = s.task.space['seen'], s.task.space['pace']
d.BASELINE_S = d.BASELINE_MORE_S = 600.0
seen.clear()
times = s.baseline()['times']
# Eight bursts of sixteen, of which the first call does not count, each after calls that only warm up.
assert len(times) == d.BASELINE_CALLS[1] == 8 * (d.SETS - 1), len(times)
bursts = [[x for x in seen[-n * (d.SETS + device.HEATING):][device.HEATING:][:d.SETS]] for n in range(8, 0, -1)]
for burst in bursts:
    assert len({t.data_ptr() for t in burst}) == d.SETS, 'neighbours in one place'
contents = [t.numpy().tobytes() for burst in bursts for t in burst]
assert len(set(contents)) == 8 * d.SETS, 'contents that were there before'
assert not set(contents) & {x.numpy().tobytes() for x in seen[:-8 * (d.SETS + device.HEATING)]}
# As many as are wanted, and no more where they take long; a very slow one has as many as there is time for.
d.BASELINE_MORE_S = 0.0
assert len(s.baseline()['times']) == 2 * (d.SETS - 1)
d.BASELINE_S, pace[0] = 0.2, 0.02
assert d.FEW_CALLS <= len(s.baseline()['times']) < 12
pace[0] = 0.2
assert len(s.baseline()['times']) == d.FEW_CALLS
");
}

/// Planted bug: the driver's list of processors holds some that a container does not have.
#[test]
fn processors_beside_a_gpu_are_used_as_far_as_they_may_be() {
    run("
import os, confine
mine = os.sched_getaffinity(0)
confine.beside([*mine, 4000])
assert os.sched_getaffinity(0) == mine
confine.beside([4000]), confine.beside([])
assert os.sched_getaffinity(0) == mine
one = min(mine)
confine.beside([one, 4000])
assert os.sched_getaffinity(0) == {one}
");
}

/// Planted bug: code that is imported or compiled opens the GPU, which nobody has let it onto yet.
#[test]
fn the_device_files_are_given_up_where_a_candidate_is_compiled() {
    let said = run("
import os, confine, landlock
version = landlock.abi()
confine.prctl(confine.PR_SET_NO_NEW_PRIVS, 1)
landlock.restrict(version, os.getcwd(), landlock.readable(), ['/dev/full'])
open('/dev/full', 'w').close()
if os.fork() == 0:
    landlock.without_nodes()
    try:
        open('/dev/full', 'w')
        os._exit(0 if version < 1 else 3)
    except PermissionError:
        pass
    open('kept', 'w').close()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
open('/dev/full', 'w').close()
print('landlock', version)
");
    if let Some(said) = said {
        assert!(said.contains("landlock"), "{said}");
    }
}

/// Planted bug: an error that repeats a candidate's words passes for the device's own.
#[test]
fn the_devices_failures_are_known_by_their_type() {
    run("
import torch, device_referee as d
assert d.is_ours(RuntimeError('CUDA error: an illegal memory access')) and d.is_ours(torch.OutOfMemoryError('x'))
assert d.is_ours(MemoryError()) and d.is_out_of_memory(RuntimeError('CUDA out of memory'))
for words in ('CUDA error', 'out of memory'):
    for kind in (ValueError, KeyError, TypeError):
        assert not d.is_ours(kind(words)), (kind, words)
");
}

/// Planted bug: a large tensor begins anywhere, as no user's does, and what two streams cost each other is measured along.
#[test]
fn large_tensors_begin_at_a_page_and_still_nobody_can_foresee_which() {
    run("
import torch, box, device, device_referee as d
import plan
plan.small = True
source = '''import torch

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.small = torch.nn.Parameter(torch.randn(77))
        self.large = torch.nn.Parameter(torch.randn(1500, 2000))

    def forward(self, x, y, z):
        return y * 2, x + y.sum() + z.sum() + self.small.sum() + self.large.sum()

def get_inputs():
    return [torch.randn(5), torch.randn(3000, 1000), torch.randn(2622, 1000)]

def get_init_inputs():
    return []
'''
budget = 600 << 20
s = d.Session(device.up('cpu'), b'1' * 32, 't', 'n', source, budget)
large = [3000 * 1000 * 4, 2622 * 1000 * 4]
assert large[1] >= box.LARGE and s.memory.numel() <= budget, s.memory.numel()
assert s.floor['bytes_in'] < 12_000_000 + sum(large) + 4 * box.ALIGN, 'what lies between two tensors is not read'
state = {name: tensor['tensor'] for name, tensor in s.job['state']}
assert state['large']['at'] % box.PAGE == 0 and state['small']['at'] == 0
firsts, seconds, view = set(), set(), box.View(s.memory)
for _ in range(8):
    said = s.burst(16)
    s.fill()
    for call, (seed, args, slot, part) in zip(said['calls'], s.timed):
        entries = [entry['tensor'] for entry in call['inputs']['list']]
        small, first, second = [entry['at'] for entry in entries]
        assert first % box.PAGE == second % box.PAGE == 0 and second >= first + large[0] and first >= small + 20
        assert all(torch.equal(view.tensor(entry), arg) for entry, arg in zip(entries, args))
        low, high = s.layout.inputs[slot]
        assert low <= small and second + large[1] <= low + high, 'outside of its part'
        check = lambda: d.changed(args, box.Shelf(s.memory, part), box.View(s.memory, part))
        assert check() == []
        view.tensor(entries[2])[-1, -1] += 1
        assert check() == [2]
        firsts.add(first)
    assert len({e['inputs']['list'][1]['tensor']['at'] for e in said['calls']}) == len(said['calls'])
assert len(firsts) > 2 * s.sets, sorted(firsts)
try:
    shelf = box.Shelf(s.memory, (0, 12 << 20))
    shelf.add(torch.zeros(13 << 20, dtype=torch.uint8))
except box.Full:
    assert shelf.add(torch.zeros(4))['at'] == 0, 'what did not fit took room'
else:
    raise AssertionError('it fits')
for n in range(6, 40):
    # Inputs of a large tensor, outputs of small ones: what is between them is in the budget, too.
    mixed = source.replace('return y * 2, x +', 'return x +').replace('3000, 1000', '3000, 10')
    budget = n * 20 << 20
    one = d.Session(device.up('cpu'), b'1' * 32, 't', 'n', mixed, budget)
    assert one.layout.size <= budget
    one.close()
");
}

/// Planted bug: what is looked at together passes where one of it would not, or is refused where it would.
#[test]
fn outputs_looked_at_together_are_judged_as_one_by_one() {
    run(r"
import random, time, torch, box, device, device_referee as d
import plan
plan.small = True
source = '''import torch

class Model(torch.nn.Module):
    def forward(self, x, n):
        y = x * 2 + n
        y = torch.where(x > 3, torch.full_like(y, float('nan')), torch.where(x < -3, torch.full_like(y, float('inf')), y))
        return y, (x * 4).to(torch.int32), n.mean(), n.half(), x > 0

def get_inputs():
    return [torch.randn(13, 10), torch.randn(10)]
'''
# Some calls at once, not all.
d.TOGETHER_BYTES = {'cpu': 16 << 10}
s = d.Session(device.up('cpu'), b'1' * 32, 't', 'n', source, 1 << 28)
rng = random.Random(7)

def answered():
    said, outs = s.burst(16), []
    s.fill()
    for call, (seed, args, slot, part) in zip(said['calls'], s.timed):
        shelf = box.Shelf(s.memory, s.layout.outputs[call['set']])
        outs.append([shelf.add(t) for t in s.expected(seed, args)[0]])
    return outs

def one_by_one(outs):
    for n, (timed, entries) in enumerate(zip(s.timed, outs)):
        wrong = s.check_call(f'timed call {n}', timed, entries, *s.expected(*timed[:2]))
        if wrong:
            return wrong

looked, alone = [], s.check_call
s.check_call = lambda name, *rest: looked.append(name) or alone(name, *rest)
kinds, counts = ['nothing', 'nan', 'far', 'near', 'int', 'flag', 'input', 'nan input', 'shape', 'dtype', 'place', 'fewer', 'words'], {}
for round in range(260):
    outs, kind = answered(), kinds[round % len(kinds)]
    n = rng.randrange(16)
    view, (seed, args, slot, part) = box.View(s.memory), s.timed[n]
    at = lambda i: view.tensor(outs[n][i]).view(-1)
    if kind == 'nan':
        at(rng.choice([0, 2, 3]))[0] = float('nan')
    elif kind == 'far':
        at(rng.choice([0, 2, 3])).nan_to_num_(0.0, 0.0, 0.0)[-1] += 1
    elif kind == 'near':
        at(0)[:] *= 1 + 1e-6
    elif kind == 'int':
        at(1)[rng.randrange(130)] += 1
    elif kind == 'flag':
        at(4)[5] ^= True
    elif kind in ('input', 'nan input'):
        where, arg = rng.choice(list(d.standing(args, box.Shelf(s.memory, part))))
        view.tensor(where).view(-1)[0] = 7 if kind == 'input' else float('nan')
    elif kind == 'shape':
        outs[n][0] = {**outs[n][0], 'shape': [10, 13]}
    elif kind == 'dtype':
        outs[n][0] = {**outs[n][0], 'dtype': 'int32'}
    elif kind == 'place':
        outs[n][0] = {**outs[n][0], 'at': -4}
    elif kind == 'fewer':
        outs[n].pop()
    elif kind == 'words':
        outs[n] = 'none'
    found = []
    for check in (lambda: s.check_burst({'outputs': outs})['wrong'], lambda: one_by_one(outs)):
        looked.clear()
        try:
            found.append(check())
        except ValueError as e:
            found.append(str(e))
        if len(found) == 1 and kind in ('nothing', 'near', 'far'):
            counts[kind] = counts.get(kind, 0) + len(looked)
    assert found[0] == found[1], (kind, found)
    assert (found[0] is None) == (kind in ('nothing', 'near')), (kind, found)
# Most are sure: what is expected to be no number (one call in a dozen) is looked at again.
assert counts['nothing'] < 20 * 16 / 2 and counts['near'] < 20 * 16 / 2, counts
");
}

/// Planted bugs: an infinite element allows every error in all others; a reference that writes into what it returned before makes honest
/// answers wrong.
#[test]
fn infinite_elements_excuse_nothing_and_a_reference_may_reuse_its_memory() {
    run(r"
import torch, box, device, device_referee as d
import plan
plan.small = True
source = '''import torch

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.kept = None

    def forward(self, x):
        if self.kept is None:
            self.kept = torch.empty_like(x)
        return self.kept.copy_(torch.where(x > 2, torch.full_like(x, float('inf')), x + 1))

def get_inputs():
    return [torch.randn(40, 10)]

def get_init_inputs():
    return []
'''
s = d.Session(device.up('cpu'), b'1' * 32, 't', 'n', source, 1 << 28)
for several in (1, 1 << 20):
    d.TOGETHER_BYTES = {'cpu': several}
    for garbage in (False, True):
        said, outs = s.burst(16), []
        s.fill()
        for n, (call, (seed, args, slot, part)) in enumerate(zip(said['calls'], s.timed)):
            y = torch.zeros(40, 10) if garbage and n == 5 else args[0] + 1
            shelf = box.Shelf(s.memory, s.layout.outputs[call['set']])
            inf = torch.full_like(y, float('inf'))
            outs.append([shelf.add(y if garbage and n == 5 else torch.where(args[0] > 2, inf, y))])
        assert (s.timed[5][1][0] > 2).any(), 'nothing infinite'
        wrong = s.check_burst({'outputs': outs})['wrong']
        assert (wrong is None) == (not garbage), (several, garbage, wrong)
        assert not garbage or wrong.startswith('timed call 5'), wrong
");
}

/// Planted bug: what is timed may leave undone what is asked of it when nobody times: a transpose that is a view.
#[test]
fn timed_outputs_are_in_order_where_that_is_asked() {
    run("
import box, device, device_referee as d
import plan
plan.small = True
source = '''import torch

class Model(torch.nn.Module):
    def forward(self, x):
        return x.t().contiguous()

def get_inputs():
    return [torch.randn(10, 20)]
'''
for asked in (True, False):
    task = source if asked else source.replace('.contiguous()', '.clone()')
    s = d.Session(device.up('cpu'), b'1' * 32, 't', 'n', task, 1 << 28)
    for several in (1, 1 << 20):
        d.TOGETHER_BYTES = {'cpu': several}
        for ordered in (True, False):
            said, outs = s.burst(16), []
            s.fill()
            for call, (seed, args, slot, part) in zip(said['calls'], s.timed):
                shelf = box.Shelf(s.memory, s.layout.outputs[call['set']])
                outs.append([{**shelf.add(args[0].t()), 'contiguous': ordered or len(outs) != 5}])
            wrong = s.check_burst({'outputs': outs})['wrong']
            assert (wrong is None) == (ordered or not asked), (asked, several, ordered, wrong)
            assert wrong is None or wrong.startswith('timed call 5'), wrong
");
}

/// Planted: rows far from zero whatever they are, tried once (as it was). Seen: targets that are probabilities no more; of one attention's
/// candidates some are asked and some are not.
#[test]
fn rows_far_from_zero_are_logits_and_are_asked_of_all_candidates() {
    run(r"
import torch, plan, referee
rows = torch.randn(8, 12)
far = lambda value: plan.transform([value], plan.FAR, 1, 4.0, True)[0]
moved = lambda value: not torch.equal(far(value), value)
assert moved(rows) and moved(torch.rand(8, 12)) and moved(torch.rand(5)) and moved(torch.tensor(1.0))
for target in (rows.softmax(-1), rows.softmax(0), rows.reshape(2, 3, 4, 4).softmax(1)):
    assert not moved(target), target
source = '''import torch

class Model(torch.nn.Module):
    def forward(self, q, k, v):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)

def get_inputs():
    return [torch.randn(2, 2, 16, 8) for _ in range(3)]
'''
asked = [any(d.kind == plan.FAR for d in referee.Prepared(b'1' * 32, 't', str(n), source).draws) for n in range(24)]
assert sum(asked) > 20, asked
");
}
